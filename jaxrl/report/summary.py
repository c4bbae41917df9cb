"""Summaries over seeds and episodes: interquartile means, intervals, verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np


def iqm(scores: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """Returns the interquartile mean: drops a quarter of the scores at each end (Agarwal et al. 2021).

    Equals `scipy.stats.trim_mean(scores, 0.25, axis)`, the definition of rliable: a quarter is
    rounded down to whole scores.

    Args:
      scores: any shape, at least one.
      axis: reduce this axis only. By default all scores count together and a float is returned.
    """
    x = np.asarray(scores, np.float64)
    x = np.sort(x.ravel() if axis is None else np.moveaxis(x, axis, -1), axis=-1)
    if (n := x.shape[-1]) == 0:
        raise ValueError("iqm of no scores")
    cut = n // 4
    mean = x[..., cut : n - cut].mean(-1)
    return float(mean) if axis is None else mean


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate, `successes` of `n` independent episodes (Wilson 1927).

    A bootstrap collapses to a point if every episode has the same result. This interval does not:
    16 of 16 gives 0.81 .. 1.

    Raises:
      ValueError: `n` < 1, or `successes` not in 0 .. `n`.
    """
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1")
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes:g}: must be between 0 and n={n}")
    rate, z = successes / n, NormalDist().inv_cdf((1 + level) / 2)
    center = rate + z**2 / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max((center - half) / scale, 0.0), min((center + half) / scale, 1.0)


def mean_interval(values: np.ndarray, samples: int = 2000) -> tuple[float, float]:
    """Returns the 95% interval of a mean over episodes, values [E].

    It is Wilson's interval if every value is 0 or 1, because then the mean is a rate. Otherwise it
    is the bootstrap's.
    """
    x = np.asarray(values, np.float64).ravel()
    if np.isin(x, (0.0, 1.0)).all():
        return wilson(x.sum(), x.size)
    return bootstrap_interval(x, np.mean, samples=samples)


def bootstrap_interval(
    scores: np.ndarray,
    statistic: Callable = iqm,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(scores, axis)` over the seeds in `scores` [n]."""
    x = np.asarray(scores, np.float64).ravel()
    draws = np.random.default_rng(seed).integers(0, x.size, (samples, x.size))
    return _percentiles(statistic(x[draws], axis=1), level)


def difference_interval(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of iqm(a) - iqm(b) over independent seeds a [n], b [m]."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    sizes = np.repeat([a.size, b.size], [a.size, b.size])
    draws = np.random.default_rng(seed).integers(0, sizes, (samples, sizes.size))
    of_a, of_b = a[draws[:, : a.size]], b[draws[:, a.size :]]
    return _percentiles(iqm(of_a, axis=1) - iqm(of_b, axis=1), level)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def verdict(interval: tuple[float, float], margin: float = 0.0) -> str:
    """Returns what the interval of a difference says about the claim that the difference is above 0.

    Args:
      interval: (low, high) of the difference.
      margin: differences of at most this size do not matter, in the units of the interval, >= 0.

    Returns:
      "no difference" if the whole interval is within [-margin, margin], else
      "holds" if all of it is above 0, "does not hold" if all of it is below 0, or
      "inconclusive".
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin}: must be 0 or more")
    low, high = interval
    if -margin <= low and high <= margin:
        return "no difference"
    return "holds" if low > 0 else "does not hold" if high < 0 else "inconclusive"
