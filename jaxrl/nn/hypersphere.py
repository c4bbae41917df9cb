"""Networks on a hypersphere (SimbaV2, Lee et al. 2025, arXiv 2502.15280).

Features and the weights of every unit have length 1. Learned vectors scale features, and a residual
block moves its input towards an MLP's output by a learned share.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrl.nn.distributions import TanhNormal
from jaxrl.nn.product import product

SHIFT = 3.0  # the constant entry that keeps the length of an observation visible
EXPANSION = 4  # the width of a block's MLP over that of its input
LOG_STD = (-10.0, 2.0)
KERNEL = "kernel"  # the parameters whose columns have length 1


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns x divided by its length along `axis`."""
    length = jnp.sqrt(jnp.maximum((x**2).sum(axis, keepdims=True), 1e-16))
    return x / length


def on_sphere(params: Any) -> Any:
    """Returns the parameters with the weights [..., in, out] of every unit of length 1."""

    def one(path, x):
        return unit(x, -2) if path[-1].key == KERNEL else x

    return jax.tree_util.tree_map_with_path(one, params)


class Directions(nn.Module):
    """A linear layer without bias, each of whose units is a direction. [*B, in] to [*B, out]"""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        draw = lambda key, shape: unit(jax.random.normal(key, shape), 0)
        return product(x, self.param(KERNEL, draw, (x.shape[-1], self.features)))


class Scaler(nn.Module):
    """Multiplies each feature by a number that starts at `start` and is stored times `scale / start`.

    A smaller `scale` makes the number move faster for the same learning rate.
    """

    start: float
    scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stored = self.param("scaler", nn.initializers.constant(self.scale), x.shape[-1:])
        return stored * (self.start / self.scale) * x


class Block(nn.Module):
    """Moves x [*B, width] towards an MLP of it, by a learned share of each feature."""

    share: float  # at the start

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        start = math.sqrt(2.0 / width / EXPANSION)
        y = Scaler(start, start)(Directions(EXPANSION * width)(x))
        y = unit(Directions(width)(nn.relu(y) + 1e-8))
        return unit(x + Scaler(self.share, 1.0 / math.sqrt(width))(y - x))


class Encoder(nn.Module):
    """Maps x [*B, in] to features [*B, width] of length 1, by `blocks` blocks."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = math.sqrt(2.0 / self.width)
        x = unit(jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), SHIFT)], -1))
        x = unit(Scaler(start, start)(Directions(self.width)(x)))
        for _ in range(self.blocks):
            x = Block(1.0 / (self.blocks + 1))(x)
        return x


class Head(nn.Module):
    """Maps features to `out` numbers of any size."""

    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Scaler(1.0, 1.0)(Directions(x.shape[-1])(x))
        return Directions(self.out)(x) + self.param("bias", nn.initializers.zeros, (self.out,))


class Actor(nn.Module):
    """A squashed Gaussian over actions, from obs [*B, obs]."""

    width: int
    blocks: int
    action_size: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> TanhNormal:
        features = Encoder(self.width, self.blocks)(obs)
        mean, spread = Head(self.action_size)(features), Head(self.action_size)(features)
        low, high = LOG_STD
        return TanhNormal(mean, jnp.exp(low + (high - low) * 0.5 * (1.0 + jnp.tanh(spread))))


class Critic(nn.Module):
    """The logits [*B, atoms] of a distribution over returns, from (obs, action) [*B, in]."""

    width: int
    blocks: int
    atoms: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Head(self.atoms)(Encoder(self.width, self.blocks)(x))
