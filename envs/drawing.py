"""Pictures in JAX, for tasks that draw themselves on the device (`envs.types.Sketched`).

A shape is the distance of every pixel from it. Edges are soft, so that a small picture shows where a
shape is to a fraction of a pixel.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def grid(
    width: int, height: int, reach: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """The middles of the pixels, x [width] and y [height], and pixels per metre.

    Args:
      reach: metres from the middle to the right and upper edge that the picture holds at least.
    """
    scale = min(width / (2 * reach[0]), height / (2 * reach[1]))
    x = (np.arange(width) + 0.5 - width / 2) / scale
    y = (height / 2 - np.arange(height) - 0.5) / scale
    return x, y, scale


def painted(image: jax.Array, distance: jax.Array, scale: float, colour: Any) -> jax.Array:
    """`image` [height, width, 3] with a shape of one colour and soft edges.

    Args:
      distance: [height, width] metres from the shape, negative inside.
      scale: pixels per metre.
      colour: [3] in 0 .. 255.
    """
    cover = jnp.clip(0.5 - distance * scale, 0.0, 1.0)[..., None]
    return cover * jnp.asarray(colour, jnp.float32) + (1.0 - cover) * image


def disc(x: Any, y: Any, centre: jax.Array, radius: Any) -> jax.Array:
    """Distances of pixels x [width], y [height] from a disc. [height, width]"""
    return jnp.hypot(x - centre[0], y[:, None] - centre[1]) - radius


def segment(x: Any, y: Any, start: jax.Array, end: jax.Array, radius: Any) -> jax.Array:
    """Distances of pixels from a line of that half width with round ends. [height, width]"""
    along = end - start
    dx, dy = x - start[0], y[:, None] - start[1]
    share = (dx * along[0] + dy * along[1]) / jnp.maximum(along @ along, 1e-12)
    share = jnp.clip(share, 0.0, 1.0)
    return jnp.hypot(dx - share * along[0], dy - share * along[1]) - radius


def as_bytes(image: jax.Array) -> jax.Array:
    """An image in 0 .. 255 as uint8."""
    return jnp.round(jnp.clip(image, 0.0, 255.0)).astype(jnp.uint8)
