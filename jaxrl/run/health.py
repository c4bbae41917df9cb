"""Runs that break: what is said of broken steps and skipped updates, and when there is no point
in going on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

WARN = 0.01  # share of broken steps or skipped updates above which a run is warned of
ADVICE = (
    "look for numbers that are too large in the environment (units, ranges of actions, rewards),"
    " or lower the learning rate"
)


def with_shares(metrics: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """`metrics` of `steps` environment steps per run with `nonfinite_share`, where they count."""
    if "nonfinite_count" not in metrics:
        return metrics
    return metrics | {"nonfinite_share": metrics["nonfinite_count"] / steps}


@dataclass
class Health:
    """Warns once of each kind of trouble; `check` and `check_parameters` raise when all is lost."""

    warn: Callable[[str], None]
    what: Callable[[], str] = lambda: ""  # breaks in the environment, such as "obs[2] is nan"
    _said: set[str] = field(default_factory=set)

    def check(self, metrics: dict[str, np.ndarray], saved_steps: int | None) -> None:
        """Looks at the metrics since the last log: `nonfinite_share` and `skipped`, the share of
        updates that were left out because they were not finite.

        Raises:
          RuntimeError: nothing else happened in any run.
        """
        kinds = {"nonfinite_share": "steps broke the simulation", "skipped": "updates were skipped"}
        for name, what in kinds.items():
            share = np.nan_to_num(np.asarray(metrics.get(name, 0.0), np.float64)).ravel()
            if share.min() >= 1.0:
                first = self.what() if name == "nonfinite_share" else ""
                found = f" ({first})" if first else ""
                raise RuntimeError(f"all {what}{found}, {_kept(saved_steps)}: {ADVICE}")
            if share.max() > WARN:
                self._once(name, f"{share.max():.0%} of {what}{_in(share > WARN)}: {ADVICE}")

    def check_parameters(self, finite: np.ndarray, saved_steps: int | None) -> None:
        """`finite`: whether the parameters of each run are.

        Raises:
          RuntimeError: those of no run.
        """
        finite = np.asarray(finite).ravel()
        if not finite.any():
            raise RuntimeError(f"the parameters are not finite, {_kept(saved_steps)}: {ADVICE}")
        if not finite.all():
            what = f"the parameters are not finite{_in(~finite)}, whose results are undefined"
            self._once("parameters", f"{what}: {ADVICE}")

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.warn(f"warning: {text}")


def _in(runs: np.ndarray) -> str:
    """Which runs, where there are several."""
    which = ", ".join(map(str, np.flatnonzero(runs)))
    return f" in run {which}" if len(runs) > 1 else ""


def _kept(saved_steps: int | None) -> str:
    if saved_steps is None:
        return "and no checkpoint was written before"
    return f"and the checkpoint at {saved_steps:,} steps is the last good one"
