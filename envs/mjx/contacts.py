"""MJX's frame of a contact between a plane and a capsule, mended to be MuJoCo's.

The first tangent, and with it the friction pyramid, follows the capsule's axis. MJX takes the
y axis instead wherever the capsule is within 30 degrees of the normal, as Ant's lower legs
often are: single entries of its next observation then differ from MuJoCo's by up to 1.
"""

from __future__ import annotations

import contextlib
import io

import jax
import jax.numpy as jnp

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that Warp is not installed
    from mujoco.mjx import GeomType
    from mujoco.mjx._src import collision_driver, collision_primitive, math


def install() -> None:
    """Has MJX use `plane_capsule`. Call before a model is traced."""
    collision_driver._COLLISION_FUNC[GeomType.PLANE, GeomType.CAPSULE] = plane_capsule


def plane_capsule(model, data, key, geom: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distance, position and frame of the two contacts of every pair in `geom` [P, 2]. [2 P, ...]"""
    distance, position, _ = collision_primitive.plane_capsule(model, data, key, geom)
    normal, axis = (data.geom_xmat[ids][..., 2] for ids in geom.T)  # [P, 3]
    return distance, position, jnp.repeat(jax.vmap(_frame)(normal, axis), 2, axis=0)


plane_capsule.ncon = 2  # contacts of a pair, which MJX reads


def _frame(normal: jax.Array, axis: jax.Array) -> jax.Array:
    """[3, 3], rows: the normal, the tangent nearest to `axis`, the other tangent."""
    tangent, length = math.normalize_with_norm(axis - normal * jnp.dot(normal, axis))
    tangent = jnp.where(length < 1e-6, jnp.array([1.0, 0.0, 0.0]), tangent)
    return jnp.stack([normal, tangent, jnp.cross(normal, tangent)])
