"""Distributions of returns on a fixed grid (C51, Bellemare et al. 2017, arXiv 1707.06887)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def project(probs: jax.Array, moved: jax.Array, atoms: jax.Array) -> jax.Array:
    """Projects distributions `probs` [B, n] on `moved` [B, n] onto the grid `atoms` [n].

    A distribution within the grid keeps its mean (C51, algorithm 1).
    """
    chex.assert_equal_shape([probs, moved])
    chex.assert_shape(atoms, probs.shape[-1:])
    step = atoms[1] - atoms[0]
    place = jnp.clip((moved - atoms[0]) / step, 0.0, atoms.shape[0] - 1.0)  # [B, n]
    low = jnp.floor(place).astype(jnp.int32)
    share = place - low  # 0 where `place` is whole: all of the mass stays at `low`
    rows = jnp.arange(probs.shape[0])[:, None]
    high = jnp.minimum(low + 1, atoms.shape[0] - 1)
    onto = jnp.zeros_like(probs).at[rows, low].add(probs * (1.0 - share))
    return onto.at[rows, high].add(probs * share)
