"""A run on disk: what `config.json` says, and loading it back to act or go on."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import envs
from envs.transforms import residual
from jaxrl import __version__, checkpoint
from jaxrl.types import Learner, Policy

BASE = "base"  # in a run directory: the run that a residual corrects
OFFLINE = ("bc", "td3_bc", "iql", "imitation")  # learners whose steps are updates


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run. `state` has the leading axis [configs * seeds]."""

    env: Any
    learner: Learner
    state: Any
    config: dict[str, Any]  # config.json
    env_steps: int

    def policy(self, index: int = 0) -> Policy:
        """The policy of one run, by its place in configs * seeds."""
        runs = num_runs(self.config["train"])
        if not 0 <= index < runs:
            raise ValueError(f"seed index {index}: this run has 0 .. {runs - 1}")
        return self.learner.policy(jax.tree.map(lambda x: x[index], self.state))


def describe(learner: str, env: str, env_overrides: dict, config: Any, train: dict) -> dict:
    """What `config.json` holds: enough to build the same run again."""
    return {
        "jaxrl": __version__,
        "learner": learner,
        "env": env,
        "env_overrides": env_overrides,
        "config": {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)},
        "train": train,
        "versions": {p: metadata.version(p) for p in ("jax", "mujoco", "mujoco-mjx", "flax")},
        "hardware": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}",
    }


def write_config(run_dir: Path, config: dict) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise RuntimeError(f"cannot write {run_dir}: {error.strerror or error}") from error


def read_config(run_dir: Path) -> dict:
    """Reads `config.json`; a missing or hand-damaged one is a one-line ValueError."""
    path = Path(run_dir) / "config.json"
    try:
        config = json.loads(path.read_text())
        for name in ("learner", "env", "env_overrides", "config", "train"):
            if name not in config:
                raise ValueError(f"{path}: {name!r} is missing")
    except FileNotFoundError:
        raise ValueError(f"{run_dir} is not a run: it has no config.json") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not JSON ({error.msg})") from None
    return config


def keep_base(base: Path, run_dir: Path) -> None:
    """Copies what acts of the run `base` into `run_dir`, which then needs `base` no more.

    Raises:
      ValueError: `base` is not a run, or has no whole checkpoint.
    """
    folder = run_dir / BASE
    if folder.exists():
        return
    run = load(base)
    part = folder.with_name(f".{BASE}.part")
    shutil.rmtree(part, ignore_errors=True)
    step = Path("checkpoints") / f"{run.env_steps:012d}"
    shutil.copytree(base / step, part / step)
    if (base / BASE).exists():  # itself a residual
        shutil.copytree(base / BASE, part / BASE)
    shutil.copy(base / "config.json", part)
    part.rename(folder)


def num_runs(train: dict) -> int:
    """How many vmapped runs: configs * seeds."""
    return train["seeds"] * math.prod(len(v) for v in train.get("sweep", {}).values())


def build(config: dict, base: Run | None = None, **env_overrides) -> tuple[Any, Learner]:
    """The environment and learner that `config.json` describes; a residual corrects `base`."""
    try:
        module = importlib.import_module(f"jaxrl.learners.{config['learner']}")
    except ModuleNotFoundError:
        raise ValueError(f"config.json: unknown learner {config['learner']!r}") from None
    if base is None:
        env = envs.make(config["env"], **(config["env_overrides"] | env_overrides))
    else:
        about = config["residual"]
        env = residual(base.env, base.policy(about["seed_index"]), about["scale"])
    known = {f.name for f in dataclasses.fields(module.Config)}
    for name in config["config"]:
        if name not in known:
            hint = envs.nearest(name, known)
            raise ValueError(f"config.json: {config['learner']} has no field {name!r}{hint}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["config"].items()}
    fields = {k: math.inf if v == "inf" else v for k, v in fields.items()}
    return env, module.make(env, module.Config(**fields))


def load(run_dir: str | Path, step: int | None = None, **env_overrides) -> Run:
    """Loads a run's newest whole checkpoint, or the one at `step` env steps.

    Raises:
      ValueError: not a run, a damaged config or checkpoint, or no such step.
    """
    run_dir = Path(run_dir)
    config = read_config(run_dir)
    base = None
    if "residual" in config:
        base = load(run_dir / BASE, **(config["env_overrides"] | env_overrides))
    env, learner = build(config, base, **env_overrides)
    runs = num_runs(config["train"])
    like = {"learner": state_like(learner, runs)}
    folder = run_dir / "checkpoints"
    if step is None:
        try:
            step, tree, complaints = checkpoint.restore_newest(folder, like)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from None
        for complaint in complaints:
            print(f"warning: {complaint}; using the one at {step} steps")
    elif step not in checkpoint.steps(folder):
        raise ValueError(f"no checkpoint at step {step}; there are {checkpoint.steps(folder)}")
    else:
        tree = checkpoint.restore(folder, step, like)
    return Run(env, learner, tree["learner"], config, step)


def state_like(learner: Learner, num_runs: int) -> Any:
    """Shapes of the learner's state for `num_runs` vmapped runs."""
    one = jax.eval_shape(learner.init, jax.random.key(0))  # JAX remembers it, by the function
    return jax.tree.map(lambda x: x.update(shape=(num_runs, *x.shape)), one)


def _plain(value: Any) -> Any:
    """JSON-ready; arrays (a sweep) become lists, infinity the string 'inf'."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return list(value) if isinstance(value, tuple) else value
