"""Hostile inputs, a module for each kind; `fuzz.py --hostile N` tries them.

A kind's `prepare(root)` writes what its inputs start from below the folder `root`, and returns a function
that draws an input by its number, the same one for the same number. `Case.outcome` feeds it to the
library. An input must be refused by one line that names what is wrong, or be harmless. What is neither
raises: another error, a second line, nonsense that is accepted.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

# Values of every type that JSON and Python have, and numbers at their limits.
VALUES = (
    *(None, True, False, 0, 1, -5, 3, 1.0, 2.5, -0.5, 1e39, 10**30, float("inf"), float("nan")),
    *("", "nonsense", "5", "inf", [], [1], ["a"], [[1.0, [2.0]]], [None], {}, {"a": 1}, {"": {}}),
)

TASK, OPTIONS = "point_maze_open", {"time_limit": 12, "reward": "dense"}
SMALL = {
    "num_envs": 4,
    "unroll_length": 2,
    "num_minibatches": 1,
    "actor_hidden": (4,),
    "critic_hidden": (4,),
}


@dataclass(frozen=True)
class Case:
    """One hostile input."""

    what: str  # in one line
    outcome: Callable[[], str]  # what became of it, as "refused" or "accepted"


Draw = Callable[[int], Case]


def numbered(number: int, salt: int) -> tuple[np.random.Generator, Callable[[Any], Any]]:
    """The random numbers of one input, and a function that picks an entry by them."""
    rng = np.random.default_rng([number, salt])
    return rng, lambda values: values[int(rng.integers(len(values)))]


def outcome(
    calls: Iterable[Callable[[], Any]],
    names: Iterable[str],
    nonsense: bool,
    errors: tuple = (ValueError, RuntimeError),
) -> str:
    """Makes every call and returns "refused" if one was refused, else "accepted".

    Args:
      calls: what the input is given to.
      names: a refusal must have one of these among its words.
      nonsense: one of the calls must refuse it.
      errors: the types of a refusal.

    Raises:
      RuntimeError: nonsense was accepted, or a refusal was not one line that names what is wrong.
    """
    refusals = []
    for call in calls:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                call()
            except errors as error:
                if isinstance(error, jax.errors.JAXTypeError):
                    raise
                refusals.append(str(error))
    for text in refusals:
        check_line(text, names)
    if nonsense and not refusals:
        raise RuntimeError("nonsense was accepted")
    return "refused" if refusals else "accepted"


def check_line(text: str, names: Iterable[str]) -> None:
    """Raises RuntimeError unless `text` is one line with one of `names` among its words."""
    words = re.split(r"[^\w.+-]+", text)
    if "\n" in text.strip() or not set(names) & {*words, *(w.strip(".-") for w in words)}:
        raise RuntimeError(f"not one line that names {' or '.join(sorted(names))}: {text}")


def kind_of(value: Any) -> str:
    kinds = ((bool, "bool"), (int, "number"), (float, "number"), (str, "text"), (list, "list"))
    return next((name for of, name in kinds if isinstance(value, of)), type(value).__name__)


def small_run(root: Path, **more: Any) -> tuple[Path, dict[int, Any]]:
    """Writes an untrained run of PPO with two seeds, whose `train` settings have `more` entries.

    Returns its folder and what its checkpoints hold, by their steps.
    """
    import envs
    from jaxrl.learners.on_policy import ppo
    from jaxrl.report import log
    from jaxrl.run import checkpoint, folder

    run, env = root / "run", envs.make(TASK, **OPTIONS)
    learner = ppo.make(env, ppo.Config(**SMALL))
    train = {"total_steps": 16, "seeds": 2, "seed": 0, "num_evals": 2, "eval_episodes": 2}
    train |= {"devices": 1} | more
    about = folder.describe("ppo", TASK, OPTIONS, learner.config, train)
    folder.write_config(run, about | {"command": ["ppo.py", "--seeds", "2"]})
    init = jax.jit(jax.vmap(learner.init))
    with log.Logger(run, 16, seeds=2, quiet=True, tensorboard=False) as out:
        for step in (0, 8, 16):
            returns = np.array([1.0, 2.0]) * step
            out.log("eval", step, step / 8, 1.0, {"return": returns, "success": returns})
    saved = {}
    for step in (8, 16):
        saved[step] = {"learner": init(jax.random.split(jax.random.key(step), 2))}
        checkpoint.save(run / "checkpoints", step, saved[step], about={"num_envs": 4})
    return run, saved
