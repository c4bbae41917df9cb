"""Functions of the library called with an argument of another type, or beyond its range.

A refusal is a ValueError that names the argument or its value, or a TypeError, raised before anything is
compiled or written. A value of another kind than the good one is never accepted. An environment that is
already vectorised is refused wherever one instance is expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

import envs
from envs.render import renderer
from envs.transforms import action_repeat, history, residual, time_limit
from envs.vector import vectorize
from experiments.bench.hostile import (
    OPTIONS,
    TASK,
    VALUES,
    Case,
    Draw,
    numbered,
    outcome,
    small_run,
)
from jaxrl.cli import play, runs
from jaxrl.data import dataset as data
from jaxrl.data import files as data_files
from jaxrl.data import recording
from jaxrl.episodes import evaluate
from jaxrl.learners import registry
from jaxrl.learners.on_policy import ppo
from jaxrl.policies.scripted import scripted
from jaxrl.run import train as training

MORE = (
    (),
    (1,),
    (0, 0),
    "x" * 300,
    b"bytes",
    object,
    2**31,
    2**63,
    -1,
    0,
    np.float32(2),
    np.ones(2),
)
ALL = (*VALUES, *MORE)


class Reached(Exception):
    """The call got as far as compiling or running: its arguments were accepted."""


@dataclass(frozen=True)
class Call:
    """A function with good arguments, and what else an argument may be.

    `fine` says of an argument's name and value whether it is as good as the one in `good`; others
    may be refused or not.
    """

    name: str
    function: Callable[..., Any]
    good: dict[str, Any]
    fine: Callable[[str, Any], bool] = lambda name, value: False
    what: tuple[str, ...] = ()  # other words for the argument in a message


def prepare(root: Path) -> Draw:
    calls = made(root)
    return lambda number: draw(number, calls)


def draw(number: int, calls: list[Call]) -> Case:
    _, pick = numbered(number, 22)
    call = pick(calls)
    name, value = pick(list(call.good)), pick(ALL)
    if isinstance(call.good[name], envs.Env) and number % 2:
        value = vectorize(call.good[name], 2)
    return case(call, name, value)


def case(call: Call, name: str, value: Any) -> Case:
    nonsense = not call.fine(name, value) and is_nonsense(call.good[name], value)
    given = call.good | {name: value}

    def accepted() -> None:
        try:
            call.function(**given)
        except Reached:
            pass
        except TypeError as error:  # as Python says it
            raise ValueError(f"{name}: {str(error).splitlines()[0]}") from error

    return Case(
        f"{call.name}({name}={str(value)[:60]!r})",
        lambda: outcome([accepted], {name, str(value), *call.what}, nonsense, (ValueError,)),
    )


def is_nonsense(good: Any, value: Any) -> bool:
    """Whether `value` can stand for nothing where `good` is right."""
    number = lambda x: isinstance(x, int | float | np.number) and not isinstance(x, bool)
    if value is None:
        return False  # often the default
    if isinstance(good, bool) or good is None:
        return False  # anything is true or false
    if isinstance(good, int) and number(value):
        return not float(value).is_integer() or not 0 <= value < 2**31
    if isinstance(good, float) and isinstance(value, np.ndarray):
        return False  # a sweep
    if isinstance(good, float) and number(value):
        return math.isnan(value) or not abs(value) < 3.5e38
    kinds = (str | Path, int | float | np.number, tuple | list, dict)
    return not any(isinstance(good, kind) and isinstance(value, kind) for kind in kinds)


def made(root: Path) -> list[Call]:
    """Every call, with a small run and a data set below `root`."""
    run, _ = small_run(root)
    env = envs.make(TASK, **OPTIONS)
    learner = ppo.make(env, ppo.Config(num_envs=4, unroll_length=2, num_minibatches=1))
    policy, key = scripted(env), jax.random.key(0)
    rows, ends = np.zeros((4, 4)), np.array([False, True] * 2)
    dataset = data.from_arrays(rows, rows[:, :2], rows[:, 0], rows, ends, ends & ~ends)
    data_files.save(dataset, root / "data.npz")
    record = lambda **given: recording.record(policy, key=key, **given)
    calls = [
        Call("vectorize", vectorize, {"env": env, "num_envs": 2, "resets": "pool", "stagger": False}),
        Call("time_limit", lambda env, limit: time_limit(env, limit), {"env": env, "limit": 5}, what=("time_limit",)),
        Call("action_repeat", action_repeat, {"env": env, "n": 2}),
        Call("history", history, {"env": env, "n": 2}),
        Call("residual", residual, {"env": env, "base": policy, "scale": 0.1}),
        Call("envs.make", envs.make, {"name": TASK, "time_limit": 5, "mass": 1.0, "layout": "open"}, unlimited, what=("env",)),
        Call("renderer", renderer, {"env": env, "width": 32, "height": 32}),
        Call("scripted", scripted, {"env": env, "noise": 0.1, "bias": 0.1, "delay": 1, "mode": 0}),
        Call("load", data_files.load, {"path": root / "data.npz", "cut_at": 2}, of_a_path),
        Call("save", lambda path: data_files.save(dataset, path), {"path": root / "new.npz"}, of_a_path),
        Call("take", dataset.take, {"episodes": [0]}, one_episode, what=("episode", "episodes", "mask")),
        Call("weighted", dataset.weighted, {"temperature": 0.5}),
        Call("runs.load", runs.load, {"run_dir": run, "step": 8}, of_a_path),
        Call(
            "record",
            before_running(record, recording.episodes, "run"),
            {"env": env, "num_episodes": 2, "num_envs": 2},
        ),
        Call("evaluate", lambda env: evaluate(env, policy, jax.random.split(key, 2)), {"env": env}),
        Call(
            "play",
            before_running(play.play, play, "evaluate"),
            {"run_dir": run, "episodes": 2, "seed_index": 0, "step": 8, "width": 32, "height": 32, "seed": 0},
            of_a_path,
        ),
        Call(
            "train",
            before_running(training.train, training, "Program"),
            {
                "learner": learner,
                "total_steps": 16,
                "seeds": 1,
                "seed": 0,
                "sweep": {"gamma": [0.9]},
                "num_evals": 1,
                "eval_episodes": 2,
                "num_logs": 2,
                "devices": 1,
                "run_dir": root / "trained",
                "resume": False,
                "keep_checkpoints": 1,
                "profile": root / "profile",
                "start": None,
                "evaluate": None,
                "hooks": (),
                "make": None,
                "stop_at_return": 1.0,
                "keep_best": False,
            },
            of_a_path,
        ),
    ]  # fmt: skip
    calls += [of_config(name) for name in registry.LEARNERS]
    return calls


def of_a_path(name: str, value: Any) -> bool:
    """Any text that is not empty may name a file."""
    return name in ("path", "run_dir", "profile", "run") and isinstance(value, str) and value != ""


def one_episode(name: str, value: Any) -> bool:
    return isinstance(value, int)


def unlimited(name: str, value: Any) -> bool:
    """Infinity means no limit in many places; others refuse it."""
    return isinstance(value, float) and value > 3.5e38


def of_config(learner: str) -> Call:
    """The settings of a learner, as `make` checks them."""
    from jaxrl.config import check

    module = registry.module(learner)
    defaults = module.Config()
    defaults = defaults.scheduled(100) if hasattr(defaults, "scheduled") else defaults
    good = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    return Call(f"{learner}.Config", lambda **given: check(module.Config(**given)), good, unlimited)


def before_running(function: Callable, module: Any, name: str) -> Callable:
    """`function`, which raises `Reached` where it would call `name` of `module`."""

    def wrapped(**given: Any) -> Any:
        def reached(*_: Any, **__: Any) -> None:
            raise Reached

        kept = getattr(module, name)
        setattr(module, name, reached)
        try:
            return function(**given)
        finally:
            setattr(module, name, kept)

    return wrapped
