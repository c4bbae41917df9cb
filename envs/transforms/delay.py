"""Delays observations and rewards, like sensors and networks do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, check_count
from envs.types import Env, State, check_instance


@struct.dataclass
class Delay(Transform):
    """Its slot holds the queue, oldest first: {"obs": [k, ...], "reward": [k]}."""

    obs_steps: int = struct.field(pytree_node=False, default=0, kw_only=True)
    reward_steps: int = struct.field(pytree_node=False, default=0, kw_only=True)

    def reset(self, key: jax.Array) -> State:
        state = self.env.reset(key)
        queue = {
            "obs": jax.tree.map(lambda x: jnp.stack([x] * (self.obs_steps + 1))[1:], state.obs),
            "reward": jnp.zeros((self.reward_steps, *state.reward.shape)),
        }
        return state.replace(info=state.info | {self.slot: queue})

    def step(self, state: State, action: jax.Array) -> State:
        queue = state.info[self.slot]
        state = self.env.step(state, action)
        line = jax.tree.map(_join, queue, {"obs": state.obs, "reward": state.reward})
        ended = state.terminated | state.truncated
        return state.replace(
            obs=jax.tree.map(lambda x: x[0], line["obs"]),
            reward=jnp.where(ended, line["reward"].sum(0), line["reward"][0]),
            info=state.info | {self.slot: jax.tree.map(lambda x: x[1:], line)},
        )


def delay(env: Env, obs_steps: int = 0, reward_steps: int = 0) -> Delay:
    """Delivers observations `obs_steps` and rewards `reward_steps` control steps late.

    The episode's first observation is repeated until the first late one arrives. When an episode
    of `env` ends, all queued rewards are paid at once, so returns are unchanged. Time limits
    belong inside: a time limit around this loses the queued rewards when it ends an episode. Flags,
    metrics and signals are not delayed.

    Raises:
      ValueError: a negative number of steps.
    """
    check_instance(env)
    check_count("obs_steps", obs_steps, 0)
    check_count("reward_steps", reward_steps, 0)
    return Delay(env, obs_steps=obs_steps, reward_steps=reward_steps)


def _join(queue: jax.Array, x: Any) -> jax.Array:
    return jnp.concatenate([queue, jnp.asarray(x, queue.dtype)[None]])
