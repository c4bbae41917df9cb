"""Options of environments beyond what a number holds, as `--env-options` gives them.

An option is refused by its name, or the environment is made. Where it is made and breaks, what breaks
can be named. Environments that MJX simulates are made, and not stepped.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import envs
from envs.broken import what_breaks
from experiments.bench.hostile import Case, Draw, numbered, outcome
from jaxrl.cli import script

LARGE = ("3e9", "1e20", "1e39", "-1e39", "1e400", "-1e400", "1" * 400, "9" * 5000, "1e-400")
TEXTS = (
    *LARGE,
    *("0", "-1", "0.0", "1e-30", "2147483648", "nan", "inf", "-inf", "None", "true", "0x10", "1_0"),
    *("-" * 100_000 + "1", "(" * 5000, "[1, 2]", "(3, 1)", "(1e39, 2)", "(0, nan)", "()", "{}"),
    *("'x'", "", " ", "nonsense", "__import__('os')", "1 + 1", "1j", "b'x'", "½", "٣"),
)
TASKS = (
    *("point_maze_open", "cruise", "meeting", "matrix_game", "gymnax/Pendulum-v1"),
    *("gymnax/CartPole-v1", "pendulum_swingup", "cartpole_swingup", "hopper", "push_t"),
    "peg_insertion",
)


def prepare(root: Path) -> Draw:
    options = {task: names_of(task) for task in TASKS}
    return lambda number: draw(number, options)


def names_of(task: str) -> list[str]:
    """The options of a task."""
    env = envs.make(task)
    inner = getattr(env, "env", env)
    of = inner.params if task.startswith("gymnax/") else inner
    return [f.name for f in dataclasses.fields(of) if f.name != "sim"] + ["time_limit"]


def draw(number: int, options: dict[str, list[str]]) -> Case:
    _, pick = numbered(number, 19)
    task = pick(list(options))
    name, text = pick(options[task]), pick(TEXTS)
    simulated = not task.startswith(("gymnax/", "point_maze", "cruise", "meeting", "matrix"))
    shown = text if len(text) < 40 else f"{text[:20]}..."

    def make() -> None:
        env = envs.make(task, **script.numbers({name: text}))
        if not simulated:
            what_breaks(envs.check(env))

    names = {name, "env_options", "option"}
    return Case(f"{task} {name}={shown}", lambda: outcome([make], names, is_nonsense(text)))


def is_nonsense(text: str) -> bool:
    """Whether it is a number that float32 does not hold, or no value at all."""
    value = _value(text)
    return isinstance(value, float | int) and not abs(value) < 3.41e38


def _value(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return None
    # `inf` and `nan` are words here: Python's literals have no such numbers.
    return value if math.isfinite(value) or text.strip("-")[0].isdigit() else None
