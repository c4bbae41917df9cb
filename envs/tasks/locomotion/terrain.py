"""Ground as a function of where one stands: heights are numbers, not geoms.

A foot touches the plane that is tangent to the ground below it, so stairs cost MJX as much as a flat
floor. Boxes would cost four constraint rows for every foot and box. The contact is exact where the
ground under a foot is one plane. Near an edge it is that of the plane under the foot's centre: a foot
then meets the edge when its centre passes over it, up to a radius late.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

TREAD = 0.35  # m, from one riser to the next
PLATEAU = 0.6  # m, from the middle to the first riser
EDGE = 0.06  # m, over which a riser climbs: a slope, since a wall has no height


def stairs(xy: jax.Array, rise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Square rings of stairs around a plateau at height 0.

    Args:
      xy: points, in m. [..., 2]
      rise: height of a stair, in m; negative: they lead down. []

    Returns:
      The height in m [...], and its slope along x and y [..., 2].
    """
    size = jnp.abs(xy)
    along_x = size[..., :1] > size[..., 1:]  # [..., 1]
    outward = jnp.sign(xy) * jnp.concatenate([along_x, ~along_x], -1)
    beyond = jnp.maximum(size.max(-1) - PLATEAU, 0.0)
    number = jnp.floor(beyond / TREAD)
    climbed = (beyond - number * TREAD) / EDGE
    rising = (climbed > 0.0) & (climbed < 1.0)
    height = rise * (number + jnp.minimum(climbed, 1.0))
    return height, outward * jnp.where(rising, rise / EDGE, 0.0)[..., None]


def normal(slope: jax.Array) -> jax.Array:
    """The unit vector that points up from ground of this slope. [..., 3]

    Args:
      slope: along x and y. [..., 2]
    """
    up = jnp.concatenate([-slope, jnp.ones_like(slope[..., :1])], -1)
    return up / jnp.linalg.norm(up, axis=-1, keepdims=True)


def turned_to(up: jax.Array) -> jax.Array:
    """The shortest turn of the z axis to the unit vector `up` [..., 3], a quaternion. [..., 4]"""
    x, y, z = up[..., 0], up[..., 1], up[..., 2]
    quat = jnp.stack([1.0 + z, -y, x, jnp.zeros_like(x)], -1)
    return quat / jnp.linalg.norm(quat, axis=-1, keepdims=True)
