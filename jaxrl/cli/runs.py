"""Loads a run from disk, to act or to resume."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

import envs
from envs.transforms import residual
from envs.transforms.base import check_count
from jaxrl.learners import registry
from jaxrl.policies.deployed import deployed
from jaxrl.report.terminal import reason
from jaxrl.run import checkpoint, folder
from jaxrl.run.folder import describe as describe
from jaxrl.run.folder import read_config as read_config
from jaxrl.run.folder import versions as versions
from jaxrl.run.folder import write_config as write_config
from jaxrl.run.program import state_like
from jaxrl.types import Learner, Policy

BASE = "base"  # in a run directory: the run that a residual corrects
WORDS = {str: "text", tuple: "a list [...]", bool: "true or false", float: "a number"}


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run. `state` has the leading axis [configs * seeds]."""

    env: Any
    learner: Learner
    state: Any
    config: dict[str, Any]  # config.json
    env_steps: int

    def policy(self, index: int = 0) -> Policy:
        """Returns the policy of one run, by its index in configs * seeds.

        It is `jaxrl.policies.deployed`: `act` refuses a batch and another task's observation in one
        line, and `jax.export` and converters to ONNX take it.
        """
        runs = num_runs(self.config["train"])
        if not 0 <= index < runs:
            raise ValueError(f"seed index {index}: this run has 0 .. {runs - 1}")
        policy = self.learner.policy(jax.tree.map(lambda x: x[index], self.state))
        return deployed(policy, self.env)


def check_learner(config: dict, path: Path) -> None:
    """Raises ValueError if the learner or a setting does not exist or has another type.

    The message is one line that names the file and the entry.
    """
    try:
        defaults = registry.module(config["learner"]).Config()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}
    for name, value in config["config"].items():
        if name not in known:
            raise ValueError(
                f"{path}: {config['learner']} has no field {name!r}{envs.nearest(name, known)}"
            )
        kind = {int: float, list: tuple}.get(type(known[name]), type(known[name]))
        fits = {tuple: list, float: int | float}.get(kind, kind)
        right = isinstance(value, fits) and (kind is bool or not isinstance(value, bool))
        if kind in WORDS and not right and not (kind is float and value == "inf"):
            raise ValueError(f"{path}: config.{name}={value!r}: must be {WORDS[kind]}")


def keep_base(base: Path, run_dir: Path) -> None:
    """Copies the policy of the run `base` into `run_dir`, which then works without `base`.

    Raises:
      ValueError: `base` is not a run, or has no whole checkpoint.
    """
    kept = run_dir / BASE
    if kept.exists():
        return
    run = load(base)
    part = kept.with_name(f".{BASE}.part")
    shutil.rmtree(part, ignore_errors=True)
    step = Path("checkpoints") / f"{run.env_steps:012d}"
    shutil.copytree(base / step, part / step)
    if (base / BASE).exists():  # the base is a residual itself
        shutil.copytree(base / BASE, part / BASE)
    shutil.copy(base / "config.json", part)
    part.rename(kept)


def num_runs(train: dict) -> int:
    """Returns the number of vmapped runs: configs * seeds."""
    return train["seeds"] * math.prod(len(v) for v in train.get("sweep", {}).values())


def build(config: dict, base: Run | None = None, env: Any = None, **overrides) -> tuple[Any, Any]:
    """Returns the environment and the learner that `config.json` describes.

    A residual corrects `base`. `env` replaces the environment that `config` names.
    """
    if base is not None:
        about = config["residual"]
        env = residual(base.env, base.policy(about["seed_index"]), about["scale"])
    elif env is None:
        env = envs.make(config["env"], **(config["env_overrides"] | overrides))
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["config"].items()}
    fields = {k: math.inf if v == "inf" else v for k, v in fields.items()}
    module = registry.module(config["learner"])
    return env, module.make(env, module.Config(**fields))


def load(run_dir: str | Path, step: int | None = None, env: Any = None, **overrides) -> Run:
    """Loads a run's newest whole checkpoint, or the one at `step` env steps.

    Args:
      run_dir: the folder of the run.
      step: of the checkpoint.
      env: the environment, if `envs.make` did not make that of the run.
      **overrides: options of the environment, on top of the run's own.

    Raises:
      ValueError: not a run, a damaged config or checkpoint, no such step, or another version of
        jaxrl wrote the run.
    """
    run_dir = Path(run_dir)
    if step is not None:
        check_count("step", step, 0)
    path = run_dir / folder.FILE
    config = folder.read_config(run_dir)
    folder.check_version(config, run_dir)
    if config["learner"] == folder.ROAD:
        raise ValueError(f"{run_dir} holds several runs: choose {run_dir}/base or .../residual")
    for name in ("learner", "env"):  # a file must not choose which standard module is imported
        own, colon, _ = str(config[name]).partition(":")
        if colon and own.split(".")[0] in sys.stdlib_module_names:
            raise ValueError(f"{path}: {name}={config[name]!r}: {own} is of Python itself")
    check_learner(config, path)
    if config["env"] is None and env is None and "residual" not in config:
        raise ValueError(
            f"{run_dir} does not say how its environment is made: give it as runs.load(env=...),"
            " or make it by envs.make('MODULE:FUNCTION') before training"
        )
    base = None
    if "residual" in config:
        base = load(run_dir / BASE, None, env, **(config["env_overrides"] | overrides))
    try:
        env, learner = build(config, base, env, **overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (TypeError, OverflowError) as error:  # the file holds a list of wrong types
        raise ValueError(f"{path}: {reason(error)}") from None
    runs = num_runs(config["train"])
    like = {"learner": state_like(learner, runs)}
    saved = run_dir / "checkpoints"
    if step is None:
        try:
            step, tree, complaints = checkpoint.restore_newest(saved, like)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from None
        for complaint in complaints:
            print(f"warning: {complaint}; using the one at {step} steps")
    elif step not in checkpoint.steps(saved):
        raise ValueError(f"no checkpoint at step {step}; there are {checkpoint.steps(saved)}")
    else:
        tree = checkpoint.restore(saved, step, like)
    return Run(env, learner, tree["learner"], config, step)
