"""LeRobot's data sets, format v3.0: reads and writes the folder. Videos are not read.

Source: src/lerobot/datasets/ of huggingface/lerobot (`CODEBASE_VERSION = "v3.0"`):
dataset_metadata.py at commit 000c716, dataset_writer.py at 006ca66, io_utils.py at 073c4db and
feature_utils.py at 034693f. The folder:

    meta/info.json                            codebase_version, fps, robot_type, splits, features
    meta/stats.json                           min, max, mean, std, count, quantiles of each feature
    meta/tasks.parquet                        task (text), task_index
    meta/episodes/chunk-000/file-000.parquet  one row an episode: episode_index, tasks, length, ...
    data/chunk-000/file-000.parquet           one row a frame, several episodes a file
    videos/KEY/chunk-000/file-000.mp4         not read

What is read of a frame, and what becomes of it:

    observation.state          observations: an array if it is the only one, else a dict
    observation.KEY            an entry KEY of the dict
    action                     actions, in the robot's units
    next.reward                rewards; without it every reward is 0
    next.success               the metric `success`
    next.done, next.truncated  whether the MDP or the clock ended the episode, see below
    timestamp                  seconds; a gap is named in a line
    episode_index, frame_index the order of the rows
    task_index                 a metric, if there are several tasks

An episode ends at its last frame. `next.done` is true there in every recording, so it does not say how
the episode ended. The MDP ended if `next.done` is set and `next.truncated` exists and is not; or, without
`next.truncated`, if `next.success` is set, too. Else the clock ended the episode. A frame does not hold
the observation after it: the last step of such an episode has no next observation.

`save` adds features that LeRobot's learners ignore and `read` needs to return an equal data set:
`next.observation.KEY`, `next.valid`, `info.NAME`, `signal.NAME` (one number) or `signals.NAME`, and the
file meta/jaxrl.json. A dict of observations with the single key `state` comes back as an array.

pyarrow reads the files. Versions before 14.0.1 run code that a file holds (CVE-2023-47248), so the extra
asks for a later one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from jaxrl.data.dataset import Dataset
from jaxrl.data.reading import as_json, damaged, is_image, parse_metadata
from jaxrl.report.files import Scalar, Schema, cannot_write, parse, read_bytes

INFO = "meta/info.json"
OURS = "meta/jaxrl.json"  # our metadata
KEPT = "lerobot"  # the entry of the metadata that holds fps, robot_type and tasks
VERSION = "v3.0"
FPS = 30  # frames a second of what was recorded in a simulation, unless told
PLACE = "chunk-000/file-000.parquet"  # everything is written into one file
INDICES = ("episode_index", "frame_index", "index", "task_index")
FLAGS = {  # columns of one number a frame -> names of `files.py`
    "next.reward": "rewards",
    "next.success": "infos/success",
    "next.valid": "valid",
}
PREFIXES = {
    "observation.": "observations/",
    "next.observation.": "next_observations/",
    "info.": "infos/",
    "signal.": "signals/",  # [T]
    "signals.": "signals/",  # [T, ...]
}
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


class Feature(Schema):
    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]


class Info(Schema):
    """The entries of meta/info.json that are read."""

    codebase_version: str
    fps: Annotated[float, Field(gt=0)]
    features: dict[str, Feature]
    robot_type: str | None = None
    splits: dict[str, Scalar] = {}


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError("LeRobot data sets need pyarrow: pip install 'jaxrl[lerobot]'") from None
    return pyarrow.parquet


def read(
    path: Path, split: str = "", say: Callable[[str], None] = print
) -> tuple[dict[str, np.ndarray], dict]:
    """Returns the arrays of a folder in the layout of `files.py`, and metadata.

    Args:
      path: the folder.
      split: a name of `splits` in meta/info.json, such as train. "": all episodes.
      say: called with one line per finding: videos that are left out, gaps of the clock.

    Raises:
      ValueError: a file is missing, damaged or of another version; or a column is missing, holds
        something else than numbers or does not fit the others, or an episode is incomplete. The
        message is one line that names the file and the column or the episode.
      ImportError: pyarrow is not installed.
    """
    _parquet()
    info = _info(path)
    features = info["features"]
    for name in ("action", *INDICES[:2]):
        if name not in features or not _read(name, features[name]):
            raise ValueError(f"{path / INFO}: features must have {name!r}, as numbers")
    seen = [k for k in features if k.startswith("observation.") and _read(k, features[k])]
    if not seen:
        raise ValueError(f"{path / INFO}: features must have an observation other than images")
    wanted = {k: tuple(f["shape"]) for k, f in features.items() if _read(k, f)}
    for name, shape in wanted.items():
        if _flat(name) and shape not in ((), (1,)):
            raise ValueError(
                f"{path / INFO}: feature {name!r} has shape {list(shape)}, allowed is [1]"
            )
    columns = _columns(path, "data", wanted)
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    columns = {k: x[order] for k, x in columns.items()}
    columns = _take(path, columns, _range(path, info, split))
    episode, rows = columns["episode_index"], len(columns["episode_index"])
    for name, x in columns.items():
        bad = np.zeros(rows, bool)
        if x.dtype.kind == "f" and not name.startswith("info."):  # metrics may be NaN
            bad = ~np.isfinite(x.reshape(rows, -1)).all(1)
        if bad.any():
            at = f"episode {episode[bad][0]}, frame {columns['frame_index'][bad][0]}"
            raise ValueError(f"{path}: column {name!r} of {at} is not finite")
    ends = np.append(episode[1:] != episode[:-1], True)
    _check_episodes(path, columns, ends, whole=not split)
    left_out = [k for k, f in features.items() if _image(f)]
    if left_out:
        say(f"{path}: videos and images are left out ({', '.join(left_out)})")
    if "timestamp" in columns:
        _check_clock(path, columns, ends, info["fps"], say)
    arrays = {"actions": columns["action"], "terminals": _terminated(columns) & ends}
    arrays["timeouts"] = ends & ~arrays["terminals"]
    for name, x in columns.items():
        if name in FLAGS:
            arrays[FLAGS[name]] = x
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix:
            key = PREFIXES[prefix] + name.removeprefix(prefix)
            arrays[key.removesuffix("/state") if seen == ["observation.state"] else key] = x
    tasks = _tasks(path)
    if len(tasks) > 1 and "task_index" in columns:
        arrays["infos/task_index"] = columns["task_index"]
    kept = {"fps": info["fps"], "robot_type": info["robot_type"], "tasks": tasks}
    ours = _ours(path)
    metadata = ours if ours is not None else {KEPT: kept}
    if "rewards" not in arrays:
        arrays["rewards"] = np.zeros(rows, np.float32)
        metadata = metadata | {"unrewarded": True}
    return arrays, metadata


def _read(name: str, feature: Mapping[str, Any]) -> bool:
    """Whether a feature is read: numbers that this module knows."""
    known = name in ("action", "timestamp", "next.done", "next.truncated", *FLAGS, *INDICES)
    known |= name.startswith(tuple(PREFIXES))
    number = re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)", feature["dtype"]) is not None
    return known and number and not _image(feature)


def _flat(name: str) -> bool:
    """Whether a column has one number a row."""
    known = (*FLAGS, *INDICES, "timestamp", "next.done", "next.truncated", "length")
    return name in known or name.startswith(("info.", "signal."))


def _image(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is left out as a picture."""
    dtype, shape = feature["dtype"], tuple(feature["shape"])
    return dtype in ("video", "image") or is_image(shape, np.uint8 if dtype == "uint8" else None)


