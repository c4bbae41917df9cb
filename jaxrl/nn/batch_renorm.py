"""Batch renormalisation (Ioffe 2017, arXiv 1702.03275), and MLPs with it before every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrl.nn.layers import ACTIVATIONS, Dense, kernel_init

MAX_SCALE, MAX_SHIFT = 3.0, 5.0  # of the correction, r and d of Ioffe 2017
EPSILON = 1e-3  # added to variances


@dataclass(frozen=True)
class Training:
    """How a batch is normalised by its own statistics, and how those are remembered."""

    weight: jax.Array  # [B] 1, or 0 for a sample that does not count
    total: Callable[[Any], Any]  # sums over the devices that share the batch
    momentum: jax.Array  # [] of the running statistics
    warm_up: jax.Array  # [] updates by the statistics of the batch alone


class BatchRenorm(nn.Module):
    """Normalises x [*B, features] by running statistics or, in training, renormalises a batch.

    x_hat = (x - mean) / std * r + d with r = std / running std and d = (mean - running mean) /
    running std, both clipped and without gradient (Ioffe 2017, algorithm 1).
    """

    @nn.compact
    def __call__(self, x: jax.Array, training: Training | None) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("statistics", "mean", jnp.zeros, shape)
        running_var = self.variable("statistics", "var", jnp.ones, shape)
        updates = self.variable("statistics", "updates", jnp.zeros, ())
        old_mean, old_std = running_mean.value, jnp.sqrt(running_var.value + EPSILON)
        if training is None:
            return (x - old_mean) / old_std * scale + bias

        count, mean, var = batch_moments(x, training)
        std = jnp.sqrt(var + EPSILON)
        warm = updates.value >= training.warm_up
        r = jnp.clip(std / old_std, 1.0 / MAX_SCALE, MAX_SCALE)
        d = jnp.clip((mean - old_mean) / old_std, -MAX_SHIFT, MAX_SHIFT)
        r, d = jax.lax.stop_gradient((jnp.where(warm, r, 1.0), jnp.where(warm, d, 0.0)))

        share = jnp.where(count > 0, 1.0 - training.momentum, 0.0)
        moved = lambda old, new: old + share * (new - old)
        running_mean.value = moved(running_mean.value, mean)
        running_var.value = moved(running_var.value, var)
        updates.value = updates.value + 1.0
        return ((x - mean) / std * r + d) * scale + bias


def batch_moments(x: jax.Array, training: Training) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The weight of a batch x [B, features] over all devices, and its mean and variance."""
    weight = training.weight[:, None]
    count, total = training.total((weight.sum(), (weight * x).sum(0)))
    mean = total / jnp.maximum(count, 1.0)
    squares = training.total((weight * (x - mean) ** 2).sum(0))
    return count, mean, squares / jnp.maximum(count, 1.0)


class Normalised(nn.Module):
    """An MLP with a `BatchRenorm` before every layer."""

    hidden: Sequence[int]
    out: int
    activation: str = "relu"
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, training: Training | None = None) -> jax.Array:
        x = BatchRenorm()(x, training)
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](Dense(width, kernel_init=kernel_init("lecun"))(x))
            x = BatchRenorm()(x, training)
        return Dense(self.out, kernel_init=kernel_init("lecun", self.out_scale))(x)


# A network with its parameters, statistics, input, and how it is trained: output and statistics.
Run = Callable[[Any, Any, jax.Array, Training | None], tuple[jax.Array, Any]]


def apply_of(module: Normalised) -> Run:
    """`module` as a function of its parameters and statistics, which it returns updated."""

    def apply(params, statistics, x, training=None):
        variables = {"params": params, "statistics": statistics}
        if training is None:
            return module.apply(variables, x), statistics
        out, new = module.apply(variables, x, training, mutable=["statistics"])
        return out, new["statistics"]

    return apply


def ensemble(run: Run) -> Run:
    """`run` of several members with separate parameters on one input [B, in]."""

    def apply(params, statistics, x, training=None):
        members = jax.tree.leaves(params)[0].shape[0]
        x = jnp.broadcast_to(x, (members, *x.shape))  # see `jaxrl.nn.layers.Ensemble`
        return jax.vmap(lambda p, s, x: run(p, s, x, training))(params, statistics, x)

    return apply
