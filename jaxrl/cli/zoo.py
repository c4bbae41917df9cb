"""Policies that are kept as two small files: `policy.npz`, the learned arrays, and `card.json`.

The card says how the policy was made, what it reaches, and the SHA-256 of the arrays. `jaxrl push`
writes such a folder from a run, `jaxrl pull` fetches one, and `jaxrl demo` shows one acting. Those
that come with the package are in `jaxrl/zoo/`, listed by `zoo.json`.

Nothing is unpickled, and a card chooses no code: its learner must be one of this library, and its
environment one of `envs.names()`, which are those of this library and of installed packages.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import Field

import envs
from jaxrl import __version__
from jaxrl.cli import runs
from jaxrl.episodes import evaluate
from jaxrl.learners import registry
from jaxrl.policies.deployed import deployed
from jaxrl.report import log
from jaxrl.report.files import Option, Schema, read_bytes, read_json, whole
from jaxrl.report.summary import mean_interval
from jaxrl.run import folder
from jaxrl.types import Policy

CARD, ARRAYS, README = "card.json", "policy.npz", "README.md"
FOLDER = Path(str(resources.files("jaxrl"))) / "zoo"
LIST = "zoo.json"  # of the package: a sentence for every name, the first is shown by default
SUITES = ("brax/", "playground/", "gymnax/")
HEADER = 1024  # bytes that a file of arrays may have for each of them, beside the numbers
KEY = 0x2005  # so that episodes differ from those of training with the same seed


class Score(Schema):
    """Mean of a metric over episodes that the policy had not seen, with its 95% interval."""

    metric: str
    mean: float
    low: float
    high: float
    episodes: folder.Count


class Card(Schema):
    """What is known of a policy."""

    jaxrl: str  # the version that wrote it
    learner: str  # a name of the registry
    env: str  # a name for `envs.make`
    env_overrides: dict[str, Option]
    config: dict[str, Option]  # of the learner
    steps: Annotated[int, Field(ge=0)]  # environment steps or updates, see `unit`
    unit: str
    score: Score
    curve: list[list[float | None]]  # steps and mean return of each evaluation
    command: str  # that trained it; "" if a program did
    sha256: str  # of `policy.npz`


@dataclass(frozen=True)
class Kept:
    """A policy, ready to act in one instance of `env`."""

    env: Any
    policy: Policy
    card: dict[str, Any]


def shipped() -> dict[str, str]:
    """Returns the policies that come with the package: a sentence for every name."""
    return read_json(FOLDER / LIST, dict[str, str])


def find(name: str) -> Path:
    """Returns the folder of a policy of the package, or the folder that `name` is.

    Raises:
      ValueError: there is none.
    """
    if name in shipped():
        return FOLDER / name
    if (Path(name) / CARD).is_file():
        return Path(name)
    near = envs.nearest(name, shipped())
    raise ValueError(
        f"{name!r} is neither a folder with {CARD} nor one of {', '.join(shipped())}{near}"
    )


def save(
    run_dir: str | Path,
    out: Path,
    *,
    seed_index: int = 0,
    step: int | None = None,
    episodes: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures one policy of a run and writes its folder. An earlier one is replaced.

    Args:
      run_dir: the run.
      out: the folder.
      seed_index: which policy, in configs * seeds.
      step: of the checkpoint; None: the newest.
      episodes: how many to measure it on.
      seed: of these episodes.

    Returns:
      the card.

    Raises:
      ValueError: no such run, seed or checkpoint, a residual, or an environment or a learner that is
        code of your own.
      RuntimeError: a file cannot be written.
    """
    run = runs.load(run_dir, step)
    if "residual" in run.config:
        raise ValueError(f"{run_dir} is a residual, which needs its base: export it instead")
    _check_names(run.config, str(run_dir))
    policy = run.policy(seed_index)
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(x) for name, x in _named(policy.params)})
    card = {
        "jaxrl": __version__,
        "learner": run.config["learner"],
        "env": run.config["env"],
        "env_overrides": run.config["env_overrides"],
        "config": run.config["config"],
        "steps": run.env_steps,
        "unit": run.config.get("unit", "env steps"),
        "score": _score(run.env, policy, episodes, seed),
        "curve": _curve(Path(run_dir), seed_index),
        "command": _command(run.config),
        "sha256": hashlib.sha256(file.getvalue()).hexdigest(),
    }
    with whole(out / ARRAYS) as part:
        part.write_bytes(file.getvalue())
    with whole(out / CARD) as part:
        part.write_text(json.dumps(card, indent=1, allow_nan=False) + "\n")
    with whole(out / README) as part:
        part.write_text(page(card))
    return card


