"""Data sets in files: D4RL-style arrays in .npz or HDF5, and Minari. Nothing is unpickled.

The arrays of a file, all with one leading axis of T steps:

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

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import Field

from jaxrl.data.dataset import REAL, Dataset, fault, few_entries, from_arrays
from jaxrl.report.files import Option, Schema, parse

HDF5 = (".hdf5", ".h5")
FLAT = ("actions", "rewards", "terminals", "timeouts", "valid")
TREES = ("observations", "next_observations", "signals")
BY_HAND = "give its arrays to jaxrl.data.dataset.from_arrays"
OTHERS = {  # formats that are not read, by their ending
    ".pkl": "a pickle is never read, because reading one runs its code",
    ".pickle": "a pickle is never read, because reading one runs its code",
    ".npy": "holds one array, a data set needs several: np.savez",
    ".hdf": "rename HDF5 to .hdf5",
    ".parquet": f"a table, as of LeRobot: read it with pandas and {BY_HAND}",
    ".zarr": f"a Zarr store: {BY_HAND}",
}
JUMP = 10.0  # times the usual change of an observation looks like an end without a flag
SHOWN = 8  # names of arrays in a message, at most


class Metadata(Schema):
    """The metadata that are read. Every entry is optional, and other entries are kept."""

    env: Annotated[str, Field(min_length=1)] = ""  # as for `envs.make`
    env_overrides: dict[str, Option] = {}
    kind: str = ""
    learner: str = ""
    env_steps: Annotated[int, Field(ge=0)] = 0  # training steps of the recorded policy
    random_return: float = 0.0  # mean returns: a normalised score is 0 here ...
    expert_return: float = 1.0  # ... and 1 here


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
    try:
        text = json.dumps(dataset.metadata)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metadata={dataset.metadata}: must be plain JSON values ({error})"
        ) from None
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
    if path.exists():
        raise ValueError(f"{path} exists: choose another name")
    if path.suffix not in (".npz", *HDF5):
        raise ValueError(f"{path}: must end in .npz, .hdf5 or .h5")
    if path.suffix in HDF5:
        _h5py()


def _write(path: Path, suffix: str, arrays: dict[str, np.ndarray], metadata: str) -> None:
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez_compressed(file, metadata=np.array(metadata), **arrays)
        return
    with _h5py().File(path, "w") as file:
        file.attrs["metadata"] = metadata
        for name, x in arrays.items():
            file.create_dataset(name, data=x, compression="gzip")


def load(
    path: str | Path,
    terminals_are_timeouts: bool = False,
    cut_at: int = 0,
    say: Callable[[str], None] = print,
) -> Dataset:
    """Reads a data set from `.npz` or HDF5, ours or any in this layout.

    Args:
      path: the file.
      terminals_are_timeouts: `terminals` only mark where a recording ends, and rewards come from
        the task (OGBench).
      cut_at: steps after which the clock ends an episode, for a file that does not flag its
        ends. 0: the flags are complete.
      say: called with one line per finding: steps without a next observation, and jumps that look
        like the end of an episode without a flag.

    Raises:
      ValueError: the file is missing, damaged, of an unknown format or links to other files; or an
        array is missing, has a wrong shape or is not finite. The message is one line that names
        the file, the array and the row.
    """
    path = Path(path)
    read = _reader(path)
    if cut_at < 0:
        raise ValueError(f"cut_at={cut_at}: must be at least 1, or 0 for no cut")
    arrays, metadata = read(path)
    if terminals_are_timeouts and "actions" in arrays:
        arrays.setdefault("rewards", np.zeros(arrays["actions"].shape[:1], np.float32))
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


def _reader(path: Path) -> Callable[[Path], tuple[dict[str, np.ndarray], dict]]:
    """Returns the function that reads this format. Other formats raise ValueError with advice."""
    if path.is_dir():
        raise ValueError(f"{path}: {_folder(path)}")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: is no regular file")
    if path.suffix in HDF5:
        return _read_hdf5
    if path.suffix == ".npz":
        return _read_npz
    hint = OTHERS.get(path.suffix.lower(), "an unknown format")
    raise ValueError(f"{path}: {hint}; data sets are read from .npz, .hdf5 and .h5")


def _folder(path: Path) -> str:
    if (path / "meta/info.json").exists():
        return f"a LeRobot folder, which is not read; {BY_HAND}"
    if (path / "data/main_data.hdf5").exists():
        return "a Minari data set: read it with jaxrl.data.minari.from_minari(ID)"
    return "is a folder; data sets are read from .npz, .hdf5 and .h5"


def _missing(path: Path, name: str, have: Iterable[str]) -> ValueError:
    """Returns the error for a missing array, which names some of those that exist."""
    have = list(have)
    if any(n.startswith("data/demo_") for n in have):
        return ValueError(f"{path}: a robomimic file, which is not read; {BY_HAND}")
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
        raise _damaged(path, ".npz", name, error) from None
    return arrays, _metadata(path, arrays.pop("metadata", None))


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    h5py = _h5py()
    arrays, name = {}, None
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("metadata")
            found = datasets_of(file)
            for name, x in found.items():
                fits = not name.startswith("infos/") or x.ndim == 1
                if _used(name) and fits:
                    arrays[name] = np.asarray(x[()])
            if not {"actions", "rewards", "terminals"} & arrays.keys():
                raise Refused(str(_missing(path, "actions", found)))
    except Refused as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None
    except Exception as error:  # h5py raises any exception on a damaged file
        raise _damaged(path, "HDF5", name, error) from None
    return arrays, _metadata(path, text)


class Refused(ValueError):
    """A feature of HDF5 that is refused."""


def datasets_of(file: Any) -> dict[str, Any]:
    """Every array of an open HDF5 file, by name.

    HDF5 can present bytes of any other file as an array. Everything that leads out of the file is
    refused, because an untrusted data set must not read the disk.

    Raises:
      Refused: an external or soft link, external storage or a virtual data set, by its name.
    """
    h5py = _h5py()
    found: dict[str, Any] = {}

    def links(group: Any) -> None:
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                name = f"{group.name}/{key}".lstrip("/")
                raise Refused(f"{name!r} is {kind}, which is not followed: store the array itself")

    def visit(name: str, x: Any) -> None:
        if isinstance(x, h5py.Group):
            links(x)
            return
        if not isinstance(x, h5py.Dataset):
            return
        if x.external:
            raise Refused(f"array {name!r} is stored in another file, which is not read")
        if x.is_virtual:
            raise Refused(f"array {name!r} is a virtual data set, which is not read")
        found[name] = x

    links(file)
    file.visititems(visit)
    return found


def _damaged(path: Path, kind: str, name: str | None, error: Exception) -> ValueError:
    why = " ".join(str(error).split())
    if name is None:
        return ValueError(f"{path} is damaged or no {kind} file ({why})")
    return ValueError(f"{path}: array {name!r} cannot be read ({why})")


def _metadata(path: Path, text: Any) -> dict:
    """Returns the metadata. Raises one line about the first entry that does not fit `Metadata`."""
    return {} if text is None else parse(str(text), Metadata, f"{path}: metadata")


def _check(path: Path, arrays: dict[str, np.ndarray], rows: int) -> None:
    """Raises one line about the first array that is not [rows, ...] finite numbers."""
    for name, x in arrays.items():
        if name.startswith("infos/"):
            continue
        if x.ndim == 1 and name == "actions":
            raise ValueError(f"{path}: array 'actions' has shape {x.shape}, allowed is ({rows}, A)")
        if why := fault(x, rows, flat=name in FLAT[1:]):
            raise ValueError(f"{path}: array {name!r} {why}")


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


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("HDF5 files need h5py: pip install 'jaxrl[minari]'") from None
    return h5py
