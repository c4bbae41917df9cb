"""The base of all transforms: an environment that passes through what it does not change.

A transform may read only `state.info[self.slot]` of the state that it is given. `obs`, `reward` and
the two flags of that state are what the outermost environment reported last: another transform may
have changed them, and they may belong to the episode before.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import struct

from envs.types import Box, Env, Space


@struct.dataclass
class Transform:
    """An environment around `env`. Attributes it lacks are read from `env`."""

    env: Env

    @property
    def observation_space(self) -> Space:
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    @property
    def slot(self) -> str:
        """This transform's key of `state.info`: its class name, and how many of the class are inside.

        The inner `TimeLimit` has "time_limit", a second one around it "time_limit_1".
        """
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        env, depth = self.env, 0
        while isinstance(env, Transform):
            depth += type(env).__name__ == type(self).__name__
            env = env.env
        return f"{name}_{depth}" if depth else name

    def own_key(self, key: jax.Array) -> jax.Array:
        """Returns a key for this transform's draws. `env.reset` still gets `key` itself, so it starts
        as it would without the transform."""
        return jax.random.fold_in(key, zlib.crc32(self.slot.encode()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":  # not yet built, or a protocol probe
            raise AttributeError(name)
        return getattr(self.env, name)


def on_task(env: Env, change: Callable[[Env], Env]) -> Env:
    """Returns `env` with the task below all transforms replaced by `change(task)`."""
    if isinstance(env, Transform):
        return env.replace(env=on_task(env.env, change))
    return change(env)


def box(low: np.ndarray, high: np.ndarray, dtype: Any = np.float32) -> Box:
    """Returns the `Box` with these bounds, stored as one number if all entries are equal."""
    return Box(low.shape, _bound(low), _bound(high), dtype)


def check_count(name: str, value: int, least: int) -> None:
    """Raises ValueError unless `value` is an integer of at least `least` that an int32 holds."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or not least <= value < 2**31:
        raise ValueError(f"{name}={value!r}: must be an integer, at least {least} and below 2^31")


def _bound(x: np.ndarray) -> Any:
    if x.size and (x == x.flat[0]).all():
        return x.flat[0].item()
    nested = lambda rows: tuple(map(nested, rows)) if isinstance(rows, list) else rows
    return nested(x.tolist())