def _info(path: Path) -> dict[str, Any]:
    file = path / INFO
    info = parse(_text(file), Info, str(file))
    version = info["codebase_version"]
    if not version.startswith("v3."):
        raise ValueError(
            f"{file}: codebase_version={version!r}, allowed is 'v3.x': LeRobot's"
            " convert_dataset_v21_to_v30 converts v2.1"
        )
    return {"robot_type": None, "splits": {}} | info


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode()
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError as error:
        raise damaged(file, "JSON", None, error) from None


def _ours(path: Path) -> dict | None:
    file = path / OURS
    return parse_metadata(file, _text(file)) if file.exists() else None


def _files(path: Path, folder: str) -> list[Path]:
    """The files of `folder`, by the numbers in their names."""
    found = [
        (tuple(map(int, match.groups())), file)
        for file in (path / folder).glob("chunk-*/file-*.parquet")
        if (match := re.search(r"chunk-(\d{1,9})/file-(\d{1,9})\.parquet$", file.as_posix()))
    ]
    if not found:
        raise ValueError(f"{path / folder} has no chunk-000/file-000.parquet")
    return [file for _, file in sorted(found)]


def _columns(
    path: Path, folder: str, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Returns columns of all files of `folder`, one after another. [rows, ...] each

    Args:
      wanted: the shape of a row of each column. () and (1,) are stored as plain numbers.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for file in _files(path, folder):
        if not file.is_file():
            raise ValueError(f"{file}: is no regular file")
        name = None
        try:
            with _parquet().ParquetFile(file) as source:
                have = set(source.schema_arrow.names)
                if missing := [k for k in wanted if k not in have]:
                    raise ValueError(f"{file}: column {missing[0]!r} is missing")
                table = source.read(columns=list(wanted))
            for name, shape in wanted.items():
                parts[name].append(_numbers(file, name, table[name], shape))
        except (ValueError, ImportError) as error:
            if str(error).startswith(str(file)):
                raise
            raise damaged(file, "parquet", name, error) from None
        except Exception as error:  # pyarrow raises any exception on a damaged file
            raise damaged(file, "parquet", name, error) from None
    return {name: np.concatenate(x) for name, x in parts.items()}


def _numbers(file: Path, name: str, column: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a column of numbers or of lists of numbers. [rows, *shape]"""
    import pyarrow as pa
    import pyarrow.compute as pc

    x = column.combine_chunks()
    if isinstance(x, pa.ChunkedArray):  # older versions, of a column without rows
        x = pa.concat_arrays(x.chunks) if x.num_chunks else pa.array([], x.type)
    rows, given = len(x), str(column.type)
    wanted = f"column {name!r} holds {given}, allowed are numbers of shape {list(shape)}"
    lengths: list[int] = []
    while True:
        if isinstance(x, pa.ExtensionArray):
            x = x.storage
        if x.null_count:
            raise ValueError(f"{file}: column {name!r} has an empty entry")
        kind = x.type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (lists or pa.types.is_fixed_size_list(kind)):
            break
        counts = pc.unique(pc.list_value_length(x)).to_pylist()
        if len(counts) > 1:
            raise ValueError(
                f"{file}: column {name!r} has rows of {counts[0]} and {counts[1]} numbers"
            )
        lengths += counts or [shape[len(lengths)] if len(lengths) < len(shape) else 0]
        x = x.flatten()
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not number or tuple(lengths) not in ({shape, ()} if shape == (1,) else {shape}):
        raise ValueError(f"{file}: {wanted}")
    shape = () if _flat(name) else shape
    return x.to_numpy(zero_copy_only=False).reshape(rows, *shape)


def _range(path: Path, info: Mapping[str, Any], split: str) -> tuple[int, int] | None:
    """The episodes [first, last) of a split, written "first:last"."""
    if not split:
        return None
    listed = ", ".join(sorted(info["splits"])) or "none"
    if split not in info["splits"]:
        raise ValueError(f"{path}: split={split!r}: the splits are {listed}")
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", str(info["splits"][split]))
    if not match:
        raise ValueError(f"{path / INFO}: splits/{split} must be FIRST:LAST, such as 0:10")
    return int(match[1]), int(match[2])


def _take(path: Path, columns: dict, episodes: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """Returns the rows of some episodes. Raises if there are none."""
    index = columns["episode_index"]
    if episodes is not None:
        rows = (index >= episodes[0]) & (index < episodes[1])
        columns = {k: x[rows] for k, x in columns.items()}
    if not len(columns["episode_index"]):
        raise ValueError(f"{path}: no frames")
    return columns


def _check_episodes(path: Path, columns: dict, ends: np.ndarray, whole: bool) -> None:
    """Raises one line about the first episode that is not as meta/episodes says."""
    starts = np.append(0, np.flatnonzero(ends)[:-1] + 1)
    frames = np.arange(len(ends)) - np.repeat(starts, np.diff(np.append(starts, len(ends))))
    wrong = columns["frame_index"] != frames
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path}: episode {columns['episode_index'][row]} has frame_index"
            f" {columns['frame_index'][row]} where {frames[row]} must be: frames are missing or"
            " doubled"
        )
    told = _columns(path, "meta/episodes", {"episode_index": (1,), "length": (1,)})
    lengths = dict(zip(told["episode_index"].tolist(), told["length"].tolist(), strict=True))
    have = dict(
        zip(columns["episode_index"][ends].tolist(), (frames[ends] + 1).tolist(), strict=True)
    )
    for episode in sorted(lengths | have if whole else have):
        if have.get(episode, 0) != lengths.get(episode, 0):
            raise ValueError(
                f"{path}: episode {episode} has {have.get(episode, 0)} frames in data,"
                f" {lengths.get(episode, 0)} in meta/episodes"
            )


def _check_clock(
    path: Path, columns: dict, ends: np.ndarray, fps: float, say: Callable[[str], None]
) -> None:
    """Says where frames of one episode are further apart than their rate."""
    gaps = (np.diff(columns["timestamp"]) > 1.5 / fps) & ~ends[:-1]
    if gaps.any():
        row = int(gaps.argmax())
        say(
            f"{path}: {gaps.sum()} frames come later than fps={fps:g} says, the first in episode"
            f" {columns['episode_index'][row]} after frame {columns['frame_index'][row]}"
        )


def _terminated(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether the MDP ended, if the frame is the last one. See the top of this file. [T] bool"""
    flag = lambda name: columns[name] != 0
    if "next.done" not in columns:
        return np.zeros(len(columns["episode_index"]), bool)
    if "next.truncated" in columns:
        return flag("next.done") & ~flag("next.truncated")
    if "next.success" in columns:
        return flag("next.done") & flag("next.success")
    return np.zeros(len(columns["episode_index"]), bool)


def _tasks(path: Path) -> list[str]:
    """The texts of the tasks, by their index. [] without meta/tasks.parquet."""
    file = path / "meta/tasks.parquet"
    if not file.is_file():
        return []
    try:
        with _parquet().ParquetFile(file) as source:
            rows = source.read().to_pydict()
        texts = rows.get("task", rows.get("__index_level_0__"))
        return [str(text) for _, text in sorted(zip(rows["task_index"], texts, strict=True))]
    except Exception as error:  # pyarrow raises any exception on a damaged file
        raise damaged(file, "parquet", "task_index", error) from None


# --- Writing ---


def save(
    dataset: Dataset, path: str | Path, fps: int = 0, say: Callable[[str], None] = print
) -> None:
    """Writes a LeRobot folder, whole or not at all. An existing one is not overwritten.

    All frames are in one parquet file with one row group an episode. Timestamps are frames over `fps`.

    Args:
      dataset: what to write, without images.
      path: the folder.
      fps: frames a second. 0: as in the data set that this one was read from, else 30 with a line.
      say: called with that line.

    Raises:
      ValueError: the folder exists, `fps` is below 0, actions are no vectors, an observation is an
        image or its name has a "/" or is not text.
      RuntimeError: it cannot be written.
      ImportError: pyarrow is not installed.
    """
    path, parquet = Path(path), _parquet()
    if path.exists():
        raise ValueError(f"{path} exists: choose another name")
    if fps < 0:
        raise ValueError(f"fps={fps}: must be at least 1, or 0 for that of the data set")
    metadata, kept = as_json(dataset.metadata), dataset.metadata.get(KEPT) or {}
    if not fps:
        fps = int(round(kept.get("fps", FPS))) or FPS
        if "fps" not in kept:
            say(f"{path}: the rate is not known, fps={FPS} is written; fps=N gives another")
    columns = _frames(dataset, path, fps)
    tasks = kept.get("tasks") or [dataset.metadata.get("env") or "no description"]
    starts, ends = dataset.starts, dataset.ends
    if columns["task_index"].max() >= len(tasks):
        tasks = [f"task {i}" for i in range(int(columns["task_index"].max()) + 1)]
    part = path.with_name(f".{path.name}.part")
    info = {
        "codebase_version": VERSION,
        "robot_type": kept.get("robot_type"),
        "total_episodes": len(ends),
        "total_frames": len(dataset),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": fps,
        "splits": {"train": f"0:{len(ends)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {k: _feature(x) for k, x in columns.items()},
    }
    try:
        shutil.rmtree(part, ignore_errors=True)
        try:
            for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
                (part / folder).mkdir(parents=True)
            table = _table(columns)
            with parquet.ParquetWriter(part / "data" / PLACE, table.schema) as writer:
                for start, end in zip(starts, ends, strict=True):
                    writer.write_table(table.slice(start, end + 1 - start))
            parquet.write_table(
                _episode_table(columns, starts, ends, tasks), part / "meta/episodes" / PLACE
            )
            parquet.write_table(_task_table(tasks), part / "meta/tasks.parquet")
            stats = {k: _stats(x) for k, x in _measured(columns).items()}
            for name, value in ((INFO, info), ("meta/stats.json", stats)):
                (part / name).write_text(json.dumps(value, indent=4) + "\n")
            (part / OURS).write_text(metadata + "\n")
            os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _frames(dataset: Dataset, path: Path, fps: int) -> dict[str, np.ndarray]:
    """Returns every column of a frame, by LeRobot's names. [T, ...]"""
    steps = dataset.steps
    if steps.action.ndim != 3:
        raise ValueError(f"{path}: LeRobot's actions are vectors, not {steps.action.shape[2:]}")
    columns = {"action": steps.action[:, 0]}
    for name, tree in (("observation", steps.obs), ("next.observation", steps.next_obs)):
        for key, x in (tree if isinstance(tree, Mapping) else {"state": tree}).items():
            if x.dtype == np.uint8 or "/" in key:
                why = "is an image, which is not written" if x.dtype == np.uint8 else "has a '/'"
                raise ValueError(f"{path}: observation {key!r} {why}")
            columns[f"{name}.{key}"] = x[:, 0]
    columns |= {
        "next.reward": steps.reward[:, 0],
        "next.done": (steps.terminated | steps.truncated)[:, 0],
        "next.truncated": steps.truncated[:, 0],
    }
    if not steps.valid.all():
        columns["next.valid"] = steps.valid[:, 0]
    kind = lambda x: "signal" if x.ndim == 2 else "signals"
    columns |= {f"{kind(x)}.{k}": x[:, 0] for k, x in steps.signals.items()}
    for key, x in dataset.extras.items():
        if key == "success":
            columns["next.success"] = x.astype(bool) if np.isin(x, (0, 1)).all() else x
        elif key != "task_index":
            columns[f"info.{key.replace('/', '.')}"] = x
    frame = np.arange(len(dataset)) - np.repeat(dataset.starts, dataset.lengths)
    return columns | {
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(dataset.ends)), dataset.lengths),
        "index": np.arange(len(dataset)),
        "task_index": np.asarray(dataset.extras.get("task_index", np.zeros(len(dataset)))).astype(
            np.int64
        ),
    }


def _feature(x: np.ndarray) -> dict[str, Any]:
    return {"dtype": str(x.dtype), "shape": list(x.shape[1:]) or [1], "names": None}


def _table(columns: Mapping[str, np.ndarray]) -> Any:
    """Numbers of one entry are plain, others are lists of a fixed size."""
    import pyarrow as pa

    def column(x: np.ndarray) -> Any:
        array = pa.array(x.reshape(-1))
        for size in () if x.shape[1:] == (1,) else reversed(x.shape[1:]):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return array

    return pa.table({k: column(x) for k, x in columns.items()})


def _episode_table(
    columns: Mapping[str, np.ndarray], starts: np.ndarray, ends: np.ndarray, tasks: list[str]
) -> Any:
    import pyarrow as pa

    task = columns["task_index"][starts]
    rows: dict[str, Any] = {
        "episode_index": np.arange(len(ends)),
        "tasks": [[tasks[i]] for i in task],
        "length": ends + 1 - starts,
        "data/chunk_index": np.zeros_like(ends),
        "data/file_index": np.zeros_like(ends),
        "dataset_from_index": starts,
        "dataset_to_index": ends + 1,
        "meta/episodes/chunk_index": np.zeros_like(ends),
        "meta/episodes/file_index": np.zeros_like(ends),
    }
    for name, x in _measured(columns).items():
        each = [_stats(x[start : end + 1]) for start, end in zip(starts, ends, strict=True)]
        rows |= {f"stats/{name}/{k}": [stats[k] for stats in each] for k in each[0]}
    return pa.table(rows)


def _task_table(tasks: list[str]) -> Any:
    """As pandas writes it: the texts are the index."""
    import pyarrow as pa

    column = lambda name, kind, dtype: {
        "name": name,
        "field_name": name,
        "pandas_type": kind,
        "numpy_type": dtype,
        "metadata": None,
    }
    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": np.arange(len(tasks)), "task": tasks})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _measured(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns that have statistics. Metrics have none, because they may be NaN."""
    return {k: x for k, x in columns.items() if not k.startswith("info.")}


def _stats(x: np.ndarray) -> dict[str, list]:
    """The statistics of a feature, as lists of its shape. x: [rows, ...]"""
    x = x.reshape(len(x), -1).astype(np.float64) if x.ndim < 2 else x.astype(np.float64)
    out = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0)}
    out |= {k: np.quantile(x, q, axis=0) for k, q in QUANTILES.items()}
    return {k: v.tolist() for k, v in out.items()} | {"count": [len(x)]}
