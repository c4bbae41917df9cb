"""Conditions that stay branches when runs are batched by `vmap`.

JAX turns a `cond` with a batched predicate into a `select`, which computes both branches. The
predicates here are reduced over the batched runs, so the branch is real for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_batching.custom_vmap
def same_in_runs(x: jax.Array) -> jax.Array:
    """Returns `x` unbatched. It has the same value in every vmapped run, so a condition on it stays
    a branch."""
    return x


@same_in_runs.def_vmap
def _(axis_size, batched, x):
    return same_in_runs(x[0]), False


@jax.custom_batching.custom_vmap
def in_any_run(x: jax.Array) -> jax.Array:
    """Returns whether the bool `x` [] is True in any vmapped run, unbatched."""
    return x


@in_any_run.def_vmap
def _(axis_size, batched, x):
    return in_any_run(x.any(0)), False


def update_if(
    condition: jax.Array, update: Callable[[Any], tuple[Any, Any]], state: Any
) -> tuple[Any, Any]:
    """Applies `update` if `condition`, else returns the state unchanged and metrics of NaN.

    The condition must be unbatched. This is a loop of 0 or 1 iterations, because such a loop
    updates the state in place.
    """
    shapes = jax.eval_shape(update, state)[1]
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
    turns = condition.astype(jnp.int32)
    return jax.lax.fori_loop(0, turns, lambda _, loop: update(loop[0]), (state, nothing))
