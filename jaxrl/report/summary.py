"""Summaries over seeds and episodes: interquartile means, intervals, verdicts."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean (Agarwal et al. 2021): the mean without a quarter of the scores at each end.

    Equals `scipy.stats.trim_mean(scores, 0.25, axis=None)`, the definition of rliable: a quarter is
    rounded down to whole scores.

    Args:
      scores: any shape, at least one.
    """
    x = np.sort(np.asarray(scores, np.float64).ravel())
    if x.size == 0:
        raise ValueError("iqm of no scores")
    cut = x.size // 4
    return float(x[cut : x.size - cut].mean())


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate, `successes` of `n` independent episodes (Wilson 1927).

    Unlike a bootstrap it does not collapse to a point where all episodes end alike: 16 of 16 gives
    0.81 .. 1.

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
    """95% interval of a mean over episodes, values [E].

    Wilson's where every value is 0 or 1, because then the mean is a rate; else the bootstrap.
    """
    x = np.asarray(values, np.float64).ravel()
    if np.isin(x, (0.0, 1.0)).all():
        return wilson(x.sum(), x.size)
    return bootstrap_interval(x, np.mean, samples=samples)


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
