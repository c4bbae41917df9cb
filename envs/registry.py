"""`make(name, **overrides)` and `names()`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import inspect
import math
import numbers
import os
import sys
import traceback
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from envs.transforms.time_limit import time_limit
from envs.types import Env

CLASSIC, GYMNASIUM = "envs.tasks.classic", "envs.tasks.gymnasium"
MANIPULATION = "envs.tasks.manipulation"
LOCOMOTION = "envs.tasks.locomotion"


class Task(NamedTuple):
    """Where a registered task is found."""

    module: str
    cls: str
    limit: int  # control steps; Gymnasium's limits for Gymnasium's tasks
    fields: dict[str, Any] = {}  # that differ from the class's defaults


# Entries are plain data, so that a listing imports no task.
TASKS: dict[str, Task] = {
    "ant": Task(GYMNASIUM + ".ant", "Ant", 1000),
    "assembly": Task(MANIPULATION + ".assembly", "Assembly", 200),
    "biped_velocity": Task(LOCOMOTION + ".velocity", "BipedVelocity", 500),
    "cartpole_swingup": Task(CLASSIC + ".cartpole_swingup", "CartpoleSwingup", 500),
    "cruise": Task(CLASSIC + ".cruise", "Cruise", 50),
    "half_cheetah": Task(GYMNASIUM + ".half_cheetah", "HalfCheetah", 1000),
    "hopper": Task(GYMNASIUM + ".hopper", "Hopper", 1000),
    "humanoid": Task(GYMNASIUM + ".humanoid", "Humanoid", 1000),
    "humanoid_standup": Task(GYMNASIUM + ".humanoid_standup", "HumanoidStandup", 1000),
    "inverted_double_pendulum": Task(
        GYMNASIUM + ".inverted_double_pendulum", "InvertedDoublePendulum", 1000
    ),
    "inverted_pendulum": Task(GYMNASIUM + ".inverted_pendulum", "InvertedPendulum", 1000),
    "matrix_game": Task(CLASSIC + ".matrix_game", "MatrixGame", 25),
    "meeting": Task(CLASSIC + ".meeting", "Meeting", 25),
    "peg_insertion": Task(MANIPULATION + ".peg_insertion", "PegInsertion", 100),
    "peg_insertion_3d": Task(MANIPULATION + ".peg_insertion", "PegInsertion3D", 100),
    "pendulum_swingup": Task(CLASSIC + ".pendulum_swingup", "PendulumSwingup", 200),
    "pick_place": Task(MANIPULATION + ".pick_place", "PickPlace", 100),
    "point_maze": Task(CLASSIC + ".point_maze", "PointMaze", 150),
    "point_maze_large": Task(CLASSIC + ".point_maze", "PointMaze", 300, {"layout": "large"}),
    "point_maze_medium": Task(CLASSIC + ".point_maze", "PointMaze", 200, {"layout": "medium"}),
    "point_maze_open": Task(CLASSIC + ".point_maze", "PointMaze", 100, {"layout": "open"}),
    "point_maze_toll": Task(CLASSIC + ".point_maze", "PointMaze", 100, {"layout": "toll"}),
    "push_t": Task(MANIPULATION + ".push_t", "PushT", 200),
    "pusher": Task(GYMNASIUM + ".pusher", "Pusher", 100),
    "quadruped_velocity": Task(LOCOMOTION + ".velocity", "QuadrupedVelocity", 500),
    "reacher": Task(GYMNASIUM + ".reacher", "Reacher", 50),
    "swimmer": Task(GYMNASIUM + ".swimmer", "Swimmer", 1000),
    "walker2d": Task(GYMNASIUM + ".walker2d", "Walker2d", 1000),
}
_registered: dict[str, Callable[..., Env]] = {}
GROUP = "jaxrl.envs"  # of the entry points by which an installed package names its environments


def register(name: str, make: Callable[..., Env]) -> None:
    """Makes `envs.make(name, **overrides)` return `make(**overrides)` in this process.

    Args:
      name: not taken yet; without "/" and ":".
      make: returns one environment, with its time limit if it has one.

    Raises:
      ValueError: the name is taken or has a "/" or ":".
    """
    if name in TASKS or name in _registered:
        raise ValueError(f"name={name!r}: is registered already")
    if not name or set(name) & set("/:"):
        raise ValueError(f"name={name!r}: must be non-empty, without '/' and ':'")
    _registered[name] = make


LARGEST = 3.4028234e38  # that float32 holds


def names() -> list[str]:
    """The tasks of this project, of `register` and of installed packages.

    Other suites are reached as `brax/NAME`, `playground/NAME`, `gymnax/NAME`, and every task from
    pictures as `pixels/NAME`.
    """
    return sorted(TASKS.keys() | _registered.keys() | {point.name for point in _installed()})


def _installed() -> list[importlib.metadata.EntryPoint]:
    """The entry points of the group `jaxrl.envs`; none of them is imported."""
    found = importlib.metadata.entry_points(group=GROUP)
    return [point for point in found if not set(point.name) & set("/:")]


def _entry(name: str) -> importlib.metadata.EntryPoint | None:
    """The entry point of that name.

    Raises:
      ValueError: two packages have it.
    """
    # A package that is found in two folders of sys.path has the same entry twice.
    found = {(point.value, _package(point)): point for point in _installed() if point.name == name}
    if len(found) > 1:
        packages = " and ".join(sorted(_package(point) for point in found.values()))
        raise ValueError(
            f"env={name!r}: the packages {packages} both have it, give MODULE:FUNCTION"
        )
    return next(iter(found.values()), None)


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


def _from_package(point: importlib.metadata.EntryPoint, overrides: dict[str, Any]) -> Env:
    """What the function of an entry point returns."""
    try:
        build = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"env={point.name!r}: cannot load {point.value!r} of the package {_package(point)} ({error})"
        ) from None
    return _built(point.name, point.value, build, overrides)


def _remembered(make: Callable[..., Env]) -> Callable[..., Env]:
    """`make`, whose environments `made_by` knows as long as they live."""

    @functools.wraps(make)
    def wrapped(name: str, **overrides) -> Env:
        try:
            env = make(name, **overrides)
        except ArithmeticError as error:
            raise ValueError(f"env={name!r}: {arithmetic(error)}") from None
        key = id(env)
        forget = lambda _: _made.pop(key, None)
        _made[key] = weakref.ref(env, forget), name, overrides
        return env

    return wrapped


# By the identity of the environment, which its fields may not hash.
_made: dict[int, tuple[weakref.ref, str, dict[str, Any]]] = {}


def made_by(env: Any) -> tuple[str, dict[str, Any]] | None:
    """The name and the overrides that `make` made this very object from; None: it did not."""
    reference, name, overrides = _made.get(id(env), (lambda: None, "", {}))
    return (name, overrides) if reference() is env else None


@_remembered
def make(name: str, **overrides) -> Env:
    """Builds an environment with its time limit.

    Args:
      name: one of `names()` (ours, those of `register`, and entry points `jaxrl.envs` of installed packages), `SUITE/NAME` for an installed suite (brax, playground, gymnax),
        `pixels/NAME` for the task with pictures (`envs.transforms.pixels.make`), or
        `MODULE:FUNCTION` for your own: a function, of a module on PYTHONPATH or in the current directory, that returns an
        `Env` and takes the overrides.
      **overrides: fields of the task (reward weights, ranges, ...), `time_limit`
        in control steps (None: no limit), and for MJX tasks `physics` ("accurate":
        the model's own solver options; "fast": the task's `FAST` options; for ports of
        Gymnasium's also "balanced", whose policies carry over to the original) and
        `impl` ("jax" or "warp").

    Raises:
      ValueError: unknown name or override, with the nearest matches, or a value of the wrong
        kind.
    """
    if not isinstance(name, str):
        raise ValueError(f"env={name!r}: must be text")
    if ":" in name:
        return _own(name, overrides)
    if "/" in name:
        suite, _, task = name.partition("/")
        if suite == "pixels":
            return importlib.import_module("envs.transforms.pixels").make(task, **overrides)
        if suite not in ("brax", "playground", "gymnax"):
            raise ValueError(
                f"unknown suite {suite!r} in {name!r}: allowed are brax, playground, gymnax, pixels"
            )
        return importlib.import_module(f"envs.adapters.{suite}").make(task, **overrides)
    if name in _registered:
        return _built(name, name, _registered[name], overrides)
    if name not in TASKS and (point := _entry(name)):
        return _from_package(point, overrides)
    if name not in TASKS:
        raise ValueError(
            f"unknown task {name!r}{nearest(name, names())}; known: {', '.join(names())}"
        )
    task = TASKS[name]
    cls = getattr(importlib.import_module(task.module), task.cls)
    limit = overrides.pop("time_limit", task.limit)
    fields = {f.name: f.default for f in dataclasses.fields(cls) if f.name != "sim"}
    build = {"physics", "impl"} if hasattr(cls, "simulator") else set()
    for key in overrides:
        if key not in fields.keys() | build:
            allowed = sorted(fields.keys() | build | {"time_limit"})
            raise ValueError(
                f"task {name!r} has no option {key!r}{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
            )
    # Tuples come back from JSON as lists.
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items() if k in fields}
    for key, value in given.items():
        check_option(f"task {name!r}: {key}", value, fields[key])
    given = task.fields | given
    if build:
        given["sim"] = cls.simulator(**{k: v for k, v in overrides.items() if k in build})
    env = cls(**given)
    return limited(env, limit)


def _own(name: str, overrides: dict[str, Any]) -> Env:
    """What the function of `MODULE:FUNCTION` returns."""
    path, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # last, so that it hides no installed package
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(path)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"env={name!r}: cannot import {path!r} ({error}); is its folder on PYTHONPATH or the current one?"
        ) from None
    build = getattr(module, function, None)
    if not callable(build):
        near = nearest(function, vars(module))
        raise ValueError(f"env={name!r}: {path} has no function {function!r}{near}")
    return _built(name, function, build, overrides)


def _built(name: str, function: str, build: Callable[..., Env], overrides: dict[str, Any]) -> Env:
    """The environment that a user's function makes."""
    try:
        inspect.signature(build).bind(**overrides)
    except TypeError as error:
        raise ValueError(f"env={name!r}: {function} {error}") from None
    env = build(**overrides)
    if not (callable(getattr(env, "reset", None)) and callable(getattr(env, "step", None))):
        raise ValueError(f"env={name!r}: must return an Env, not {type(env).__name__}")
    return env


def limited(env: Env, limit: int | None) -> Env:
    """`env` with a time limit, unless that is None."""
    return env if limit is None else time_limit(env, limit)


def check_option(name: str, value: Any, default: Any) -> None:
    """Raises ValueError unless `value` is of the kind of `default`; text the tasks check."""
    if isinstance(default, bool):
        fits, allowed = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        fits = isinstance(value, numbers.Integral) and is_number(value) and 1 <= value < 2**31
        large = isinstance(value, numbers.Integral) and value >= 2**31
        allowed = f"an integer, at {f'most {2**31 - 1}' if large else 'least 1'}"
    elif isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default)
        fits, allowed = fits and all(map(is_number, value)), f"{len(default)} numbers"
        if len(default) == 2:  # a range
            fits, allowed = fits and value[0] < value[1], "2 numbers, the lower first"
    else:
        fits, allowed = isinstance(default, str) or is_number(value), "a number"
    if not fits:
        raise ValueError(f"{name}={value!r}: must be {allowed}, by default {default!r}")


def is_number(x: Any) -> bool:
    """A scalar array, or a number that float32 holds; infinity is one, NaN is none."""
    if isinstance(x, jax.Array):
        return x.ndim == 0
    if not isinstance(x, numbers.Real) or isinstance(x, bool):
        return False
    try:
        return math.isinf(x) or abs(float(x)) <= LARGEST
    except OverflowError:
        return False


def arithmetic(error: ArithmeticError) -> str:
    """Such as "float division by zero in `dt / frame_skip` (line 7 of task.py)", for one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"`{frame.line}` (line {frame.lineno} of {os.path.basename(frame.filename)})"
    return f"{error} in {where}: an option is out of range"


def nearest(word: str, words) -> str:
    """', did you mean ...?' or nothing."""
    close = difflib.get_close_matches(word, list(words), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(close)}?" if close else ""
