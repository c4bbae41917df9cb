"""Convolutional encoders of image observations.

An image is an entry of the observation with bytes [H, W, C]. Replay, unrolls and data sets hold it
as bytes. `spaces.select` makes it a part of the flat vector that networks see, in 0 .. 1. `Layout`
says where, so that `Eyes` finds it there, and no engine needs to know that there are images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from envs.types import Space
from jaxrl.nn.layers import Dense, orthogonal
from jaxrl.ops.moments import is_image


@dataclass(frozen=True)
class Image:
    """Where an image is in a flat observation."""

    first: int  # its first entry
    shape: tuple[int, int, int]  # [H, W, C]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The images in the flat observation that `spaces.select` makes."""

    images: tuple[Image, ...]
    size: int  # entries of the flat observation

    @property
    def others(self) -> tuple[slice, ...]:
        """The parts between the images."""
        ends = [0, *(image.first + image.size for image in self.images)]
        starts = [*(image.first for image in self.images), self.size]
        return tuple(slice(a, b) for a, b in zip(ends, starts, strict=True) if b > a)


def layout(space: Space, keys: tuple[str, ...]) -> Layout:
    """The layout of `spaces.select(obs, keys, ...)`, which refuses unknown keys, for `space`."""
    entries = {"": space} if not isinstance(space, dict) else space
    chosen = keys if keys and isinstance(space, dict) else sorted(entries)
    images, size = [], 0
    for box in (entries[name] for name in chosen if name in entries):
        if is_image(jax.ShapeDtypeStruct(box.shape, box.dtype)):
            images.append(Image(size, box.shape))
        size += math.prod(box.shape)
    return Layout(tuple(images), size)


def of_image(x: jax.Array, image: Image) -> jax.Array:
    """Returns the image [*B, H, W, C] in flat observations x [*B, n]."""
    part = jax.lax.slice_in_dim(x, image.first, image.first + image.size, axis=x.ndim - 1)
    return part.reshape(*x.shape[:-1], *image.shape)


class Conv(nn.Module):
    """A 3 x 3 convolution with stride 2. x [*B, H, W, C] to [*B, ceil(H / 2), ceil(W / 2), features].

    Written as one product of patches, which is fast on a CPU and stays one product per layer when
    seeds are vmapped. A convolution with weights for every seed is grouped, which XLA on a CPU
    runs slowly. The border is padded by one row and column of zeros on each side.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = (-(-n // 2) for n in x.shape[-3:-1])
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
        part = lambda i, j: x[..., i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2, :]
        patches = jnp.concatenate([part(i, j) for i in range(3) for j in range(3)], -1)
        return Dense(self.features, orthogonal(math.sqrt(2.0)))(patches)


class Encoder(nn.Module):
    """Convolutions with ReLU, then a linear layer, LayerNorm and tanh. [*B, H, W, C] to
    [*B, features].

    The encoder of DrQ (Yarats et al. 2021), with a stride of 2 in every layer and fewer channels.
    """

    channels: Sequence[int] = (16, 32, 32)
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x - 0.5
        for width in self.channels:
            x = nn.relu(Conv(width)(x))
        x = Dense(self.features)(x.reshape(*x.shape[:-3], -1))
        return jnp.tanh(nn.LayerNorm()(x))


class Eyes(nn.Module):
    """An `Encoder` for every image of a flat observation. [*B, obs] to the features of all images
    and the other entries."""

    layout: Layout
    channels: Sequence[int] = (16, 32, 32)
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        seen = [
            Encoder(self.channels, self.features)(of_image(x, image))
            for image in self.layout.images
        ]
        return jnp.concatenate([*seen, *(x[..., part] for part in self.layout.others)], -1)


def eyes(space: Space, *keys: tuple[str, ...]) -> Callable[[], tuple[nn.Module, ...]] | None:
    """Makes `Eyes` for each of several choices of entries; None where none of them has an image."""
    layouts = [layout(space, chosen) for chosen in keys]
    if not any(each.images for each in layouts):
        return None
    return lambda: tuple(Eyes(each) for each in layouts)


def shifted(x: jax.Array, layout: Layout, most: int, keys: jax.Array) -> jax.Array:
    """Flat observations x [B, obs] whose images are shifted at random, by up to `most` pixels.

    What comes in at the border repeats the border. All images of an observation are shifted alike
    (DrQ, Yarats et al. 2021, section 3.1).

    Args:
      keys: [B].
    """
    if not (layout.images and most):
        return x

    def one(x: jax.Array, key: jax.Array) -> jax.Array:
        down, right = jax.random.randint(key, (2,), -most, most + 1)
        for image in layout.images:
            height, width, _ = image.shape
            rows = jnp.clip(jnp.arange(height) + down, 0, height - 1)
            columns = jnp.clip(jnp.arange(width) + right, 0, width - 1)
            moved = of_image(x, image)[rows][:, columns]
            x = jax.lax.dynamic_update_slice_in_dim(x, moved.ravel(), image.first, 0)
        return x

    return jax.vmap(one)(x, keys)
