"""Learning-rate schedules that work with traced numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

KINDS = ("constant", "linear", "cosine", "adaptive")


def next_rate(kind: str, rate: jax.Array, kl: jax.Array, config: Any, progress: jax.Array):
    """The learning rate of the next update. []

    Args:
      kind: "constant"; "linear" or "cosine" to 0 at `progress` 1; "adaptive": multiply or
        divide `rate` by 1.5 to keep the KL of an update near `config.target_kl`, as RSL-RL does.
      rate: the current one, which only "adaptive" uses.
      kl: KL divergence of the last update.
      config: has `learning_rate` and `target_kl`.
      progress: share of the schedule done, from 0.
    """
    if kind == "linear":
        return linear(config.learning_rate, progress)
    if kind == "cosine":
        return cosine(config.learning_rate, progress)
    if kind == "adaptive":
        slower, faster = kl > 2.0 * config.target_kl, kl < 0.5 * config.target_kl
        return jnp.clip(rate * jnp.where(slower, 1 / 1.5, jnp.where(faster, 1.5, 1.0)), 1e-5, 1e-2)
    return config.learning_rate


def progress(done: Any, steps: Any) -> jax.Array:
    """Returns the share of `steps` that is done. Without steps there is no schedule, and it is 0."""
    return jnp.where(steps > 0, done / jnp.maximum(steps, 1.0), 0.0)


def linear(rate: Any, progress: jax.Array) -> jax.Array:
    """A line from `rate` at `progress` 0 to 0 at 1."""
    return rate * jnp.clip(1.0 - progress, 0.0, 1.0)


def cosine(rate: Any, progress: jax.Array) -> jax.Array:
    """Half a cosine from `rate` at `progress` 0 to 0 at 1."""
    return rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
