"""robomimic's HDF5: reads and writes it. Nothing is unpickled, nothing outside the file is read.

Source: docs/datasets/overview.md of ARISE-Initiative/robomimic at commit 0b022fe, and
robomimic/scripts/dataset_states_to_obs.py at commit 12bda84. The layout, N steps in a demo:

    data                     attributes: total, env_args (JSON: env_name, type, env_kwargs)
    data/demo_K              attribute: num_samples = N
    data/demo_K/actions      [N, A] in -1 .. 1
    data/demo_K/rewards      [N]
    data/demo_K/dones        [N]
    data/demo_K/obs/KEY      [N, ...]; images are uint8 [N, H, W, C]
    data/demo_K/next_obs/KEY [N, ...] optional
    mask/NAME                names of demos: a filter key, such as train or valid

A demo is an episode. Its `dones` do not end it earlier. They are 1 where the task has succeeded, at
the end of the demo, or at both (`--done_mode` 0, 1, 2), and no flag says which:

- If some demo does not end by `dones`, the flag of the last step says whether the MDP ended.
- If every demo ends by it and every reward is 0 or 1, the MDP ended where the last reward is 1.
- Else nothing tells the two apart: every demo was ended by the clock, and a line says so.

Rewards that are all 0 or 1 are the task's success, too. A file with the single key `flat` has plain
observations, as those that robomimic converts from D4RL.

`save` adds what robomimic ignores and `read` needs to return an equal data set: the attribute
`metadata` of `data`, and in each demo `terminals`, `valid`, `infos/NAME` and `signals/NAME`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.data.dataset import REAL, Dataset
from jaxrl.data.reading import (
    Refused,
    as_json,
    check_array,
    damaged,
    datasets_of,
    h5py_package,
    is_image,
    parse_metadata,
)
from jaxrl.report.files import whole

PLAIN = "flat"  # the key of observations that are one array
ARGS = "robomimic"  # the entry of the metadata that holds `env_args`
GYM = 2  # robomimic's number of an environment of Gym
SHOWN = 8  # names in a message, at most
FLAGS = ("rewards", "dones", "terminals", "valid")  # [N]
NEEDED = ("actions", "rewards", "dones")


def recognised(path: Path) -> bool:
    """Whether an HDF5 file holds demos. False for a damaged file."""
    h5py = h5py_package()
    try:
        with h5py.File(path, "r") as file:
            data = "data" in file and file.get("data", getclass=True, getlink=True) is h5py.HardLink
            return data and isinstance(file["data"], h5py.Group) and bool(_demos(file["data"]))
    except Exception:  # h5py raises any exception on a damaged file
        return False


def read(
    path: Path, split: str = "", images: bool = False, say: Callable[[str], None] = print
) -> tuple[dict[str, np.ndarray], dict]:
    """Returns the arrays of all demos one after another, in the layout of `files.py`, and metadata.

    Args:
      path: the file.
      split: a filter key, whose demos are read. "": all.
      images: keep image observations, as uint8.
      say: called with one line per finding: images that are left out, filter keys, unclear ends.

    Raises:
      ValueError: the file is damaged or links to other files, there is no such filter key; or an
        array of a demo is missing, has a wrong length or is not finite. The message is one line
        that names the file, the array, and what is allowed.
    """
    name = None
    try:
        with h5py_package().File(path, "r") as file:
            found = datasets_of(file)
            text = file["data"].attrs.get("metadata")
            args = file["data"].attrs.get("env_args")
            names = _demos(file["data"])
            masks = {
                k.removeprefix("mask/"): _texts(x) for k, x in found.items() if k[:5] == "mask/"
            }
            chosen = _chosen(names, masks, split)
            counts = {demo: file[f"data/{demo}"].attrs.get("num_samples") for demo in chosen}
            arrays: dict[str, dict[str, np.ndarray]] = {demo: {} for demo in chosen}
            skipped = set()
            for name, x in found.items():
                demo, _, key = name.removeprefix("data/").partition("/")
                if not name.startswith("data/") or demo not in arrays or not _used(key):
                    continue
                if not images and key.startswith(("obs/", "next_obs/")):
                    if is_image(x.shape[1:], x.dtype):
                        skipped.add(key.partition("/")[2])
                        continue
                arrays[demo][key] = np.asarray(x[()])
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises any exception on a damaged file
        raise damaged(path, "HDF5", name, error) from None
    for demo in chosen:
        _check(path, demo, arrays[demo], arrays[chosen[0]], counts[demo], skipped)
    if skipped:
        say(f"{path}: images are left out ({_listed(skipped)}): images=True keeps them")
    if masks and not split:
        say(f"{path}: all {len(names)} demos are read; split=NAME reads one of {_listed(masks)}")
    out = _joined([arrays[demo] for demo in chosen])
    lengths = np.array([len(arrays[demo]["actions"]) for demo in chosen])
    ends = np.zeros(lengths.sum(), bool)
    ends[np.cumsum(lengths) - 1] = True
    dones, ours = out.pop("dones"), "terminals" in out
    if not ours:
        sparse = np.isin(out["rewards"], (0, 1)).all() and out["rewards"].any()
        out["terminals"], clear = _terminals(dones, out["rewards"], ends, sparse)
        if not clear:
            say(f"{path}: dones do not say how demos ended: all count as ended by the clock")
        if sparse:
            out.setdefault("infos/success", out["rewards"])
    out["timeouts"] = ends & ~out["terminals"].astype(bool)
    kept = parse_metadata(path, text)
    return out, kept if text is not None or args is None else kept | {ARGS: _args(path, args)}


def _demos(data: Any) -> list[str]:
    """The names of the demos, by their number: demo_2 before demo_10."""
    found = [k for k in data if re.fullmatch(r"demo_\d{1,18}", k)]
    return sorted(found, key=lambda k: int(k.removeprefix("demo_")))


def _used(key: str) -> bool:
    return key in (*NEEDED, *FLAGS) or key.split("/")[0] in ("obs", "next_obs", "infos", "signals")


def _texts(x: Any) -> list[str]:
    """The names in an array of a mask, which are bytes or text."""
    if x.ndim != 1 or x.dtype.kind not in "SO":
        raise Refused(f"array {x.name.lstrip('/')!r} must be a list of names of demos")
    return [k.decode(errors="replace") if isinstance(k, bytes) else str(k) for k in x[()]]


def _chosen(names: list[str], masks: Mapping[str, list[str]], split: str) -> list[str]:
    if not split:
        return names
    if split not in masks:
        raise Refused(f"split={split!r}: the filter keys are {_listed(masks) or 'none'}")
    wanted = set(masks[split])
    if unknown := wanted - set(names):
        raise Refused(f"array 'mask/{split}' names {min(unknown)!r}, which is not in the file")
    if not wanted:
        raise Refused(f"array 'mask/{split}' is empty")
    return [k for k in names if k in wanted]


def _check(path: Path, demo: str, have: dict, first: dict, count: Any, skipped: set[str]) -> None:
    """Raises one line about the first array of a demo that is missing or does not fit."""
    at = f"data/{demo}"
    for key in NEEDED:
        if key not in have:
            raise ValueError(f"{path}: array '{at}/{key}' is missing")
    if not any(k.startswith("obs/") for k in have):
        why = (
            "it has only images: images=True keeps them"
            if skipped
            else ("it has only states: robomimic's dataset_states_to_obs.py makes observations")
        )
        raise ValueError(f"{path}: '{at}/obs' has no observations; {why}")
    rows = len(have["actions"]) if have["actions"].ndim else 0
    if rows == 0 or have["actions"].ndim != 2:
        shape = have["actions"].shape
        raise ValueError(
            f"{path}: array '{at}/actions' has shape {shape}, allowed is (N, A), N > 0"
        )
    if count is not None and (np.ndim(count) or count != rows):
        raise ValueError(f"{path}: '{at}' has num_samples={count}, but {rows} actions")
    for key, x in have.items():
        if key.startswith("infos/"):  # metrics may be NaN
            if x.shape != (rows,) or x.dtype.kind not in REAL:
                raise ValueError(
                    f"{path}: array '{at}/{key}' is {x.dtype}{list(x.shape)}, allowed are"
                    f" {rows} numbers"
                )
            continue
        check_array(path, f"{at}/{key}", x, rows, flat=key in FLAGS)
    if differ := have.keys() ^ first.keys():
        raise ValueError(f"{path}: array '{at}/{min(differ)}' is not in every demo")
    for key, x in have.items():
        if x.shape[1:] != first[key].shape[1:]:
            raise ValueError(
                f"{path}: array '{at}/{key}' has shape {x.shape}, allowed is"
                f" {(rows, *first[key].shape[1:])} as in the first demo"
            )


def _joined(demos: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays of the demos one after another, under the names of `files.py`."""
    out = {}
    plain = {k for k in demos[0] if k.startswith("obs/")} == {f"obs/{PLAIN}"}
    for key in demos[0]:
        name = re.sub("^(next_)?obs", r"\1observations", key)
        name = name.removesuffix(f"/{PLAIN}") if plain else name
        out[name] = np.concatenate([demo[key] for demo in demos])
    return out


