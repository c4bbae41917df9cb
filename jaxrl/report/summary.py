"""Summaries over seeds: the interquartile mean, bootstrap intervals, verdicts."""

from __future__ import annotations

import numpy as np


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
