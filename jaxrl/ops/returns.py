"""Returns and advantages over time-major trajectories [T, N]."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    gamma: jax.Array | float,
    gae_lambda: jax.Array | float,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Generalised advantage estimates, GAE(lambda) (Schulman et al. 2016, eq. 16).

    All arrays are [T, N]. `next_value[t]` is the value of the observation after action t. At the
    end of an episode that is the FINAL observation, not the next episode's first. The recursion
    is cut where `done`, and bootstraps there unless `terminated`.
    Where `valid` is False the advantage is 0.

    Returns:
      advantages [T, N]; `advantage + value` is the TD(lambda) value target.
    """
    chex.assert_equal_shape([value, next_value])
    chex.assert_equal_rank([reward, value, terminated, done])
    chex.assert_equal_shape_prefix([reward, value, terminated, done], 1)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    if valid is not None:
        delta = jnp.where(valid, delta, 0.0)
    decay = gamma * gae_lambda * (1.0 - done.astype(value.dtype))

    def backwards(advantage, x):
        delta, decay = x
        advantage = delta + decay * advantage
        return advantage, advantage

    _, advantage = jax.lax.scan(
        backwards, jnp.zeros_like(value[0]), (delta, decay), reverse=True, unroll=8
    )
    return advantage
