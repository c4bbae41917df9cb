"""Running moments (for normalisers), and honest summaries over seeds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


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
        psum = (lambda x: jax.lax.psum(x, axis_name)) if axis_name else (lambda x: x)
        axes = tuple(range(weight.ndim))
        n = psum(weight.sum())
        total = self.count + n

        def merge(mean, var, x):
            w = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
            x = jnp.where(w > 0, x, 0.0)  # a NaN with weight 0 must not spread
            batch_mean = psum((w * x).sum(axes)) / jnp.maximum(n, 1.0)
            batch_var = psum((w * (x - batch_mean) ** 2).sum(axes)) / jnp.maximum(n, 1.0)
            share = n / jnp.maximum(total, 1.0)
            shift = batch_mean - mean
            old_var = jnp.where(self.count > 0, var, 0.0)
            new_var = old_var + share * (batch_var - old_var + (1 - share) * shift**2)
            return mean + share * shift, jnp.where(total > 0, new_var, var)

        leaves, tree = jax.tree.flatten(self.mean)
        merged = [
            merge(m, v, x)
            for m, v, x in zip(
                leaves, jax.tree.leaves(self.var), jax.tree.leaves(batch), strict=True
            )
        ]
        unflatten = lambda i: jax.tree.unflatten(tree, [pair[i] for pair in merged])
        return Moments(total, unflatten(0), unflatten(1))

    def normalize(self, x: Any, clip: float = 10.0) -> Any:
        """Zero mean, unit variance, within +-clip; the identity before the first update."""

        def one(x, mean, var):
            scaled = jnp.clip((x - mean) * jax.lax.rsqrt(var + 1e-8), -clip, clip)
            return jnp.where(self.count > 0, scaled, x)

        return jax.tree.map(one, x, self.mean, self.var)


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021). scores: any shape."""
    x = np.sort(np.asarray(scores, np.float64).ravel())
    n = x.size
    if n == 0:
        raise ValueError("iqm of no scores")
    # Observations on the quartile boundary count in part, so any n works.
    left = np.clip(np.arange(1, n + 1) - n / 4, 0, 1)
    right = np.clip(n - np.arange(n) - n / 4, 0, 1)
    weight = np.minimum(left, right)
    return float((weight * x).sum() / weight.sum())


def bootstrap_interval(
    scores: np.ndarray, statistic=iqm, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over the seeds in `scores` [n]."""
    x = np.asarray(scores, np.float64).ravel()
    rng = np.random.default_rng(seed)
    draws = [statistic(x[rng.integers(0, x.size, x.size)]) for _ in range(samples)]
    tail = (1 - level) / 2
    return tuple(float(q) for q in np.quantile(draws, [tail, 1 - tail]))


def difference_interval(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of iqm(a) - iqm(b) over independent seeds a [n], b [m]."""
    rng = np.random.default_rng(seed)
    draw = lambda x: iqm(x[rng.integers(0, x.size, x.size)])
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    tail = (1 - level) / 2
    quantiles = np.quantile([draw(a) - draw(b) for _ in range(samples)], [tail, 1 - tail])
    return tuple(float(q) for q in quantiles)


def verdict(interval: tuple[float, float]) -> str:
    """On the claim that a difference is above 0, from its interval."""
    low, high = interval
    return "holds" if low > 0 else "does not hold" if high < 0 else "inconclusive"
