"""What an unroll teaches beside the networks: advantages, value targets and normalisers."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxrl.loops.unroll import Advantage, OnPolicy, OnPolicyState, Rewards, Unroll


def estimate(
    state: OnPolicyState,
    unroll: Unroll,
    last_value: Any,
    rewards: Rewards,
    advantage: Advantage,
    shapes: OnPolicy,
) -> tuple[jax.Array, Any]:
    """Returns advantages and value targets, in scaled reward.

    Args:
      state: after the unroll was collected.
      unroll: [T, N, ...].
      last_value: of the observations after the unroll, leaves [N, ...].
      rewards, advantage: the seams.
      shapes: the static settings.
    """
    scale = state.config.reward_scale
    if shapes.normalize_reward:
        moments = state.return_moments
        scale *= jnp.where(moments.count > 0, jax.lax.rsqrt(moments.var + 1e-8), 1.0)
    reward = rewards(unroll, state.extra, state.config)
    chex.assert_equal_shape([reward, unroll.reward])

    def one_step_on(value, last, final):
        following = jnp.concatenate([value[1:], last[None]])
        like_value = lambda x: x.reshape(x.shape + (1,) * (following.ndim - x.ndim))
        return jnp.where(like_value(unroll.truncated), final, following)

    next_value = jax.tree.map(one_step_on, unroll.value, last_value, unroll.final_value)
    unroll = unroll.replace(reward=reward * scale)
    found, targets = advantage(unroll, next_value, state.extra, state.config)
    chex.assert_equal_shape_prefix([found, unroll.reward], 2)
    return found, targets


def renew_moments(
    state: OnPolicyState, unroll: Unroll, shapes: OnPolicy, axis_name: str | None
) -> OnPolicyState:
    """The state with the normalisers' statistics of one more unroll, of all devices."""
    weight, obs, returns = unroll.valid * 1.0, state.obs_moments, state.return_moments
    if shapes.normalize_obs:
        obs = obs.update(unroll.obs, weight, axis_name)
    if shapes.normalize_reward:
        returns = returns.update(unroll.discounted, weight, axis_name, robust=False)
    return state.replace(obs_moments=obs, return_moments=returns)
