"""A run on disk: what `config.json` says, and loading it back to act or go on."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import envs
from envs.transforms import residual
from jaxrl import __version__
from jaxrl.learners import registry
from jaxrl.report.files import plain, whole
from jaxrl.run import checkpoint, runtime
from jaxrl.run.program import state_like
from jaxrl.types import Learner, Policy

BASE = "base"  # in a run directory: the run that a residual corrects
SECTIONS = {"learner": str, "env": str, "env_overrides": dict, "config": dict, "train": dict}
WORDS = {str: "text", dict: "an object {...}", list: "a list [...]", bool: "true or false"}
WORDS |= {int: "a whole number", float: "a number"}
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
        "config": {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)},
        "train": train,
        "versions": versions(),
        "hardware": runtime.hardware(),
    }


def versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    return {p: metadata.version(p) for p in ("jax", "mujoco", "mujoco-mjx", "flax")}


def write_config(run_dir: Path, config: dict) -> None:
    with whole(run_dir / "config.json") as part:
        part.write_text(json.dumps(config, indent=2) + "\n")


def read_config(run_dir: Path) -> dict:
    """Reads `config.json`; a missing or hand-damaged one is a one-line ValueError."""
    path = Path(run_dir) / "config.json"
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run_dir} is not a run: it has no config.json") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    _must_be(dict, config, f"{path}: all of it")
    for name, kind in SECTIONS.items():
        if name not in config:
            raise ValueError(f"{path}: {name!r} is missing")
        _must_be(kind, config[name], f"{path}: {name}")
    return config


def _must_be(kind: type, value: Any, name: str) -> None:
    right = isinstance(value, int | float if kind is float else kind)
    if not right or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}={value!r}: must be {WORDS[kind]}")


def _check(config: dict, path: Path) -> None:
    """Raises ValueError where what `read_config` returned is not a learner's run: which entry."""
    learner, sweep = config["learner"], config["train"].get("sweep", {})
    if learner not in registry.LEARNERS:
        raise ValueError(f"{path}: learner={learner!r}: allowed are {', '.join(registry.LEARNERS)}")
    _must_be(int, config["train"].get("seeds"), f"{path}: train.seeds")
    _must_be(dict, sweep, f"{path}: train.sweep")
    for name, values in sweep.items():
        _must_be(list, values, f"{path}: train.sweep.{name}")
    if "residual" in config:
        about = config["residual"]
        _must_be(dict, about, f"{path}: residual")
        _must_be(int, about.get("seed_index"), f"{path}: residual.seed_index")
        _must_be(float, about.get("scale"), f"{path}: residual.scale")
    defaults = registry.module(learner).Config()
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}
    for name, value in config["config"].items():
        if name not in known:
            raise ValueError(f"{path}: {learner} has no field {name!r}{envs.nearest(name, known)}")
        kind = {int: float, tuple: list}.get(type(known[name]), type(known[name]))
        if kind is not float or value != "inf":
            _must_be(kind, value, f"{path}: config.{name}")


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
    if base is None:
        env = envs.make(config["env"], **(config["env_overrides"] | env_overrides))
    else:
        about = config["residual"]
        env = residual(base.env, base.policy(about["seed_index"]), about["scale"])
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["config"].items()}
    fields = {k: math.inf if v == "inf" else v for k, v in fields.items()}
    module = registry.module(config["learner"])
    return env, module.make(env, module.Config(**fields))


def load(run_dir: str | Path, step: int | None = None, **env_overrides) -> Run:
    """Loads a run's newest whole checkpoint, or the one at `step` env steps.

    Raises:
      ValueError: not a run, a damaged config or checkpoint, or no such step.
    """
    run_dir = Path(run_dir)
    config = read_config(run_dir)
    _check(config, run_dir / "config.json")
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