def load(source: str | Path) -> Kept:
    """Loads a policy from its folder.

    Raises:
      ValueError: a file is missing, damaged or altered, another version of jaxrl wrote it, or it
        names a learner or an environment that is not known here.
    """
    source = Path(source)
    card = read_json(source / CARD, Card)
    label = str(source / CARD)
    folder.check_version(card, source)
    _check_names(card, label)
    runs.check_learner(card, source / CARD)
    data = read_bytes(source / ARRAYS)
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise ValueError(f"{source / ARRAYS} is damaged: its SHA-256 is not that of {CARD}")
    try:
        env, learner = runs.build(card)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{label}: {error}") from None
    like = jax.eval_shape(lambda key: learner.policy(learner.init(key)), jax.random.key(0))
    params = _filled(like.params, data, source / ARRAYS)
    return Kept(env, deployed(like.replace(params=params), env), card)


def page(card: dict[str, Any]) -> str:
    """Returns the page of a policy, in the form of a model card of Hugging Face."""
    score = card["score"]
    rows = [
        ("task", f"`{card['env']}` {card['env_overrides'] or ''}"),
        ("learner", f"`{card['learner']}`"),
        ("trained for", f"{card['steps']:,} {card['unit']}"),
        (
            f"{score['metric']}, {score['episodes']} episodes",
            f"{score['mean']:.5g} (95% interval {score['low']:.5g} .. {score['high']:.5g})",
        ),
        ("command", f"`{card['command']}`"),
        ("jaxrl", card["jaxrl"]),
        ("SHA-256 of the arrays", f"`{card['sha256']}`"),
    ]
    head = "---\nlibrary_name: jaxrl\ntags:\n- reinforcement-learning\n- robotics\n---\n"
    table = "\n".join(["| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])
    use = "```bash\njaxrl pull REPOSITORY --out policy\njaxrl demo policy\n```"
    return f"{head}\n# {card['env']} by {card['learner']}\n\n{table}\n\n{use}\n"


# --- Arrays ---


def _named(params: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return [(jax.tree_util.keystr(path), x) for path, x in leaves]


def _filled(like: Any, data: bytes, path: Path) -> Any:
    """Returns the tree `like` with the arrays of an .npz file.

    Raises:
      ValueError: the file is none, or an array is missing, left over, or of another shape or type.
    """
    expected = dict(_named(like))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            size = sum(entry.file_size for entry in file.infolist())
        most = sum(x.size * x.dtype.itemsize + HEADER for x in expected.values())
        if size > most:
            raise ValueError(f"it unpacks to {size:,} bytes, at most {most:,} are expected")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if odd := sorted(found.keys() ^ expected.keys()):
        where = "is missing" if odd[0] in expected else "belongs to no part of this policy"
        raise ValueError(f"{path}: {odd[0]} {where}")
    for name, x in expected.items():
        if (found[name].shape, found[name].dtype) != (x.shape, x.dtype):
            raise ValueError(
                f"{path}: {name} is {found[name].dtype}{list(found[name].shape)}, this policy has"
                f" {x.dtype}{list(x.shape)}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in expected])


# --- Cards ---


def _check_names(about: dict[str, Any], label: str) -> None:
    """Raises ValueError unless the learner and the environment are of this library."""
    learner, env = about["learner"], about["env"]
    if learner not in registry.LEARNERS:
        raise ValueError(f"{label}: learner={learner!r}: is not a learner of this library")
    if env not in envs.names() and not str(env).startswith(SUITES):
        raise ValueError(f"{label}: env={env!r}: is not one of envs.names()")


def _score(env: Any, policy: Policy, episodes: int, seed: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), KEY), episodes)
    measured = jax.device_get(jax.jit(lambda p, k: evaluate(env, p, k))(policy, keys))
    metric = "success" if "success" in measured else "return"
    values = np.asarray(measured[metric], np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("every episode broke: the policy has no score")
    low, high = mean_interval(values)
    numbers = {"mean": values.mean(), "low": low, "high": high}
    rounded = {name: float(f"{x:.6g}") for name, x in numbers.items()}
    return {"metric": metric, **rounded, "episodes": int(values.size)}


def _curve(run_dir: Path, index: int) -> list[list[float | None]]:
    """Steps and return of every evaluation of one run of a run directory."""
    if not (run_dir / log.FILE).exists():
        return []
    found = []
    for record in log.read(run_dir):
        if record["kind"] == "eval" and "return" in record:
            value = np.ravel(np.array(record["return"], float))[index]
            steps, shown = record["env_steps"], float(f"{value:.6g}")
            found.append([steps, shown if np.isfinite(value) else None])
    return found


def _command(config: dict[str, Any]) -> str:
    """The command that began a run, without the folder that it wrote."""
    if not config.get("command"):
        return ""
    script, *words = config["command"]
    for i, word in enumerate(words):
        if word == "--run-dir":
            words = words[:i] + words[i + 2 :]
            break
    kept = [word for word in words if not word.startswith("--run-dir=")]
    return " ".join(["python", f"experiments/{script}", *kept])
