"""`brax/NAME`: the environments of the installed Brax."""

from __future__ import annotations

import inspect

from envs.adapters.suite import adapt, check_kinds, check_name, load_suite
from envs.registry import limited
from envs.types import Env

EPISODE_LENGTH = 1000  # what `brax.envs.create` and Brax's trainers use


def make(task: str, *, time_limit: int | None = EPISODE_LENGTH, **overrides) -> Env:
    """Builds a Brax environment, without Brax's episode and auto-reset wrappers.

    Args:
      task: a name Brax has registered, e.g. "ant".
      time_limit: in control steps; None: no limit.
      **overrides: arguments of the environment's constructor, among them `backend`
        ("mjx", "positional", "spring" or "generalized") and `n_frames`.

    Raises:
      ImportError: Brax is not installed.
      ValueError: unknown task, override or backend, or a value of the wrong kind.
    """
    envs = load_suite("brax.envs", "brax", "pip install brax")
    check_name("Brax task", task, envs._envs)
    cls = envs._envs[task]
    arguments = dict(inspect.signature(cls).parameters)
    if task != "fast":  # which has no physics pipeline and would ignore what is for one
        arguments = dict(inspect.signature(envs.PipelineEnv).parameters) | arguments
    allowed = arguments.keys() - {"kwargs", "sys"}
    for name in overrides:
        check_name(f"option of brax/{task}", name, allowed | {"time_limit"})
    check_kinds(f"brax/{task}", overrides, {k: p.default for k, p in arguments.items()})
    if "backend" in overrides:
        backends = ("mjx", "positional", "spring", "generalized")
        check_name("Brax backend", overrides["backend"], backends)
    # Not `create`: its defaults add auto-reset and a time limit reported as `done`.
    return limited(adapt(envs.get_environment(task, **overrides)), time_limit)
