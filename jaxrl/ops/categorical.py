"""Distributions of returns on a fixed grid (C51, HL-Gauss)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def project(probs: jax.Array, moved: jax.Array, atoms: jax.Array) -> jax.Array:
    """Projects distributions `probs` [B, n] on `moved` [B, n] onto the grid `atoms` [n].

    A distribution within the grid keeps its mean (C51, Bellemare et al. 2017, arXiv 1707.06887,
    algorithm 1).
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


def histogram(value: jax.Array, atoms: jax.Array, spread: float = 0.75) -> jax.Array:
    """Returns the distribution [*B, n] over the grid `atoms` [n] that stands for `value` [*B].

    The probability of an atom is the mass of a Gaussian at `value` within half a step of the atom,
    divided by the mass on the whole grid (HL-Gauss, Imani & White 2018; Farebrother et al. 2024,
    arXiv 2403.03950). Its standard deviation is `spread` steps. A value beyond the grid counts as
    the grid's end. The mean of the distribution is the value, except within some steps of an end,
    where half of the Gaussian is missing.
    """
    chex.assert_rank(atoms, 1)
    step = atoms[1] - atoms[0]
    edges = jnp.append(atoms - 0.5 * step, atoms[-1] + 0.5 * step)  # [n + 1]
    value = jnp.clip(value, atoms[0], atoms[-1])[..., None]
    below = jax.scipy.stats.norm.cdf((edges - value) / (spread * step))  # [*B, n + 1]
    return jnp.diff(below) / (below[..., -1:] - below[..., :1])
