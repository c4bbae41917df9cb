"""Stacks the last few observations, from which velocities and delays can be inferred."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.transforms.base import Transform, box, check_count
from envs.types import Box, Discrete, Env, MultiDiscrete, Space, State, check_instance


@struct.dataclass
class History(Transform):
    """Its slot holds the stacked entries {name: [..., n * size]}, newest first."""

    n: int = struct.field(pytree_node=False, kw_only=True)
    actions: bool = struct.field(pytree_node=False, default=False, kw_only=True)

    @property
    def observation_space(self) -> Space:
        space = self.env.observation_space
        stacked = {}
        for name, entry in _entries(space).items():
            bounds = [np.concatenate([b] * self.n, axis=-1) for b in (entry.lows, entry.highs)]
            stacked[name] = box(*bounds, entry.dtype)
        if self.actions:
            entry, action = stacked["obs"], self.env.action_space
            low, high = (action.lows, action.highs) if isinstance(action, Box) else (0.0, 1.0)
            size = _size(action)
            # Zeros stand before the first action, even if the bounds exclude 0.
            low = np.minimum(np.broadcast_to(np.ravel(low), (size,)), 0.0)
            high = np.maximum(np.broadcast_to(np.ravel(high), (size,)), 0.0)
            stacked["obs"] = box(
                np.concatenate([entry.lows, *[low] * self.n]),
                np.concatenate([entry.highs, *[high] * self.n]),
            )
        return space | stacked if isinstance(space, dict) else stacked["obs"]

    def reset(self, key: jax.Array) -> State:
        state = self.env.reset(key)
        window = {
            name: jnp.concatenate([x] * self.n, axis=-1) for name, x in _entries(state.obs).items()
        }
        if self.actions:
            window["actions"] = jnp.zeros(self.n * _size(self.env.action_space))
        return self._show(state, window)

    def step(self, state: State, action: jax.Array) -> State:
        window = state.info[self.slot]
        state = self.env.step(state, action)
        new = dict(_entries(state.obs))
        if self.actions:
            new["actions"] = _vector(action, self.env.action_space)
        push = lambda x, old: jnp.concatenate([x, old[..., : old.shape[-1] - x.shape[-1]]], axis=-1)
        return self._show(state, {name: push(x, window[name]) for name, x in new.items()})

    def _show(self, state: State, window: dict[str, jax.Array]) -> State:
        shown = {name: x for name, x in window.items() if name != "actions"}
        if self.actions:
            shown["obs"] = jnp.concatenate([shown["obs"], window["actions"]])
        obs = state.obs | shown if isinstance(state.obs, dict) else shown["obs"]
        return state.replace(obs=obs, info=state.info | {self.slot: window})


def history(env: Env, n: int, actions: bool = False) -> History:
    """Stacks the last `n` observations on their last axis, newest first.

    An episode starts with `n` copies of its first observation. In a dict every entry except `goal`
    and booleans is stacked. The newest comes first, so a task's `achieved_goal` also works on a
    stacked observation.

    Args:
      n: how many observations; >= 1.
      actions: append the last `n` actions to the observation (of a dict: to its entry
        "obs"), newest first, one-hot if discrete (entry by entry), zeros before the first.

    Raises:
      ValueError: `n` < 1; an observation is a scalar or an integer; `actions` without a vector
        observation "obs" to append them to.
    """
    check_instance(env)
    check_count("n", n, 1)
    entries = _entries(env.observation_space)
    for name, entry in entries.items():
        if not isinstance(entry, Box) or not entry.shape:
            raise ValueError(f"history: observation {name!r} is {entry}: must be a Box with axes")
    if actions and ("obs" not in entries or len(entries["obs"].shape) != 1):
        raise ValueError("actions=True: needs a vector observation 'obs' to append the actions to")
    return History(env, n=n, actions=actions)


def _entries(obs: Any) -> dict[str, Any]:
    """Returns the entries to stack, of an observation or its space. A single array is called "obs"."""
    if isinstance(obs, dict):
        return {name: x for name, x in obs.items() if name != "goal" and np.dtype(x.dtype) != bool}
    return {"obs": obs}


def _vector(action: jax.Array, space: Box | Discrete | MultiDiscrete) -> jax.Array:
    """Returns an action as a vector [_size(space)]; integers are one-hot."""
    if isinstance(space, Box):
        return jnp.ravel(action)
    if isinstance(space, Discrete):
        return jax.nn.one_hot(action, space.n)
    return jnp.concatenate([jax.nn.one_hot(a, n) for a, n in zip(action, space.nvec, strict=True)])


def _size(action_space: Box | Discrete | MultiDiscrete) -> int:
    if isinstance(action_space, Discrete):
        return action_space.n
    if isinstance(action_space, MultiDiscrete):
        return sum(action_space.nvec)
    return int(np.prod(action_space.shape))
