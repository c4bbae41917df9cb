"""Gaussian noise on observations, rewards and actions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.transforms.base import Transform
from envs.types import Box, Env, Space, State, check_instance


@struct.dataclass
class Noise(Transform):
    """Its slot holds a key. The standard deviations are leaves."""

    obs_std: Any = struct.field(default=0.0, kw_only=True)
    reward_std: Any = struct.field(default=0.0, kw_only=True)
    action_std: Any = struct.field(default=0.0, kw_only=True)

    @property
    def observation_space(self) -> Space:
        """The space without bounds, because noise exceeds them."""
        space = self.env.observation_space
        if not isinstance(space, dict):
            return Box(space.shape)
        return space | {name: Box(space[name].shape) for name in self._stds(space)}

    def reset(self, key: jax.Array) -> State:
        k_next, k_obs = jax.random.split(self.own_key(key))
        return self._finish(self.env.reset(key), k_next, k_obs)

    def step(self, state: State, action: jax.Array) -> State:
        keys = jax.random.split(state.info[self.slot], 4)
        k_next, k_obs, k_reward, k_action = keys
        space = self.env.action_space
        if isinstance(space, Box):
            noisy = action + self.action_std * jax.random.normal(k_action, jnp.shape(action))
            action = jnp.clip(noisy, space.lows, space.highs)
        state = self.env.step(state, action)
        reward = state.reward + self.reward_std * jax.random.normal(k_reward, state.reward.shape)
        return self._finish(state.replace(reward=reward), k_next, k_obs)

    def _finish(self, state: State, k_next: jax.Array, k_obs: jax.Array) -> State:
        obs = state.obs
        if isinstance(obs, dict):
            stds = self._stds(obs)
            keys = dict(zip(stds, jax.random.split(k_obs, len(stds)), strict=True))
            obs = obs | {k: _jitter(keys[k], obs[k], std) for k, std in stds.items()}
        else:
            obs = _jitter(k_obs, obs, self.obs_std)
        return state.replace(obs=obs, info=state.info | {self.slot: k_next})

    def _stds(self, obs: dict[str, Any]) -> dict[str, Any]:
        """Returns the standard deviation of every noisy entry of a dict observation."""
        if isinstance(self.obs_std, dict):
            return self.obs_std
        return {
            name: self.obs_std
            for name, x in obs.items()
            if name != "goal" and np.dtype(x.dtype) != bool
        }


def noise(env: Env, obs_std: Any = 0.0, reward_std: Any = 0.0, action_std: Any = 0.0) -> Noise:
    """Adds normal noise with these standard deviations (>= 0, in the units of each signal).

    Args:
      obs_std: a number or an array that broadcasts to the observation. For a dict
        observation a number is for every entry but `goal`, a dict names the entries.
      reward_std: for the reward of every step.
      action_std: for the action, which is then clipped to its space.

    Raises:
      ValueError: a negative standard deviation, an `obs_std` that does not fit the
        observation, or noise on discrete actions.
    """
    check_instance(env)
    new = Noise(env, obs_std=obs_std, reward_std=reward_std, action_std=action_std)
    for name in ("obs_std", "reward_std", "action_std"):
        for std in jax.tree.leaves(getattr(new, name)):
            if not isinstance(std, jax.core.Tracer) and not (np.asarray(std) >= 0).all():
                raise ValueError(f"{name}={getattr(new, name)!r}: must be at least 0")
    space = env.observation_space
    if isinstance(obs_std, dict):
        known = set(space) if isinstance(space, dict) else set()
        if set(obs_std) - known:
            raise ValueError(f"obs_std={obs_std!r}: the observation has entries {sorted(known)}")
    entries = new._stds(space) if isinstance(space, dict) else {"obs": obs_std}
    for name, std in entries.items():
        shape = space[name].shape if isinstance(space, dict) else space.shape
        try:
            fits = np.broadcast_shapes(np.shape(std), shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"obs_std of shape {np.shape(std)}: must broadcast to {name} {shape}")
    discrete = not isinstance(env.action_space, Box)
    if discrete and (isinstance(action_std, jax.core.Tracer) or np.any(np.asarray(action_std))):
        raise ValueError(f"action_std={action_std!r}: discrete actions take no noise")
    return new


def _jitter(key: jax.Array, x: jax.Array, std: Any) -> jax.Array:
    return x + std * jax.random.normal(key, x.shape)
