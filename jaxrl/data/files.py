"""Data sets in files: D4RL-style arrays in .npz or HDF5, OGBench, robomimic, LeRobot.

`load` recognises the format by the suffix and the content. Nothing is unpickled. The layouts of others
are in `robomimic.py`, `lerobot.py` and `ogbench.py`. The arrays of our own layout, all with one leading axis of T steps:

    observations       [T, obs], or observations/KEY for each entry of a dict
    actions            [T, A] in the environment's units
    rewards            [T] optional where `terminals_are_timeouts`: then 0
    terminals          [T] the MDP ended
    timeouts           [T] optional: the clock ended the episode
    next_observations  [T, obs] optional: else the next row
    valid              [T] optional: False where `next_observations` is made up
    signals/NAME       [T] or [T, ...] optional: see `envs.types.State`
    infos/NAME         [T] optional: the task's metrics; others are not read
    metadata           optional: a text of JSON

Other arrays are ignored, and those of HDF5 are not even read. Without `next_observations` the last
step of a timed-out episode has no next observation. The step keeps its action, reward and metrics
and is marked as not `valid`: cloning uses it, learners that bootstrap skip it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from envs.transforms.base import check_count
from jaxrl.data import lerobot, ogbench, robomimic
from jaxrl.data.dataset import REAL, Dataset, few_entries, from_arrays
from jaxrl.data.reading import (
    Refused,
    as_json,
    check_array,
    damaged,
    datasets_of,
    h5py_package,
    parse_metadata,
)

HDF5 = (".hdf5", ".h5")
FLAT = ("actions", "rewards", "terminals", "timeouts", "valid")
TREES = ("observations", "next_observations", "signals")
BY_HAND = "give its arrays to jaxrl.data.dataset.from_arrays"
OTHERS = {  # formats that are not read, by their ending
    ".pkl": "a pickle is never read, because reading one runs its code",
    ".pickle": "a pickle is never read, because reading one runs its code",
    ".npy": "holds one array, a data set needs several: np.savez",
    ".hdf": "rename HDF5 to .hdf5",
    ".parquet": "a table: of a LeRobot data set, give the folder",
    ".zarr": f"a Zarr store: {BY_HAND}",
}
JUMP = 10.0  # times the usual change of an observation looks like an end without a flag
FORMATS = "data sets are read from .npz, .hdf5, .h5 and LeRobot folders"
SHOWN = 8  # names of arrays in a message, at most


def save(dataset: Dataset, path: str | Path) -> None:
    """Writes `.npz` or `.hdf5`, whole or not at all. An existing file is not overwritten.

    Raises:
      ValueError: the file exists or has another ending, or the metadata are not JSON.
      RuntimeError: it cannot be written.
    """
    path = Path(path)
    check_new(path)
    arrays = _flatten("observations", dataset.steps.obs)
    arrays |= _flatten("next_observations", dataset.steps.next_obs)
    arrays |= {
        "actions": dataset.steps.action[:, 0],
        "rewards": dataset.steps.reward[:, 0],
        "terminals": dataset.steps.terminated[:, 0],
        "timeouts": dataset.steps.truncated[:, 0],
    }
    arrays |= {f"signals/{k}": v[:, 0] for k, v in dataset.steps.signals.items()}
    arrays |= {f"infos/{k}": v for k, v in dataset.extras.items()}
    if not dataset.steps.valid.all():
        arrays["valid"] = dataset.steps.valid[:, 0]
    text = as_json(dataset.metadata)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(part, path.suffix, arrays, text)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeError(f"cannot write {path}: {error.strerror or error}") from error


def check_new(path: Path) -> None:
    """Raises ValueError if `save` cannot write a file there. Call it before a long recording."""
    if os.path.exists(path):  # False for a name that is too long, where `Path` raises
        raise ValueError(f"{path} exists: choose another name")
    if path.suffix not in (".npz", *HDF5):
        raise ValueError(f"{path}: must end in .npz, .hdf5 or .h5")
    if path.suffix in HDF5:
        h5py_package()


def _write(path: Path, suffix: str, arrays: dict[str, np.ndarray], metadata: str) -> None:
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez_compressed(file, metadata=np.array(metadata), **arrays)
        return
    with h5py_package().File(path, "w") as file:
        file.attrs["metadata"] = metadata
        for name, x in arrays.items():
            file.create_dataset(name, data=x, compression="gzip")


def load(
    path: str | Path,
    terminals_are_timeouts: bool = False,
    cut_at: int = 0,
    say: Callable[[str], None] = print,
    split: str = "",
    images: bool = False,
) -> Dataset:
    """Reads a data set: `.npz` or HDF5 in our layout, OGBench, robomimic HDF5 or a LeRobot folder.

    Args:
      path: the file or the folder.
      terminals_are_timeouts: `terminals` only mark where a recording ends, and rewards come from
        the task. OGBench's files with `qpos` and `qvel` are read so without it.
      cut_at: steps after which the clock ends an episode, for a file that does not flag its
        ends. 0: the flags are complete.
      say: called with one line per finding: what is left out, steps without a next observation, and
        jumps that look like the end of an episode without a flag.
      split: one part of the episodes: a filter key of robomimic, a split of LeRobot. "": all.
      images: keep robomimic's images among the observations, as uint8. They are left out else.

    Raises:
      ValueError: the file is missing, damaged, of an unknown format or links to other files; or an
        array is missing, has a wrong shape or is not finite. The message is one line that names
        the file, the array and the row.
      ImportError: the format needs a package that is not installed.
    """
    path = Path(path)
    read = _reader(path, split, images, say)
    check_count("cut_at", cut_at, 0)
    arrays, metadata = read(path)
    if ogbench.recognised(arrays) and path.suffix == ".npz" and not terminals_are_timeouts:
        terminals_are_timeouts = True
        say(f"{path}: {ogbench.FOUND}")
    if terminals_are_timeouts and "actions" in arrays and "rewards" not in arrays:
        arrays["rewards"] = np.zeros(arrays["actions"].shape[:1], np.float32)
        metadata = metadata | {"unrewarded": True}
    for name in ("actions", "rewards", "terminals"):
        if name not in arrays:
            raise _missing(path, name, arrays)
    rows = len(arrays["actions"]) if arrays["actions"].ndim else 0
    if rows == 0:
        raise ValueError(f"{path}: array 'actions' is empty")
    _check(path, arrays, rows)
    obs = _unflatten(path, arrays, "observations")
    terminals = arrays["terminals"].astype(bool)
    timeouts = arrays.get("timeouts", np.zeros(rows)).astype(bool)
    if terminals_are_timeouts:
        terminals, timeouts = np.zeros_like(terminals), terminals | timeouts
    if cut_at:
        timeouts |= _age(terminals | timeouts) % cut_at == cut_at - 1
    signals = {k.removeprefix("signals/"): v for k, v in arrays.items() if k.startswith("signals/")}
    timeouts[-1] = True  # the file ends here
    timeouts &= ~terminals
    if any(k.split("/")[0] == "next_observations" for k in arrays):
        next_obs = _unflatten(path, arrays, "next_observations")
        have, after = (jax.tree.map(lambda x: x.shape[1:], each) for each in (obs, next_obs))
        if have != after:
            raise ValueError(f"{path}: observations have shape {have}, next_observations {after}")
        valid = arrays.get("valid", np.ones(rows)).astype(bool)
    else:
        # Without a next observation the step repeats its own. Nothing bootstraps from it.
        ends = terminals | timeouts
        next_obs = _rows(obs, np.arange(rows) + ~ends)
        valid = ~timeouts
        if jumps := _jumps(obs, ends):
            say(
                f"{path}: {len(jumps)} steps change the observation over {JUMP:g} times as much as"
                f" usual, the first at row {jumps[0]}: ends of episodes without a flag? cut_at=STEPS"
                " cuts there"
            )
    if not valid.all():
        say(
            f"{path}: {(~valid).sum()} of {rows} steps have no next observation, the first at row"
            f" {(~valid).argmax()}: cloning learns from them, learners that bootstrap leave them out"
        )
    return from_arrays(
        obs,
        arrays["actions"],
        arrays["rewards"],
        next_obs,
        terminals,
        timeouts,
        _extras(arrays, rows),
        metadata,
        signals=signals,
        valid=valid,
        name=str(path),
    )


def metadata_of(path: str | Path) -> dict[str, Any]:
    """Returns the metadata of a file; {} if it has none. The arrays of our own formats are not read.

    Raises:
      ValueError: the file is missing, damaged or of an unknown format, or an entry has another type.
    """
    path = Path(path)
    quiet = lambda _: None
    read = _reader(path, "", False, quiet)
    if read not in (_read_hdf5, _read_npz):
        return load(path, say=quiet).metadata
    kind = "HDF5" if read is _read_hdf5 else ".npz"
    try:
        if kind == "HDF5":
            with h5py_package().File(path, "r") as file:
                text = file.attrs.get("metadata")
        else:
            with np.load(path, allow_pickle=False) as file:
                text = file["metadata"] if "metadata" in file.files else None
    except ImportError:
        raise
    except Exception as error:  # any exception, see `_read_npz` and `_read_hdf5`
        raise damaged(path, kind, None, error) from None
    return parse_metadata(path, text)


def _extras(arrays: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """The task's metrics among the arrays, [T] numbers each."""
    return {
        k.removeprefix("infos/"): v.astype(np.float32)
        for k, v in arrays.items()
        if k.startswith("infos/") and v.shape == (rows,) and v.dtype.kind in REAL
    }


