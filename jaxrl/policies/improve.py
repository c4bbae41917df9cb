"""Better actions than those that were sampled: operators on candidates and their values.

They are pure functions on ONE state; batch them by `vmap`. `q(candidates [N, ...]) -> [N]` values
candidates that share the leading axis, such as actions [N, A] or chunks of actions [N, h, A].
A candidate that is not finite, or whose value is not, is never preferred to another one.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

Value = Callable[[jax.Array], jax.Array]  # candidates [N, ...] to values [N]


def best_of(q: Value, candidates: jax.Array) -> jax.Array:
    """Returns the candidate [...] of the highest value; of equal ones the first.

    Raises:
      ValueError: there is no candidate (N = 0), here and below.
    """
    return candidates[values_of(q, candidates).argmax()]


def softmax_of(
    q: Value, candidates: jax.Array, temperature: jax.Array | float, key: jax.Array
) -> jax.Array:
    """Draws a candidate [...] with probability proportional to exp(q / temperature).

    A temperature of 0 is `best_of`. It may be traced.
    """
    return candidates[drawn(values_of(q, candidates), temperature, key)]


def top_of(q: Value, candidates: jax.Array, count: int) -> jax.Array:
    """Returns the `count` candidates [count, ...] of the highest values, the best first.

    Raises:
      ValueError: `count` is below 1 or above N.
    """
    values = values_of(q, candidates)
    if not 1 <= count <= len(values):
        raise ValueError(f"count={count}: must be at least 1, at most N={len(values)}")
    return candidates[jax.lax.top_k(values, count)[1]]


def ascend(
    q: Value, actions: jax.Array, steps: int, rate: jax.Array | float, limit: float = 1.0
) -> jax.Array:
    """Moves each of `actions` [N, ...] up the gradient of its own value: a <- clip(a + rate dq/da).

    The gradient is that of the sum of all values, so that a step does not depend on N (PA-RL, Mark
    et al. 2024). A gradient that is not finite moves nothing.

    Args:
      steps: at least 0, static.
      rate: a step, in units of an action per unit of the gradient. It may be traced.
      limit: actions are clipped to [-limit, limit] after each step.

    Returns:
      for each action the best of its `steps` + 1 iterates, the start and the last one included.
    """
    _check_count(actions)

    def with_values(actions):
        values = q(actions)
        chex.assert_shape(values, (len(actions),))
        return values.sum(), values

    gradient = jax.grad(with_values, has_aux=True)

    def better(actions, values, best):
        old, old_values = best
        values = _finite(values, actions)
        wider = (slice(None), *(None,) * (actions.ndim - 1))
        improved = values > old_values
        return jnp.where(improved[wider], actions, old), jnp.maximum(values, old_values)

    def one(loop, _):
        actions, best = loop
        grads, values = gradient(actions)
        best = better(actions, values, best)
        moved = actions + rate * jnp.where(jnp.isfinite(grads), grads, 0.0)
        return (jnp.clip(moved, -limit, limit), best), None

    start = actions, jnp.full(len(actions), -jnp.inf)
    (last, best), _ = jax.lax.scan(one, (actions, start), None, steps)
    return better(last, q(last), best)[0]


def values_of(q: Value, candidates: jax.Array) -> jax.Array:
    """Returns the values [N], -inf for a candidate that is not finite or whose value is not."""
    _check_count(candidates)
    values = q(candidates)
    chex.assert_shape(values, (len(candidates),))
    return _finite(values, candidates)


def drawn(values: jax.Array, temperature: jax.Array | float, key: jax.Array) -> jax.Array:
    """Draws an index [] int32 with probability proportional to exp(values / temperature).

    A value of -inf is drawn only if all are -inf; then the index is 0. This is the argmax of
    values + temperature * Gumbel noise, so a temperature of 0 needs no division.
    """
    chex.assert_rank(values, 1)
    return (values + temperature * jax.random.gumbel(key, values.shape)).argmax()


def _finite(values: jax.Array, candidates: jax.Array) -> jax.Array:
    flat = candidates.reshape(len(candidates), -1)
    return jnp.where(jnp.isfinite(values) & jnp.isfinite(flat).all(-1), values, -jnp.inf)


def _check_count(candidates: jax.Array) -> None:
    if candidates.ndim < 1 or not len(candidates):
        raise ValueError(f"candidates of shape {candidates.shape}: N must be at least 1")
