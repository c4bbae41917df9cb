"""Conservative regularisers of critics."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def gap(sampled: jax.Array, log_density: jax.Array, bound: jax.Array, data: jax.Array) -> jax.Array:
    """Returns how much sampled actions are worth more than those of the data. [C, B]

        log sum_k exp(max(Q(s, a_k), bound_k) - log density(a_k)) - Q(s, a)

    It is the regulariser of CQL(H) with importance weights (Kumar et al. 2020, eq. 4 and appendix F),
    and with bounds that of Cal-QL (Nakamoto et al. 2023, eq. 5.1): a value that is already below its
    bound is not pushed down.

    Args:
      sampled: [K, C, B] values of K actions by C critics.
      log_density: [K, B] of the distributions that they were drawn from.
      bound: [K, B], -inf for none.
      data: [C, B] values of the recorded actions.
    """
    chex.assert_equal_shape([log_density, bound])
    chex.assert_shape(sampled, (len(bound), *data.shape))
    bounded = jnp.maximum(sampled, bound[:, None])
    return jax.nn.logsumexp(bounded - log_density[:, None], 0) - data
