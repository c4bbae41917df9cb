"""What every script in `experiments/` shares: flags, the run directory, the closing report."""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from jaxrl import play, plot, runs
from jaxrl.log import table
from jaxrl.stats import bootstrap_interval, iqm
from jaxrl.train import Result


def parse(default: Callable[[str], Any], default_env: str) -> Any:
    """Command-line flags over the preset of the environment that `--env` names.

    `default(env)` returns the arguments dataclass filled in, so `--help` shows the preset's
    values; fields of nested configs are flags of their own (`--learning-rate`).
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", default=default_env)
    args = default(first.parse_known_args()[0].env)
    return tyro.cli(type(args), default=args, config=(tyro.conf.OmitArgPrefixes,))


def run(main: Callable[[], int | None]) -> None:
    """Runs a script: a mistake of the user is one line and exit code 2, not a traceback."""
    try:
        sys.exit(main())
    except (ValueError, RuntimeError, ImportError, FileNotFoundError) as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise  # ours, not the user's
        print(f"error: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        sys.exit(2)


def open_run(run_dir: Path, description: dict[str, Any], resume: bool) -> None:
    """Writes `config.json` into a new run directory, or checks the one being resumed.

    Raises:
      ValueError: the directory exists (and this is no resume), holds no run, or holds one
        with another setting.
      RuntimeError: it cannot be written.
    """
    if not resume:
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise ValueError(f"run_dir={run_dir} exists: add --resume to go on, or choose another")
        runs.write_config(run_dir, description)
        return
    saved = runs.read_config(run_dir)
    now = json.loads(json.dumps(description))  # as it would read back
    for section in ("learner", "env", "env_overrides", "config", "train"):
        old, new = saved[section], now[section]
        if not isinstance(old, dict):
            old, new = {section: old}, {section: new}
        for name in sorted(set(old) | set(new)):
            if name != "devices" and old.get(name) != new.get(name):
                raise ValueError(
                    f"cannot resume {run_dir}: its {name} is {old.get(name)}, not {new.get(name)}"
                )


def with_schedule(config: Any, total_steps: float) -> Any:
    """A learning-rate schedule that was given no length ends with the run."""
    if config.lr_schedule in ("linear", "cosine") and not config.schedule_steps:
        return config.replace(schedule_steps=float(total_steps))
    return config


def report(
    run_dir: Path,
    learner: Any,
    result: Result,
    video: bool = True,
    sweep: dict[str, list[float]] | None = None,
) -> None:
    """The final table, and into `run_dir` the learning curve and a video."""
    final = result.evals[-1] if result.evals else None
    settings = [
        ", ".join(
            f"{k}={v:g}" for k, v in zip(sweep or {}, values, strict=True) if len(sweep[k]) > 1
        )
        for values in itertools.product(*(sweep or {}).values())
    ]
    rows = []
    for i, returns in enumerate(np.atleast_2d(final["return"]) if final else []):
        low, high = bootstrap_interval(returns)
        rows.append(
            [
                settings[i] or "return",
                f"{iqm(returns):.1f}",
                f"{low:.1f} .. {high:.1f}" if returns.size > 1 else "one seed",
                f"{returns.min():.1f} .. {returns.max():.1f}",
            ]
        )
    rate = result.env_steps * _num_runs(result) / max(result.seconds, 1e-9)
    table(
        f"{result.env_steps:,} env steps per seed, {result.seconds:.0f} s of training"
        f" ({rate:,.0f} steps/s), compiled in {result.compile_seconds:.0f} s",
        ["", "IQM over seeds", "95% interval", "min .. max"],
        rows,
    )
    if final is not None:
        plot.learning_curve([run_dir], run_dir / "learning_curve.png")
        print(f"curve: {run_dir / 'learning_curve.png'}")
    if video:
        best = int(np.argmax(np.nan_to_num(final["return"].ravel(), nan=-math.inf))) if final else 0
        one = jax.tree.map(lambda x: np.asarray(x)[best], learner.policy(result.state))
        if path := play.record_video(learner.env, one, run_dir / "video.mp4"):
            print(f"video: {path}")


def _num_runs(result: Result) -> int:
    return jax.tree.leaves(result.state)[0].shape[0]


def numbers(options: dict[str, str]) -> dict[str, Any]:
    """Option values as Python would read them: 0.5, true, none, (1, 2); else text."""
    words = {"true": True, "false": False, "none": None}

    def read(text: str) -> Any:
        if text.lower() in words:
            return words[text.lower()]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    return {name: read(text) for name, text in options.items()}
