"""Files of a run, of a data set and of results with one entry changed, and what reads them.

A refusal names the file. An entry whose value has become one of another kind is never accepted where it
is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import collect, record
from experiments.bench.hostile import (
    OPTIONS,
    TASK,
    VALUES,
    Case,
    Draw,
    kind_of,
    numbered,
    outcome,
    small_run,
)
from jaxrl.cli import plot, runs, script
from jaxrl.data import dataset as data
from jaxrl.data import files as data_files
from jaxrl.run import checkpoint, folder
from jaxrl.run.resume import check_shape

GARBAGE = (
    b"",
    b"{",
    b"[1, 2",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b"1" * 5000,
    b"null",
    b"\n\n",
    b"{}",
)
# Entries where a value of another kind is as good: options, and what nothing reads.
FREE = ("env_overrides", "settings", "versions", "hardware", "command", "notes", "about")


@dataclass
class Read:
    """A file below the folder, and everything that reads it."""

    path: str
    readers: tuple[Callable[[Path], Any], ...]


@dataclass
class Mutation:
    """What was done to which file."""

    file: Read
    what: str
    content: bytes | None  # None: something else than a file is in its place
    nonsense: bool  # it must not be accepted


def prepare(root: Path) -> Draw:
    reads = write(root)
    return lambda number: case(draw(number, root, reads), root)


def case(mutation: Mutation, root: Path) -> Case:
    return Case(f"{mutation.file.path}: {mutation.what}", lambda: outcome_of(mutation, root))


def write(root: Path) -> list[Read]:
    """Writes an untrained run, a data set and results below `root`; what there is to mutate."""
    run, saved = small_run(root, sweep={"gamma": [0.9]}, weighted=0.5)
    _save_data(root / "data.npz", {"env": TASK, "env_overrides": OPTIONS, "random_return": 0.5})
    result = collect.entry(_finished(run, root)) | {"notes": ""}
    (root / "results.json").write_text(json.dumps([result]))
    claim = {"task": "maze", "variant": "a", "metric": "return", "seeds": 2, "seconds": 1.5}
    claim |= {"steps": [0, 8], "values": [[0.0, 1.0], [2.0, 3.0]], "config": {}}
    (root / "claim.json").write_text(json.dumps([claim]))

    like = jax.eval_shape(lambda: saved[16])
    newest = lambda _: _undamaged(*checkpoint.restore_newest(run / "checkpoints", like))
    return [
        Read(
            "run/config.json",
            (
                lambda _: runs.load(run).policy(0),
                lambda _: _resume(run),
                lambda _: plot.load(run, "return", "env_steps"),
            ),
        ),
        Read(
            "run/metrics.jsonl",
            (
                lambda _: plot.load(run, "return", "seconds"),
                lambda _: record.medium_step(run, 0.5, 0),
            ),
        ),
        Read("finished/metrics.jsonl", (lambda _: collect.entry(root / "finished"),)),
        Read("finished/config.json", (lambda _: collect.entry(root / "finished"),)),
        Read("run/checkpoints/000000000016/manifest.json", (newest,)),
        Read("run/checkpoints/000000000016/about.json", (newest, lambda _: _same_shape(run))),
        Read(
            "data.npz",
            (lambda path: script.recorded_options(data_files.load(path).metadata, TASK),),
        ),
        Read(
            "results.json",
            (lambda path: collect.table([("", r) for r in _read(path, collect.Result)]),),
        ),
        Read("claim.json", (lambda path: _read(path, collect.common.Entry),)),
    ]


def _finished(run: Path, root: Path) -> Path:
    """A copy without a sweep, whose results can be collected."""
    copy = root / "finished"
    shutil.copytree(run, copy)
    about = folder.read_config(run)
    del about["train"]["sweep"]
    folder.write_config(copy, about)
    return copy


def _read(path: Path, schema: Any) -> list[dict]:
    if not (entries := collect.common.read(path, schema)):
        raise ValueError(f"{path}: has no entries")
    return entries


def _undamaged(step: int, tree: Any, complaints: list[str]) -> Any:
    """A checkpoint that was refused leaves a complaint, which names it."""
    if complaints:
        raise ValueError("; ".join(complaints))
    return tree


def _same_shape(run: Path) -> None:
    """What `train` compares before it goes on."""
    check_shape(checkpoint.about_of(run / "checkpoints", 16), {"num_envs": 4}, run)


def _resume(run: Path) -> None:
    """What a script does with `config.json` before it goes on."""
    sys.argv = ["ppo.py", "--run-dir", str(run), "--resume"]
    script.command_line()
    folder.open_run(run, folder.read_config(run), resume=True)


def _save_data(path: Path, metadata: dict) -> None:
    obs = np.zeros((4, 4), np.float32)
    ends = np.array([False, True] * 2)
    made = data.from_arrays(obs, np.zeros((4, 2)), np.ones(4), obs, ends, ~ends & ends)
    text = json.dumps(metadata)
    data_files._write(path, ".npz", _arrays(made), text)


def _arrays(made: data.Dataset) -> dict[str, np.ndarray]:
    steps = made.steps
    return {
        "observations": steps.obs[:, 0],
        "next_observations": steps.next_obs[:, 0],
        "actions": steps.action[:, 0],
        "rewards": steps.reward[:, 0],
        "terminals": steps.terminated[:, 0],
        "timeouts": steps.truncated[:, 0],
    }


# --- Mutating ---


def draw(number: int, root: Path, reads: list[Read]) -> Mutation:
    """The same mutation for the same number."""
    rng, pick = numbered(number, 16)
    file = pick(reads)
    path = root / file.path
    if rng.random() < 0.08 and path.suffix != ".npz":
        made = pick(("fifo", "folder", "loop", "dangling", "device"))
        return Mutation(file, f"a {made} in its place", None, made != "dangling")
    if rng.random() < 0.08:
        garbage = pick(GARBAGE)
        return Mutation(file, f"all of it {garbage[:10]!r}", garbage, False)
    lines = path.suffix == ".jsonl"
    text = _metadata_of(path) if path.suffix == ".npz" else path.read_bytes().decode()
    values = [json.loads(x) for x in text.splitlines()] if lines else [json.loads(text)]
    which = int(rng.integers(len(values)))
    places = list(_places(values[which]))
    place = pick(places)
    new = pick(VALUES)
    drop = bool(rng.random() < 0.1)
    old = _change(values[which], place, new, drop)
    name = ".".join(map(str, place))
    what = f"{name} left out" if drop else f"{name}={new!r}, which was {old!r}"[:200]
    of_results = path.parent in (root, root / "finished")
    kept = of_results and "config" in place  # and not read there
    nonsense = not (drop or kept) and _is_nonsense(place, old, new)
    made = "".join(json.dumps(x) + "\n" for x in values).encode()
    return Mutation(file, what, made, nonsense)


def _metadata_of(path: Path) -> str:
    with np.load(path) as file:
        return str(file["metadata"])


def _places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where an entry is, as keys and numbers."""
    entries = enumerate(value) if isinstance(value, list) else ()
    for key, inner in value.items() if isinstance(value, dict) else entries:
        yield (*at, key)
        yield from _places(inner, (*at, key))


