"""Random settings of every learner: each trains two steps or is refused in one line.

    python experiments/bench/fuzz.py --configs 500

About two fields of a small configuration are replaced, by good values and bad. A
refusal is a ValueError of one line that names something; anything else (another exception, a
hang) counts against us, and is printed with the settings that show it again:
`--first 17 --configs 1`. Exit code 1 if there was any.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import signal
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import numpy as np
import tyro

import envs
from jaxrl import data, runtime, script, terminal
from jaxrl.train import train

OFFLINE = ("bc", "td3_bc", "iql", "imitation")
LEARNERS = ("ppo", "sac", "td3", "dsac", "mdpo", "pmoe", *OFFLINE)
SMALL = {
    "num_envs": 8,
    "unroll_length": 2,
    "num_minibatches": 2,
    "num_epochs": 1,
    "updates_per_step": 2,
    "policy_delay": 1,
    "batch_size": 8,
    "replay_size": 64,
    "learning_starts": 8,
    "actor_hidden": (4,),
    "critic_hidden": (4,),
    "hidden": (4,),
    "horizon": 4,
    "execute": 2,
    "denoise_steps": 2,
    "width": 8,
    "layers": 1,
}
CHANGED = 2.0  # fields, on average
NUMBERS = (0.0, -1.0, 1e-3, 0.5, 0.95, 1.0, 3.0, 1e6, math.inf, math.nan)
COUNTS = (-1, 0, 1, 2, 3, 4, 8, 16)
TUPLES = ((), (4,), (4, 8), (0,), ("obs",), ("nonsense",))
WORDS = ("", "nonsense") + tuple(
    "linear cosine adaptive constant clip mdpo normal tanh_normal relu tanh gelu min mean flow"
    " diffusion gaussian mlp transformer open_loop ensemble streaming pool fresh cached".split()
)
TASKS = ("point_maze_open", "pendulum_swingup", "gymnax/Pendulum-v1", "gymnax/CartPole-v1")


@dataclass
class Args:
    configs: int = 500
    first: int = 0
    seconds: int = 300  # for one of them, until it counts as a hang
    tasks: tuple[str, ...] = TASKS


class Hang(Exception):
    pass


def draw(number: int, tasks: tuple[str, ...]) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Learner, task, settings, and arguments of `train`; the same ones for the same number."""
    rng = np.random.default_rng([number, 20])
    pick = lambda values: values[rng.integers(len(values))]
    name, task = pick(LEARNERS), pick(tasks)
    config = import_module(f"jaxrl.learners.{name}").Config()
    settings = {k: v for k, v in SMALL.items() if hasattr(config, k)}
    fields = dataclasses.fields(config)
    for field in fields:
        if rng.random() > CHANGED / len(fields):
            continue
        old = getattr(config, field.name)
        kind = next(k for k in (bool, int, float, str, tuple) if isinstance(old, k))
        values = {bool: (False, True), int: COUNTS, float: NUMBERS, str: WORDS, tuple: TUPLES}[kind]
        settings[field.name] = pick(values)
    how = {
        "seeds": pick((1, 1, 1, 1, 1, 2, 2, 0)),
        "num_evals": pick((1, 0)),
        "eval_episodes": pick((1, 2)),
    }
    if rng.random() < 0.1:
        how["sweep"] = {
            pick(("gamma", "learning_rate", "nonsense")): pick(([0.5, 0.9], [], [math.nan]))
        }
    return name, task, settings, how


def one(number: int, tasks: tuple[str, ...]) -> str:
    """Trains two steps. "trained", or why it was refused; raises what should not be."""
    name, task, settings, how = draw(number, tasks)
    module = import_module(f"jaxrl.learners.{name}")
    try:
        env = envs.make(task)
        config = module.Config(**settings)
        if name in OFFLINE:
            learner = module.make(env, config, recorded(env))
        else:
            learner = module.make(env, config)
        train(learner, 2 * learner.steps_per_iteration, quiet=True, **how)
    except ValueError as error:
        text = str(error)
        if "\n" in text.strip() or not text.strip() or isinstance(error, jax.errors.JAXTypeError):
            raise
        return text.strip()
    return "trained"


def recorded(env: Any) -> data.Dataset:
    """Ten episodes of ten random steps."""
    rng, size = np.random.default_rng(0), 100
    obs = jax.tree.map(
        lambda x: rng.normal(size=(size, *x.shape)).astype(np.float32),
        jax.eval_shape(env.reset, jax.random.key(0)).obs,
    )
    action = rng.uniform(-1, 1, (size, *env.action_space.shape))
    no, ends = np.zeros(size, bool), np.arange(size) % 10 == 9
    return data.from_arrays(obs, action, np.ones(size), obs, no, ends)


def main() -> int:
    args = tyro.cli(Args)
    runtime.setup(1)
    jax.config.update("jax_disable_most_optimizations", True)  # half of the time to compile
    started, outcomes, bad = time.time(), collections.Counter(), []

    def too_long(*_):
        raise Hang(f"more than {args.seconds} s")

    signal.signal(signal.SIGALRM, too_long)
    for number in range(args.first, args.first + args.configs):
        signal.alarm(args.seconds)
        try:
            outcome = one(number, args.tasks)
            if outcome != "trained":
                outcome = "refused: " + outcome.split("=")[0][:60]
        except Exception as error:
            outcome = f"broke: {type(error).__name__}"
            line = (str(error).strip().splitlines() or [""])[0][:100]
            bad.append(number)
            print(f"{number}: {outcome}: {line}\n  {draw(number, args.tasks)}", flush=True)
        signal.alarm(0)
        outcomes[outcome] += 1
        if number % 20 == 19:
            jax.clear_caches()
            print(
                f"{number + 1 - args.first}: {dict(outcomes)}, {time.time() - started:.0f} s",
                flush=True,
            )
    terminal.table(
        "Random settings", ["outcome", "how many"], [[k, v] for k, v in outcomes.items()]
    )
    return 1 if bad else 0


if __name__ == "__main__":
    script.run(main)
