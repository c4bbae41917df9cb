"""The folder of a run: its `config.json`, and the checks before a run starts or resumes."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import envs
from jaxrl import __version__
from jaxrl.learners import registry
from jaxrl.report.files import Option, Scalar, Schema, check, plain, read_json, whole
from jaxrl.run import runtime
from jaxrl.types import Learner

FILE = "config.json"
ROAD = "refine"  # the "learner" of a folder of several runs, made by experiments/refine.py
COMPARED = ("learner", "env", "env_overrides", "config", "train", "residual", "settings")
MOST = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=MOST)]
Place = Annotated[int, Field(ge=0, le=2**32 - 1)]  # of a seed


class Train(Schema):
    """Length, number of runs and evaluations of a training."""

    total_steps: Annotated[int, Field(ge=1, le=2**53)]  # environment steps or updates per seed
    seeds: Count
    seed: Place = 0
    num_evals: Annotated[int, Field(ge=0, le=MOST)] = 0
    eval_episodes: Count = 1
    devices: Count = 1
    sweep: dict[str, Annotated[list[float], Field(min_length=1)]] = {}
    data: str = ""  # the data file of the learner
    data_sha256: str = ""
    matmul_precision: str = ""
    weighted: Annotated[float, Field(ge=0)] = 0.0  # how the data file was read
    cut_at: Annotated[int, Field(ge=0)] = 0
    terminals_are_timeouts: bool = False


DEFAULTS = {k: Train.model_fields[k].default for k in ("cut_at", "terminals_are_timeouts")}


class Residual(Schema):
    """The base policy in the environment, see `envs.transforms.residual`."""

    run: str  # the folder that it was copied from
    seed_index: Place
    scale: Annotated[float, Field(gt=0)]


class Config(Schema):
    """`config.json` of one training: enough to build the same run again."""

    jaxrl: str  # the version that wrote it
    learner: str  # a name of the registry, or MODULE:make
    env: str | None  # the name for `envs.make`; null: another function made it
    env_overrides: dict[str, Option]
    config: dict[str, Option]
    train: Train
    unit: Literal["env steps", "updates"] = "env steps"  # of `train.total_steps`
    versions: dict[str, str] = {}
    hardware: str = ""
    settings: dict[str, Scalar] = {}  # of JAX and XLA, see `runtime.settings`
    command: list[str] = []
    residual: Residual = None


class RoadTrain(Schema):
    """The settings of `experiments/refine.py` beside those of the two learners."""

    demos: Count
    noise: Annotated[float, Field(ge=0)]
    bc_updates: Annotated[int, Field(ge=1, le=2**53)]
    rl_steps: Annotated[int, Field(ge=1, le=2**53)]
    scale: Annotated[float, Field(gt=0)]
    seed: Place


class Road(Config):
    """`config.json` of a road of several runs."""

    train: RoadTrain


def describe(
    learner: str,
    env: str | None,
    env_overrides: dict,
    config: Any,
    train: dict,
    unit: str = "env steps",
) -> dict[str, Any]:
    """Returns the content of `config.json`, see `Config`."""
    return {
        "jaxrl": __version__,
        "learner": learner,
        "env": env,
        "env_overrides": {name: plain(value) for name, value in env_overrides.items()},
        "config": {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)},
        "train": train,
        "unit": unit,
        "versions": versions(),
        "hardware": runtime.hardware(),
        "settings": runtime.settings(),
    }


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that results depend on."""
    return {p: metadata.version(p) for p in ("jax", "mujoco", "mujoco-mjx", "flax")}


def describe_learner(learner: Learner, train: dict) -> dict[str, Any]:
    """Returns `describe` of a learner that was made in Python.

    The environment has a name if `envs.make` made it with options that JSON can hold.
    """
    env, overrides = envs.made_by(learner.env) or (None, {})
    overrides = {name: plain(value) for name, value in overrides.items()}
    try:
        json.dumps(overrides)
    except (TypeError, ValueError):
        env, overrides = None, {}
    name = registry.name_of(learner.config)
    return describe(name, env, overrides, learner.config, train, learner.unit)


def write_config(run_dir: Path, config: dict) -> None:
    with whole(run_dir / FILE) as part:
        part.write_text(json.dumps(config, indent=2) + "\n")


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """Returns the content of `config.json`, with every entry of the right type.

    Raises:
      ValueError: there is no such file, or it is damaged. The message is one line.
    """
    path = Path(run_dir) / FILE
    try:
        config = read_json(path, Schema)
    except FileNotFoundError:
        raise ValueError(f"{run_dir} is not a run: it has no {FILE}") from None
    check(config, Road if config.get("learner") == ROAD else Config, str(path))
    return config


def check_version(config: dict[str, Any], run_dir: str | Path) -> None:
    """Raises ValueError if another version of jaxrl wrote `config`: MAJOR or MINOR differs."""
    written = config["jaxrl"]
    if written.split(".")[:2] != __version__.split(".")[:2]:
        raise ValueError(
            f"{run_dir} was written by jaxrl {written}, which jaxrl {__version__} cannot read:"
            f" install jaxrl {written} to resume or play it"
        )


def open_run(
    run_dir: Path,
    description: dict[str, Any],
    resume: bool,
    compared: tuple[str, ...] = COMPARED,
) -> None:
    """Writes `config.json` into a new folder, or checks it before a resume.

    A resumed run may have more steps than before.

    Args:
      run_dir: the folder.
      description: from `describe`.
      resume: continue the run in the folder.
      compared: sections of `config.json` that must not change on a resume.

    Raises:
      ValueError: without `resume`, the folder is not empty (a lone `config.json`, left by a failed
        start, is allowed). With `resume`, it holds no run or one with other settings.
      RuntimeError: it cannot be written.
    """
    if not resume:
        is_new = not run_dir.exists() or (run_dir.is_dir() and _is_unused(run_dir))
        if not is_new:
            raise ValueError(f"run_dir={run_dir} exists: add --resume to go on, or choose another")
        write_config(run_dir, description)
        return
    saved = read_config(run_dir)
    check_version(saved, run_dir)
    now = json.loads(json.dumps(description))  # as JSON reads it back
    for section in compared:
        old, new = saved.get(section), now.get(section)
        if section == "train":  # what an older run did not record was the default
            old = {k: DEFAULTS[k] for k in DEFAULTS.keys() & new.keys()} | old
        _check_section(old, new, section, run_dir)
    if saved["train"] != now["train"]:  # more steps, or other devices
        if "command" in saved and saved["train"]["total_steps"] != now["train"]["total_steps"]:
            saved["command"] += ["--total-steps", str(now["train"]["total_steps"])]
        write_config(run_dir, saved | {"train": now["train"]})


def _check_section(old: Any, new: Any, section: str, run_dir: Path) -> None:
    if not isinstance(old, dict):
        old, new = {section: old}, {section: new}
    for name in sorted(set(old) | set(new)):
        if name == "devices" or old.get(name) == new.get(name):
            continue
        more = name == "total_steps" and isinstance(old.get(name), int)
        if not more or new[name] < old[name]:
            raise ValueError(
                f"cannot resume {run_dir}: its {name} is {old.get(name)}, not {new.get(name)}"
            )


def _is_unused(run_dir: Path) -> bool:
    return {path.name for path in run_dir.iterdir()} <= {FILE, ".config.part.json"}


def command() -> list[str]:
    """Returns the command line of this process: the script's name and its flags."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
