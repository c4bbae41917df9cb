"""Running moments of a stream, which normalisers use, and sums over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


def psum_over(axis_name: str | None) -> Callable[[Any], Any]:
    """A function that sums a tree over the devices of a mapped axis (None: that returns it).

    All arrays of a type go in one message: on a CPU each message costs 40 microseconds or more, and
    XLA sends a tree of twelve as twelve.
    """
    if axis_name is None:
        return lambda tree: tree

    def psum(tree):
        leaves, treedef = jax.tree.flatten(tree)
        leaves = [jnp.asarray(x) for x in leaves]
        sums = list(leaves)
        for dtype in dict.fromkeys(x.dtype for x in leaves):
            of_type = [i for i, x in enumerate(leaves) if x.dtype == dtype]
            flat = jnp.concatenate([leaves[i].ravel() for i in of_type])
            ends = np.cumsum([leaves[i].size for i in of_type])[:-1]
            for i, total in zip(
                of_type, jnp.split(jax.lax.psum(flat, axis_name), ends), strict=True
            ):
                sums[i] = total.reshape(leaves[i].shape)
        return jax.tree.unflatten(treedef, sums)

    return psum


@struct.dataclass
class Moments:
    """Count, mean and mean squared deviation of a stream, per element."""

    count: jax.Array  # [] float32
    mean: Any
    var: Any

    @staticmethod
    def zeros(example: Any) -> Moments:
        """For values shaped like `example` (array or tree); normalises to nothing yet."""
        zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), example)
        return Moments(jnp.zeros(()), zeros, jax.tree.map(jnp.ones_like, zeros))

    def update(self, batch: Any, weight: jax.Array, axis_name: str | None = None) -> Moments:
        """Merges a batch (Chan et al. 1979). Leaves [*B, ...]; weight [*B] of 0 or 1."""
        psum = psum_over(axis_name)
        axes = tuple(range(weight.ndim))

        def total(value_of, *trees):  # over the batch; a NaN with weight 0 must not spread
            def one(x, *more):
                w = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
                return jnp.where(w > 0, w * value_of(x, *more), 0.0).sum(axes)

            return jax.tree.map(one, *trees)

        n, sums = psum((weight.sum(), total(lambda x: x, batch)))
        divide = lambda x: x / jnp.maximum(n, 1.0)
        batch_mean = jax.tree.map(divide, sums)
        deviations = psum(total(lambda x, mean: (x - mean) ** 2, batch, batch_mean))
        batch_var = jax.tree.map(divide, deviations)
        count = self.count + n
        share = n / jnp.maximum(count, 1.0)

        def merge_var(mean, var, new_mean, new_var):
            old = jnp.where(self.count > 0, var, 0.0)
            merged = old + share * (new_var - old + (1 - share) * (new_mean - mean) ** 2)
            return jnp.where(count > 0, merged, var)

        return Moments(
            count,
            jax.tree.map(lambda mean, new: mean + share * (new - mean), self.mean, batch_mean),
            jax.tree.map(merge_var, self.mean, self.var, batch_mean, batch_var),
        )

    def normalize(self, x: Any, clip: float = 10.0) -> Any:
        """Zero mean, unit variance, within +-clip; the identity before the first update."""

        def one(x, mean, var):
            scaled = jnp.clip((x - mean) * jax.lax.rsqrt(var + 1e-8), -clip, clip)
            return jnp.where(self.count > 0, scaled, x)

        return jax.tree.map(one, x, self.mean, self.var)
