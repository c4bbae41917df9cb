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


def to_go(
    reward: jax.Array, ended: jax.Array, after: jax.Array, gamma: jax.Array | float
) -> jax.Array:
    """Discounted returns from each step to the end of its episode.

        R_t = r_t + gamma * (after_t if ended_t else R_{t+1})

    All arrays are [T, ...], episodes one after another; the last step counts as an end. `after` is
    the value of what comes after an episode's last step: 0 where the MDP terminated, -inf where it
    is not known.
    It takes log2(T) passes, because each step is an affine map of the next return.
    """
    chex.assert_equal_shape([reward, ended, after])
    last = ended.at[-1].set(True)
    decay = jnp.where(last, 0.0, gamma)
    gain = reward + gamma * jnp.where(last, after, 0.0)

    def compose(later, earlier):
        rest = jnp.where(earlier[0] == 0.0, 0.0, earlier[0] * later[1])  # later[1] may be -inf
        return later[0] * earlier[0], earlier[1] + rest

    return jax.lax.associative_scan(compose, (decay, gain), reverse=True)[1]
