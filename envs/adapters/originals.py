"""Gymnasium's own MuJoCo tasks, of which `envs/tasks/gymnasium/` holds ports to MJX."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from envs.gl import mujoco
from envs.registry import nearest

# The name in our registry: the id in Gymnasium.
ORIGINALS = {
    "ant": "Ant-v5",
    "half_cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "humanoid": "Humanoid-v5",
    "humanoid_standup": "HumanoidStandup-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "pusher": "Pusher-v5",
    "reacher": "Reacher-v5",
    "swimmer": "Swimmer-v5",
    "walker2d": "Walker2d-v5",
}
OF_MJX = ("physics", "impl")  # options of our simulator, which C MuJoCo does not have


def check_original(name: str | None) -> str:
    """Returns the id in Gymnasium of a task of ours.

    Raises:
      ValueError: the task is no port of a Gymnasium task.
    """
    if name not in ORIGINALS:
        raise ValueError(
            f"env={name!r}: not a task of Gymnasium; allowed are {', '.join(sorted(ORIGINALS))}"
        )
    return ORIGINALS[name]


def make_original(name: str, **overrides: Any) -> gymnasium.Env:
    """Returns Gymnasium's environment, simulated by C MuJoCo, of which ours is a port.

    Args:
      name: of our task.
      **overrides: as for `envs.make`. Options of a task have Gymnasium's names. `time_limit` is
        Gymnasium's `max_episode_steps`. `physics` and `impl` are left out, because C MuJoCo has
        one physics.

    Raises:
      ValueError: the task is no port of a Gymnasium task, or Gymnasium's has no such option.
    """
    id = check_original(name)
    options = {k: v for k, v in overrides.items() if k not in OF_MJX}
    if "time_limit" in options:
        limit = options.pop("time_limit")
        options["max_episode_steps"] = -1 if limit is None else limit  # -1: none
    task = load_env_creator(gymnasium.spec(id).entry_point)
    allowed = {*inspect.signature(task.__init__).parameters, "max_episode_steps"}
    for key in options:
        if key not in allowed - {"self", "kwargs"}:
            raise ValueError(f"{id} has no option {key!r}{nearest(key, allowed)}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    with _without_deprecations():
        return gymnasium.make(id, disable_env_checker=True, **options)


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """MuJoCo says what Gymnasium's model files should no longer contain. No user can change them."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda x: "deprecated" in x or print(x, file=sys.stderr))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