def _age(ends: np.ndarray) -> np.ndarray:
    """Returns the steps since the start of each row's episode. ends: [T] bool"""
    rows = np.arange(len(ends))
    begins = np.where(np.append(True, ends[:-1]), rows, 0)
    return rows - np.maximum.accumulate(begins)


def _jumps(obs: Any, ends: np.ndarray) -> list[int]:
    """Rows within an episode after which observations change `JUMP` times as much as usual."""
    flat = np.concatenate([few_entries(x) for x in jax.tree.leaves(obs)], 1)
    spread = np.maximum(flat.std(0), 1e-6)
    moved = np.linalg.norm(np.diff(flat, axis=0) / spread, axis=1)
    inside = ~ends[:-1]
    if not (moved[inside] > 0).any():
        return []
    often, most = np.quantile(moved[inside & (moved > 0)], [0.5, 0.9])
    return np.flatnonzero(inside & (moved > JUMP * often) & (moved > 3 * most)).tolist()


def _reader(
    path: Path, split: str, images: bool, say: Callable[[str], None]
) -> Callable[[Path], tuple[dict[str, np.ndarray], dict]]:
    """Returns the function that reads this format. Other formats raise ValueError with advice."""
    if os.path.isdir(path):
        if not (path / lerobot.INFO).exists():
            raise ValueError(f"{path}: {_folder(path)}")
        return partial(lerobot.read, split=split, say=say)
    if not os.path.exists(path):
        raise ValueError(f"{path}: no such file")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: is no regular file")
    if path.suffix not in (".npz", *HDF5):
        hint = OTHERS.get(path.suffix.lower(), "an unknown format")
        raise ValueError(f"{path}: {hint}; {FORMATS}")
    if path.suffix in HDF5 and robomimic.recognised(path):
        return partial(robomimic.read, split=split, images=images, say=say)
    if split:
        raise ValueError(f"split={split!r}: {path} has none, only robomimic and LeRobot have")
    return _read_hdf5 if path.suffix in HDF5 else _read_npz


