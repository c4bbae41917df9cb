"""What a resumed run must have in common with its checkpoint, and what it recorded before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.config import numbers
from jaxrl.report.files import plain
from jaxrl.report.log import read
from jaxrl.types import Learner


def shaping(learner: Learner) -> dict[str, Any]:
    """Returns the settings that shape the program, as JSON reads them back."""
    config, data = learner.config, numbers(learner.config)
    names = [f.name for f in dataclasses.fields(config) if f.name not in data]
    return {name: plain(getattr(config, name)) for name in names}


def check_shape(saved: dict[str, Any], wanted: dict[str, Any], run_dir: Path) -> None:
    """Raises ValueError if a setting that shapes the program differs from the checkpoint's."""
    for name in sorted(set(saved) & set(wanted)):
        if saved[name] != wanted[name]:
            raise ValueError(
                f"cannot resume {run_dir}: its {name} is {saved[name]}, not {wanted[name]}"
            )


def check_same(saved: Any, wanted: Any, run_dir: Path) -> None:
    """Raises ValueError if a number of the config differs from the checkpoint's."""
    for name in numbers(wanted):
        old, new = (np.asarray(getattr(config, name)) for config in (saved, wanted))
        if not np.array_equal(old, new):
            raise ValueError(
                f"cannot resume {run_dir}: its {name} is {np.unique(old)}, not {np.unique(new)}"
            )


def evals_until(run_dir: Path, env_steps: int) -> list[dict[str, Any]]:
    """Returns the logged evaluations up to `env_steps`."""
    clock = ("kind", "seconds", "steps_per_second")
    records = [r for r in read(run_dir) if r["kind"] == "eval" and r["env_steps"] <= env_steps]
    as_array = lambda k, x: x if k == "env_steps" else np.array(x, np.float32)
    return [{k: as_array(k, x) for k, x in r.items() if k not in clock} for r in records]
