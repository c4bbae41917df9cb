"""Delays observations, rewards and actions, like sensors, networks and motors do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, check_count
from envs.types import Box, Env, State, check_instance, num_agents_of


@struct.dataclass
class Delay(Transform):
    """Its slot holds the queue, oldest first: {"obs": [k, ...], "reward": [k]}, and "action" [k, ...]
    where actions are delayed."""

    obs_steps: int = struct.field(pytree_node=False, default=0, kw_only=True)
    reward_steps: int = struct.field(pytree_node=False, default=0, kw_only=True)
    action_steps: int = struct.field(pytree_node=False, default=0, kw_only=True)

    def reset(self, key: jax.Array) -> State:
        state = self.env.reset(key)
        queue = {
            "obs": jax.tree.map(lambda x: jnp.stack([x] * (self.obs_steps + 1))[1:], state.obs),
            "reward": jnp.zeros((self.reward_steps, *state.reward.shape)),
        }
        if self.action_steps:
            queue["action"] = jnp.stack([_still(self.env)] * self.action_steps)
        return state.replace(info=state.info | {self.slot: queue})

    def step(self, state: State, action: jax.Array) -> State:
        queue = state.info[self.slot]
        actions = {}
        if self.action_steps:
            actions = {"action": _join(queue["action"], action)}
            action = actions["action"][0]
        state = self.env.step(state, action)
        queue = {name: queue[name] for name in ("obs", "reward")}
        line = jax.tree.map(_join, queue, {"obs": state.obs, "reward": state.reward})
        ended = state.terminated | state.truncated
        return state.replace(
            obs=jax.tree.map(lambda x: x[0], line["obs"]),
            reward=jnp.where(ended, line["reward"].sum(0), line["reward"][0]),
            info=state.info | {self.slot: jax.tree.map(lambda x: x[1:], line | actions)},
        )


def delay(env: Env, obs_steps: int = 0, reward_steps: int = 0, action_steps: int = 0) -> Delay:
    """Delivers observations, rewards and actions that many control steps late.

    The episode's first observation is repeated until the first late one arrives. Until the first late
    action arrives, the action is 0, or the bound nearest to 0. When an episode of `env` ends, all
    queued rewards are paid at once, so returns are unchanged. Time limits belong inside: a time limit
    around this loses the queued rewards when it ends an episode. Flags, metrics and signals are not
    delayed.

    Raises:
      ValueError: a negative number of steps.
    """
    check_instance(env)
    check_count("obs_steps", obs_steps, 0)
    check_count("reward_steps", reward_steps, 0)
    check_count("action_steps", action_steps, 0)
    return Delay(env, obs_steps=obs_steps, reward_steps=reward_steps, action_steps=action_steps)


def _still(env: Env) -> jax.Array:
    """The action 0, or the bound nearest to it: one, or [A, ...] of an environment with agents."""
    space, agents = env.action_space, num_agents_of(env)
    shape = space.shape if agents is None else (agents, *space.shape)
    still = jnp.zeros(shape, space.dtype)
    return jnp.clip(still, space.lows, space.highs) if isinstance(space, Box) else still


def _join(queue: jax.Array, x: Any) -> jax.Array:
    return jnp.concatenate([queue, jnp.asarray(x, queue.dtype)[None]])