def _terminals(
    dones: np.ndarray, rewards: np.ndarray, ends: np.ndarray, sparse: bool
) -> tuple[np.ndarray, bool]:
    """Returns where the MDP ended, and whether the file says so. See the top of this file. [T]"""
    last = ends & (dones != 0)
    if (last == ends).all():
        return last & (rewards > 0) & sparse, bool(sparse)
    return last, True


def _args(path: Path, text: Any) -> dict:
    """The attribute `env_args`, a text of JSON with an object."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: attribute 'env_args' of 'data' must be an object of JSON")
    return found


def _listed(names: Any) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def save(dataset: Dataset, path: str | Path, say: Callable[[str], None] = print) -> None:
    """Writes a data set for robomimic, whole or not at all. An existing file is not overwritten.

    `env_args` are those that the data set was read with, or the names of its environment as one of
    Gym. `states` are empty: only robosuite's environments use them. Where the next observation is
    not known, `next_obs` repeats the observation.

    Args:
      dataset: what to write.
      path: ends in .hdf5 or .h5.
      say: called with a line if actions are beyond -1 .. 1, which robomimic's learners expect.

    Raises:
      ValueError: the file exists or has another ending, actions are no vectors, or the name of an
        observation has a "/".
      RuntimeError: it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists: choose another name")
    if path.suffix not in (".hdf5", ".h5"):
        raise ValueError(f"{path}: must end in .hdf5 or .h5")
    steps, metadata = dataset.steps, dataset.metadata
    if steps.action.ndim != 3:
        raise ValueError(f"{path}: robomimic's actions are vectors, not {steps.action.shape[2:]}")
    if np.abs(steps.action).max() > 1:
        say(f"{path}: actions are up to {np.abs(steps.action).max():g}, robomimic expects -1 .. 1")
    columns = {
        "actions": steps.action,
        "rewards": steps.reward,
        "dones": (steps.terminated | steps.truncated).astype(np.int64),
        "terminals": steps.terminated,
    }
    for name, tree in (("obs", steps.obs), ("next_obs", steps.next_obs)):
        tree = tree if isinstance(tree, Mapping) else {PLAIN: tree}
        if bad := [k for k in tree if "/" in k]:
            raise ValueError(f"{path}: observation {bad[0]!r} must be a name without '/'")
        columns |= {f"{name}/{k}": x for k, x in tree.items()}
    columns |= {f"signals/{k}": x for k, x in steps.signals.items()}
    columns = {k: x[:, 0] for k, x in columns.items()}
    columns |= {f"infos/{k}": x for k, x in dataset.extras.items()}
    if not steps.valid.all():
        columns["valid"] = steps.valid[:, 0]
    args = metadata.get(ARGS) or {
        "env_name": metadata.get("env", ""),
        "type": GYM,
        "env_kwargs": metadata.get("env_overrides", {}),
    }
    with whole(path) as part, h5py_package().File(part, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = len(dataset)
        data.attrs["env_args"] = as_json(args)
        data.attrs["metadata"] = as_json(metadata)
        for i, (start, end) in enumerate(zip(dataset.starts, dataset.ends, strict=True)):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = int(end + 1 - start)
            demo["states"] = np.zeros((end + 1 - start, 0))
            for name, x in columns.items():
                demo.create_dataset(name, data=x[start : end + 1], compression="gzip")
