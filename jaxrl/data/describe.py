"""Statistics of data sets: returns, coverage, quality, scores between random and expert."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxrl.data.dataset import Dataset, few_entries

COMPONENTS, BINS = 3, 10  # axes of the grid of `coverage`, and cells along each axis


def statistics(dataset: Dataset, reference: Dataset | None = None) -> dict[str, float]:
    """Returns statistics of a data set by name.

    - Returns and lengths of episodes.
    - `success`, the share of episodes that ever succeed, and `success_at_end`, the share that
      succeed at their last step, if the task measures success. `episodes.evaluate` counts both in
      the same way.
    - `coverage`, see the function.
    - `quality`, if `references` are known: the position of the mean return between them (TQ of
      Schweighofer et al. 2022).
    """
    returns, lengths = dataset.returns, dataset.lengths
    out = {
        "episodes": float(len(returns)),
        "steps": float(len(dataset)),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(lengths.mean()),
        "terminated": float(dataset.steps.terminated.sum() / len(returns)),
    }
    if "success" in dataset.extras:
        out["success"] = float(dataset.success.mean())
        out["success_at_end"] = float((dataset.extras["success"][dataset.ends] > 0).mean())
    out["coverage"] = coverage(dataset, reference)
    if known := references(dataset):
        out["quality"] = normalized(out["return_mean"], *known)
    return out


def coverage(dataset: Dataset, reference: Dataset | None = None) -> float:
    """Returns how much of the states and actions a data set visits, on a coarse grid.

    With a `reference`: the number of cells visited over the number that the reference visits
    (SACo of Schweighofer et al. 2022, whose state-action pairs are discrete). Without one: over
    the number of all cells. That says how evenly the data fill their own range, not how wide the
    range is. To compare data sets, use one reference for all.

    The axes of the grid are the first `COMPONENTS` principal components of the reference's (or
    the data's own) states and actions, each entry scaled to variance 1. Each axis has `BINS` cells
    over the reference's range, and more cells of the same size beyond it. Other components are
    ignored. More steps visit more cells, so compare data sets of equal size. Of wide observations,
    such as images, 256 evenly spaced entries are used.
    """
    x, ref = (_pairs(d) for d in (dataset, reference or dataset))
    mean, std = ref.mean(0), ref.std(0)
    scale = np.where(std > 1e-6, 1.0 / np.maximum(std, 1e-6), 0.0)  # constant entries are left out
    x, ref = (x - mean) * scale, (ref - mean) * scale
    variance, axes = np.linalg.eigh(ref.T @ ref / len(ref))  # in ascending order
    axes = axes[:, variance > 1e-6][:, -COMPONENTS:]
    low, high = (ref @ axes).min(0), (ref @ axes).max(0)
    margin = 1e-6 * (high - low)  # both ends lie within
    low, width = low - margin, (high - low + 2 * margin) / BINS
    cells = lambda x: len({tuple(row) for row in np.floor((x @ axes - low) / width)})

    return cells(x) / (BINS ** axes.shape[1] if reference is None else cells(ref))


def _pairs(dataset: Dataset) -> np.ndarray:
    """States and actions, flat. [T, entries]"""
    leaves = [*jax.tree.leaves(dataset.steps.obs), dataset.steps.action]
    return np.concatenate([few_entries(x) for x in leaves], 1)


def references(dataset: Dataset) -> tuple[float, float] | None:
    """Returns the mean returns of the random policy and the expert, or None if the data lack them."""
    names = ("random_return", "expert_return")
    if not all(name in dataset.metadata for name in names):
        return None
    low, high = (float(dataset.metadata[name]) for name in names)
    return (low, high) if low != high else None


def normalized(score: Any, random_return: float, expert_return: float) -> Any:
    """Returns D4RL's score divided by 100: 0 for a random policy, 1 for the expert."""
    return (score - random_return) / (expert_return - random_return)
