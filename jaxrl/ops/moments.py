"""Running moments of a stream, which normalisers use, and sums over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


def psum_over(axis_name: str | None) -> Callable[[Any], Any]:
    """Returns `psum` over `axis_name` for trees, or the identity if `axis_name` is None.

    All arrays of one dtype are sent in one message. On a CPU each message costs 40 microseconds or
    more, and XLA would send a tree of twelve arrays as twelve messages.
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


SPIKE = 10.0  # values are clipped to this many standard deviations from the mean
START_SPIKE, START_PASSES = 25.0, 64  # mean absolute deviations, and passes over the first batch
ROUNDING = float(jnp.finfo(jnp.float32).eps)


def is_image(x: Any, batch_ndim: int = 0) -> bool:
    """Whether x [*B, ...] holds images: bytes [*B, H, W, C]."""
    return getattr(x, "dtype", None) == np.uint8 and len(x.shape) == batch_ndim + 3


@struct.dataclass
class Moments:
    """Count, mean and mean squared deviation of a stream, per element.

    Images (`is_image`) are not measured: their mean and variance have the shape [0].
    """

    count: jax.Array  # [] float32
    mean: Any
    var: Any

    @staticmethod
    def zeros(example: Any) -> Moments:
        """Returns moments of no values, shaped like `example` (array or tree): they normalise nothing."""
        shape = lambda x: (0,) if is_image(x) else jnp.shape(x)
        zeros = jax.tree.map(lambda x: jnp.zeros(shape(x), jnp.float32), example)
        return Moments(jnp.zeros(()), zeros, jax.tree.map(jnp.ones_like, zeros))

    def update(
        self, batch: Any, weight: jax.Array, axis_name: str | None = None, robust: bool = True
    ) -> Moments:
        """Merges a batch (Chan et al. 1979).

        Differences from the mean so far are summed, so that a mean far larger than the spread
        costs no digits.

        Args:
          batch: leaves [*B, ...].
          weight: [*B] of 0 or 1.
          axis_name: the devices that share the batch.
          robust: values more than `SPIKE` running standard deviations from the running mean count
            as being there. Spikes in fewer than 1 / SPIKE^2 of the steps cannot spoil the moments;
            values that are that far more often widen the spread until they are not.
        """
        chex.assert_tree_shape_prefix(batch, weight.shape)
        nothing = jnp.zeros((*weight.shape, 0))
        batch = jax.tree.map(lambda x: nothing if is_image(x, weight.ndim) else x, batch)
        psum = psum_over(axis_name)
        axes = tuple(range(weight.ndim))
        first = self.count == 0

        def sums(center, bound, power):
            """The number of samples, and sums of (d, power(d)) with d the bounded differences."""

            def one(x, center, bound):
                w = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
                d = jnp.clip(x - center, -bound, bound)
                d = jnp.where(w > 0, w * d, 0.0)  # a NaN with weight 0 must not spread
                return d.sum(axes), power(d).sum(axes)

            n, pairs = psum((weight.sum(), jax.tree.map(one, batch, center, bound)))
            return n, *jax.tree.transpose(jax.tree.structure(batch), None, pairs)

        def limit(spread):
            return spread if robust else jnp.full_like(spread, jnp.inf)

        def closer(loop):
            """A center and bound of the first batch that fewer spikes have moved."""
            i, center, bound = loop
            n, total, absolute = sums(center, bound, jnp.abs)
            n = jnp.maximum(n, 1.0)
            center = jax.tree.map(lambda c, total: c + total / n, center, total)
            return i + 1, center, jax.tree.map(lambda x: limit(START_SPIKE * x / n), absolute)

        def running(mean, var):
            bound = limit(SPIKE * jnp.where(_constant(mean, var), 1.0, jnp.sqrt(var)))
            return jnp.where(first, jnp.inf, bound)

        # A loop, because under `vmap` a `cond` would compute all passes in every update.
        start = (jnp.zeros((), jnp.int32), self.mean, jax.tree.map(running, self.mean, self.var))
        more = lambda loop: first & (loop[0] < START_PASSES)
        _, center, bound = jax.lax.while_loop(more, closer, start)

        n, total, squares = sums(center, bound, jnp.square)
        count = self.count + n
        share = n / jnp.maximum(count, 1.0)
        mean_of = lambda x: x / jnp.maximum(n, 1.0)

        def merge_var(var, total, squares):
            old = jnp.where(first, 0.0, var)
            merged = old + share * (mean_of(squares) - old - share * mean_of(total) ** 2)
            return jnp.where(count > 0, jnp.maximum(merged, 0.0), var)

        return Moments(
            count,
            jax.tree.map(lambda c, total: c + share * mean_of(total), center, total),
            jax.tree.map(merge_var, self.var, total, squares),
        )

    def normalize(self, x: Any, clip: float = 10.0) -> Any:
        """Returns x with zero mean and unit variance, within +-clip; x itself before the first update.

        An element without variance is only centred, because its scale is unknown.
        Leaves of bool are flags, such as masks of actions, and stay as they are. So do images.
        """

        def one(x, mean, var):
            if x.dtype == bool or (x.dtype == np.uint8 and mean.shape == (0,)):
                return x
            scale = jnp.where(_constant(mean, var), 1.0, jax.lax.rsqrt(var + 1e-8))
            scaled = jnp.clip((x - mean) * scale, -clip, clip)
            return jnp.where(self.count > 0, scaled, x)

        return jax.tree.map(one, x, self.mean, self.var)


def _constant(mean: jax.Array, var: jax.Array) -> jax.Array:
    """Returns where the variance is 0 or explained by rounding of the mean."""
    return jnp.sqrt(var) <= ROUNDING * jnp.abs(mean)
