"""Data sets in files: D4RL-style arrays in .npz or HDF5, and Minari. Nothing is unpickled.

The arrays of a file, all with one leading axis of T steps:

    observations       [T, obs], or observations/KEY for each entry of a dict
    actions            [T, A] in the environment's units
    rewards            [T] optional where `terminals_are_timeouts`: then 0
    terminals          [T] the MDP ended
    timeouts           [T] optional: the clock ended the episode
    next_observations  [T, obs] optional: else the next row, and steps without one are dropped
    signals/NAME       [T] or [T, ...] optional: see `envs.types.State`
    infos/NAME         [T] optional: the task's metrics; others are not read
    metadata           optional: a text of JSON
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.data.dataset import REAL, Dataset, fault, from_arrays

HDF5 = (".hdf5", ".h5")


def save(dataset: Dataset, path: str | Path) -> None:
    """Writes `.npz` or `.hdf5`, whole or not at all; an existing file is not overwritten.

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
    """Raises ValueError unless `save` could begin a file there: worth asking before a recording."""
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


def load(path: str | Path, terminals_are_timeouts: bool = False) -> Dataset:
    """Reads a data set from `.npz` or HDF5, ours or any in this layout.

    Args:
      path: the file.
      terminals_are_timeouts: `terminals` only mark where a recording ends, and its task is to
        give the rewards (OGBench).

    Raises:
      ValueError: no such file, damaged, an array missing, of a wrong shape, or not finite; one
        line that names the array and the row.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    read = _read_hdf5 if path.suffix in HDF5 else _read_npz
    arrays, metadata = read(path)
    if terminals_are_timeouts and "actions" in arrays:
        arrays.setdefault("rewards", np.zeros(arrays["actions"].shape[:1], np.float32))
    for name in ("actions", "rewards", "terminals"):
        if name not in arrays:
            raise ValueError(f"{path}: array {name!r} is missing; it has {', '.join(arrays)}")
    rows = len(arrays["actions"]) if arrays["actions"].ndim else 0
    if rows == 0:
        raise ValueError(f"{path}: array 'actions' is empty")
    _check(path, arrays, rows)
    obs = _unflatten(path, arrays, "observations")
    terminals = arrays["terminals"].astype(bool)
    timeouts = arrays.get("timeouts", np.zeros(rows)).astype(bool)
    if terminals_are_timeouts:
        terminals, timeouts = np.zeros_like(terminals), terminals | timeouts
    extras = {
        k.removeprefix("infos/"): v.astype(np.float32)
        for k, v in arrays.items()
        if k.startswith("infos/") and v.shape == (rows,) and v.dtype.kind in REAL
    }
    signals = {k.removeprefix("signals/"): v for k, v in arrays.items() if k.startswith("signals/")}
    keep = np.ones(rows, bool)
    if any(k.split("/")[0] == "next_observations" for k in arrays):
        next_obs = _unflatten(path, arrays, "next_observations")
        have, after = (jax.tree.map(lambda x: x.shape[1:], each) for each in (obs, next_obs))
        if have != after:
            raise ValueError(f"{path}: observations have shape {have}, next_observations {after}")
    else:
        # Where a time-out led was not recorded: such a step is dropped, and the one before it
        # ends the episode. What a terminal step led to has no value: its own observation stands.
        following = np.where(terminals, np.arange(rows), np.minimum(np.arange(rows) + 1, rows - 1))
        next_obs = _rows(obs, following)
        timeouts[-1] = True
        keep = terminals | ~timeouts
        timeouts = np.append(~keep[1:], False)
    if not keep.any():
        raise ValueError(
            f"{path}: no step is left: every one is a time-out without next_observations"
        )
    return from_arrays(
        _rows(obs, keep),
        arrays["actions"][keep],
        arrays["rewards"][keep],
        _rows(next_obs, keep),
        terminals[keep],
        timeouts[keep],
        _rows(extras, keep),
        metadata,
        _rows(signals, keep),
    )


def _rows(tree: Any, rows: Any) -> Any:
    return {k: v[rows] for k, v in tree.items()} if isinstance(tree, Mapping) else tree[rows]


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    arrays, name = {}, None
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                arrays[name] = np.asarray(file[name])
    except Exception as error:  # a damaged file makes NumPy, zipfile and zlib raise anything
        raise _damaged(path, ".npz", name, error) from None
    return arrays, _metadata(path, arrays.pop("metadata", None))


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    h5py = _h5py()
    arrays, name = {}, None
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("metadata")
            found: list[str] = []
            file.visititems(lambda n, x: found.append(n) if isinstance(x, h5py.Dataset) else None)
            for name in found:
                if not name.startswith("metadata"):
                    arrays[name] = np.asarray(file[name][()])
    except Exception as error:  # as above, of HDF5
        raise _damaged(path, "HDF5", name, error) from None
    return arrays, _metadata(path, text)


def _damaged(path: Path, kind: str, name: str | None, error: Exception) -> ValueError:
    why = " ".join(str(error).split())
    if name is None:
        return ValueError(f"{path} is damaged or no {kind} file ({why})")
    return ValueError(f"{path}: array {name!r} cannot be read ({why})")


def _metadata(path: Path, text: Any) -> dict:
    if text is None:
        return {}
    try:
        metadata = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: metadata is not JSON ({error})") from None
    return metadata if isinstance(metadata, dict) else {}


def _check(path: Path, arrays: dict[str, np.ndarray], rows: int) -> None:
    """One line on the first array that is not [rows, ...] finite numbers."""
    known = ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")
    known += ("signals",)
    for name, x in arrays.items():
        if name.split("/")[0] not in known:
            continue
        if x.ndim == 1 and name == "actions":
            raise ValueError(f"{path}: array 'actions' has shape {x.shape}, allowed is ({rows}, A)")
        if why := fault(x, rows, flat=name in ("rewards", "terminals", "timeouts")):
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
        raise ValueError(f"{path}: array {name!r} is missing; it has {', '.join(arrays)}")
    return parts


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("HDF5 files need h5py: pip install 'jaxrl[minari]'") from None
    return h5py