def _change(value: Any, place: tuple, new: Any, drop: bool) -> Any:
    *outer, last = place
    for key in outer:
        value = value[key]
    old = value[last]
    if drop:
        del value[last]
    else:
        value[last] = new
    return old


def _is_nonsense(place: tuple, old: Any, new: Any) -> bool:
    """Whether a value of this kind can stand for nothing here."""
    if set(place) & set(FREE):
        return False
    of_numbers = isinstance(place[-1], int) or "steps_per_second" in place or "seconds" in place
    if new is None and of_numbers:  # undefined
        return False
    if place[-1] == "env" and new is None:  # plotting needs none; `load` says so
        return False
    if old is None:
        return new is not None and kind_of(new) != "number"
    if {kind_of(old), kind_of(new)} == {"number", "text"} and "inf" in (old, new):  # no limit
        return False
    if isinstance(new, float) and not np.isfinite(new):
        return True
    counts = ("seeds", "seed", "total_steps", "num_evals", "eval_episodes", "devices", "env_steps")
    if place[-1] in counts and "config" not in place and type(new) is not int:
        return True
    return kind_of(old) != kind_of(new) or (place[-1] in counts and new < 0)


@contextlib.contextmanager
def applied(mutation: Mutation, root: Path) -> Iterator[Path]:
    """The file as mutated; as it was afterwards."""
    path = root / mutation.file.path
    kept = path.with_name("kept")
    path.rename(kept)
    try:
        if mutation.content is not None and path.suffix == ".npz":
            with np.load(kept) as file:
                arrays = {k: file[k] for k in file.files if k != "metadata"}
            text = mutation.content.decode(errors="replace")
            data_files._write(path, ".npz", arrays, text)
        elif mutation.content is not None:
            path.write_bytes(mutation.content)
        else:
            _place(mutation.what.split()[1], path)
        yield path
    finally:
        _clear(path)
        kept.rename(path)


def _place(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path.name, "dangling": "nowhere", "device": "/dev/zero"}[kind])


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def outcome_of(mutation: Mutation, root: Path) -> str:
    """What became of it, see `hostile.outcome`."""
    with applied(mutation, root) as path:
        readers = [lambda read=read: read(path) for read in mutation.file.readers]
        return outcome(readers, Path(mutation.file.path).parts, mutation.nonsense)