def _folder(path: Path) -> str:
    if (path / "data/main_data.hdf5").exists():
        return "a Minari data set: read it with jaxrl.data.minari.from_minari(ID)"
    return f"is a folder without {lerobot.INFO}; {FORMATS}"


def digest(path: str | Path) -> str:
    """Returns the SHA-256 of a data file, or of the names and contents below a folder. [64] hex

    Videos are left out, because they are not read.
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    every = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".json")):
        if part.is_file():
            every.update(f"{part.relative_to(path)} {digest(part)}\n".encode())
    return every.hexdigest()


def _missing(path: Path, name: str, have: Iterable[str]) -> ValueError:
    """Returns the error for a missing array, which names some of those that exist."""
    have = list(have)
    more = f" and {len(have) - SHOWN} more" if len(have) > SHOWN else ""
    listed = ", ".join(have[:SHOWN]) or "no arrays"
    return ValueError(f"{path}: array {name!r} is missing; it has {listed}{more}")


def _rows(tree: Any, rows: Any) -> Any:
    return {k: v[rows] for k, v in tree.items()} if isinstance(tree, Mapping) else tree[rows]


def _used(name: str) -> bool:
    """Whether an array of this name is read."""
    return name in FLAT or name.split("/")[0] in (*TREES, "infos")


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    arrays, name = {}, None
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:  # also unused arrays, because reading checks their checksums
                arrays[name] = np.asarray(file[name])
    except Exception as error:  # NumPy, zipfile and zlib raise any exception on a damaged file
        raise damaged(path, ".npz", name, error) from None
    return arrays, parse_metadata(path, arrays.pop("metadata", None))


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    h5py = h5py_package()
    arrays, name = {}, None
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("metadata")
            found = datasets_of(file)
            _check_places(file, found)
            for name, x in found.items():
                fits = not name.startswith("infos/") or x.ndim == 1
                if _used(name) and fits:
                    _check_size(name, x)
                    arrays[name] = np.asarray(x[()])
            if not {"actions", "rewards", "terminals"} & arrays.keys():
                raise Refused(str(_missing(path, "actions", found)))
    except Refused as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None
    except Exception as error:  # h5py raises any exception on a damaged file
        raise damaged(path, "HDF5", name, error) from None
    return arrays, parse_metadata(path, text)


def _check_places(file: Any, found: dict[str, Any]) -> None:
    """Raises Refused where something else than an array has the name of one that is read."""
    holds = lambda name: any(k.startswith(f"{name}/") for k in found)
    for name in (*FLAT, "observations", "next_observations"):
        if name in file and name not in found and not (name not in FLAT and holds(name)):
            raise Refused(f"{name!r} is {type(file[name]).__name__}, must be an array")


def _check_size(name: str, x: Any) -> None:
    """Raises Refused if an array needs more than the free memory: a file may declare any shape."""
    if x.size is not None and x.size * x.dtype.itemsize > psutil.virtual_memory().available:
        raise Refused(
            f"array {name!r} has shape {x.shape}, which is more than the free memory holds"
        )


def _check(path: Path, arrays: dict[str, np.ndarray], rows: int) -> None:
    """Raises one line about the first array that is not [rows, ...] finite numbers."""
    for name, x in arrays.items():
        if name.startswith("infos/") or not _used(name):
            continue
        if x.ndim == 1 and name == "actions":
            raise ValueError(f"{path}: array 'actions' has shape {x.shape}, allowed is ({rows}, A)")
        check_array(path, name, x, rows, flat=name in FLAT[1:])


def _flatten(name: str, obs: Any) -> dict[str, np.ndarray]:
    if isinstance(obs, Mapping):
        return {f"{name}/{k}": v[:, 0] for k, v in obs.items()}
    return {name: obs[:, 0]}


def _unflatten(path: Path, arrays: dict[str, np.ndarray], name: str) -> Any:
    if name in arrays:
        return arrays[name]
    parts = {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}
    if not parts:
        raise _missing(path, name, arrays)
    return parts
