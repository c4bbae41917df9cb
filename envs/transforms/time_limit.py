"""Ends an episode by the clock: `truncated`, never `terminated`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, check_count
from envs.types import Env, State, check_instance


@struct.dataclass
class TimeLimit(Transform):
    """Its slot counts the steps of this episode."""

    limit: int = struct.field(pytree_node=False, kw_only=True)

    def reset(self, key: jax.Array) -> State:
        state = self.env.reset(key)
        return state.replace(info=state.info | {self.slot: jnp.zeros((), jnp.int32)})

    def step(self, state: State, action: jax.Array) -> State:
        clock = state.info[self.slot] + 1
        state = self.env.step(state, action)
        return state.replace(
            truncated=state.truncated | (clock >= self.limit),
            info=state.info | {self.slot: clock},
        )

    def stagger(self, state: State, key: jax.Array) -> State:
        """Returns `state` with a random time on the clock, within the limit."""
        clock = jax.random.randint(key, (), 0, self.limit, jnp.int32)
        return state.replace(info=state.info | {self.slot: clock})


def time_limit(env: Env, limit: int) -> TimeLimit:
    """Truncates episodes after `limit` steps.

    Raises:
      ValueError: `limit` < 1.
    """
    check_instance(env)
    check_count("time_limit", limit, 1)
    return TimeLimit(env, limit=limit)
