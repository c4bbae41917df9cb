"""Checkpoints: Orbax arrays and a manifest of digests, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from pydantic import AfterValidator, Field

from jaxrl.report.files import Schema, check_regular, read_json
from jaxrl.report.terminal import reason

KEEP = 3  # how many of the newest checkpoints stay on disk by default


class Entry(Schema):
    """One array of a checkpoint."""

    shape: list[Annotated[int, Field(ge=0, le=2**62)]]
    dtype: Annotated[str, AfterValidator(lambda name: str(jnp.dtype(name)))]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


MANIFEST = dict[str, Entry]  # of `manifest.json`: every array by its name
ABOUT = dict[str, Any]  # of `about.json`


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message names it and says why."""


def save(
    folder: Path,
    step: int,
    tree: Any,
    keep: int = KEEP,
    about: dict[str, Any] | None = None,
    stays: Collection[int] = (),
) -> Path:
    """Writes `tree` to `folder/<step>` and keeps the newest `keep` checkpoints up to it (0: all).

    Later ones are left alone: they exist only if they were damaged. Those of the steps in `stays`
    stay, too. `about` is plain JSON, which `about_of` returns.

    Raises:
      RuntimeError: the disk is full or the folder cannot be written. Earlier checkpoints stay.
    """
    final = folder / f"{step:012d}"
    _mend(folder)
    for left in folder.glob("*.tmp"):  # left by a kill
        _remove(left)
    temporary, replaced = final.with_suffix(".tmp"), final.with_suffix(".old")
    arrays = _to_host(tree)
    manifest = {
        name: {"shape": list(x.shape), "dtype": str(x.dtype), "sha256": _digest(x)}
        for name, x in arrays.items()
    }
    try:
        temporary.mkdir(parents=True)
        with _quiet_orbax(temporary), _checkpointer() as checkpointer:
            full = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses empty ones
            checkpointer.save((temporary / "arrays").absolute(), full)
        (temporary / "manifest.json").write_text(json.dumps(manifest))
        (temporary / "about.json").write_text(json.dumps(about or {}))
        if os.path.lexists(final):  # a link that leads nowhere, too
            _remove(replaced)
            os.rename(final, replaced)
        os.rename(temporary, final)
    except Exception as error:  # tensorstore reports a full disk as a ValueError
        shutil.rmtree(temporary, ignore_errors=True)
        if os.path.lexists(replaced) and not os.path.lexists(final):
            os.rename(replaced, final)
        raise RuntimeError(f"cannot write checkpoint {final}: {reason(error)}") from error
    for left in folder.glob("*.old"):  # left by a kill, or by this call
        _remove(left)
    for old in [s for s in steps(folder) if s <= step][:-keep] if keep else []:
        if old in stays:
            continue
        _remove(folder / f"{old:012d}")
    return final


def _remove(path: Path) -> None:
    """A folder with all it holds, a file or a link; nothing if there is none."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet_orbax(path: Path) -> Iterator[None]:
    """Silences Orbax, which logs every save and every error that it raises.

    After an error in the block, other threads of Orbax fail, too, at once or later. Their messages
    about the checkpoint `path` are dropped for good.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = _without_echo(hook)
    echo = _Echo(str(path.absolute()))
    logging.getLogger("asyncio").addFilter(echo)
    try:
        yield
        sys.unraisablehook = hook
        logging.getLogger("asyncio").removeFilter(echo)
    finally:
        logger.setLevel(level)


class _Echo(logging.Filter):
    """Drops what asyncio logs of the other reads of a checkpoint that failed with the first one.

    It logs them when it frees them, which may be at the end of the process.
    """

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def filter(self, record: logging.LogRecord) -> bool:
        return self._path not in record.getMessage()


def _without_echo(hook: Any) -> Any:
    """Returns `hook` without the errors of Orbax's other writes that follow a failed one."""
    echo = "Event loop is closed"
    return lambda told: None if str(told.exc_value) == echo else hook(told)


def steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if _is_step(p.name))


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and name == f"{int(name):012d}"


def digests(folder: Path, step: int) -> dict[str, str]:
    """Returns the SHA-256 of every array of `folder/<step>`, by name. Equal runs have equal ones."""
    manifest = read_json(folder / f"{step:012d}" / "manifest.json", MANIFEST)
    return {name: entry["sha256"] for name, entry in manifest.items()}


def about_of(folder: Path, step: int) -> dict[str, Any]:
    """Returns the `about` that `save` was given; {} if the checkpoint has none.

    Raises:
      ValueError: the file is damaged.
    """
    return _about_of(folder / f"{step:012d}")


def _about_of(path: Path) -> dict[str, Any]:
    try:
        return read_json(path / "about.json", ABOUT)
    except FileNotFoundError:
        return {}


def restore(folder: Path, step: int, like: Any) -> Any:
    """Reads `folder/<step>` into the structure of `like` (arrays or `ShapeDtypeStruct`s).

    `like` may lack top-level entries of the checkpoint, but not parts of an entry.

    Raises:
      DamagedCheckpoint: unreadable, altered, or of another program (names the entry).
    """
    return _restore(folder / f"{step:012d}", like)


def _restore(path: Path, like: Any) -> Any:
    try:
        manifest = read_json(path / "manifest.json", MANIFEST)
        _about_of(path)  # whole, too
        check_regular(path)
        empty = {
            k: np.zeros(v["shape"], v["dtype"]) for k, v in manifest.items() if 0 in v["shape"]
        }
        restore_args = {
            name: ocp.RestoreArgs(restore_type=np.ndarray) for name in manifest if name not in empty
        }
        with _quiet_orbax(path), _checkpointer() as checkpointer:
            arrays = checkpointer.restore(
                (path / "arrays").absolute(),
                args=ocp.args.PyTreeRestore(restore_args=restore_args),
            )
        arrays |= empty
    except Exception as error:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: {reason(error)}") from error
    for name, entry in manifest.items():
        if _digest(np.asarray(arrays[name])) != entry["sha256"]:
            raise DamagedCheckpoint(f"checkpoint {path} is damaged: {name} has changed")

    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(p) for p, _ in leaves]
    entries = {name.split("]")[0] for name in names}  # `like` may hold only some entries
    saved = {name for name in manifest if name.split("]")[0] in entries}
    if set(names) != saved:
        odd = sorted(set(names) ^ saved)[0]
        where = "is missing" if odd in names else "is not part of this run"
        raise DamagedCheckpoint(f"checkpoint {path} is of another program: {odd} {where}")
    restored = []
    for name, (_, expected) in zip(names, leaves, strict=True):
        x = np.asarray(arrays[name])
        is_key = jax.dtypes.issubdtype(expected.dtype, jax.dtypes.prng_key)
        shape = x.shape[:-1] if is_key else x.shape
        if shape != expected.shape or (not is_key and x.dtype != expected.dtype):
            raise DamagedCheckpoint(
                f"checkpoint {path} is of another program: {name} is {x.dtype}{list(shape)},"
                f" this run has {expected.dtype}{list(expected.shape)}"
            )
        restored.append(jax.random.wrap_key_data(x) if is_key else x)
    return jax.tree.unflatten(tree, restored)


def restore_newest(folder: Path, like: Any) -> tuple[int, Any, list[str]]:
    """Returns the newest whole checkpoint: (step, tree, complaints about newer ones).

    Raises:
      DamagedCheckpoint: there are checkpoints, and none can be used.
      FileNotFoundError: there are none.
    """
    _mend(folder)
    available = steps(folder)
    if not available:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    complaints: list[str] = []
    for step in reversed(available):
        path = folder / f"{step:012d}"
        for candidate in (path, path.with_suffix(".old")):
            if candidate != path and not candidate.exists():
                continue
            try:
                return step, _restore(candidate, like), complaints
            except DamagedCheckpoint as error:
                complaints.append(str(error))
    raise DamagedCheckpoint("; ".join(complaints))


def _mend(folder: Path) -> None:
    """Restores a checkpoint that a kill between the two renames of `save` left aside."""
    for aside in folder.glob("*.old"):
        whole = aside.with_suffix("")
        if _is_step(whole.name) and not os.path.lexists(whole):
            with contextlib.suppress(OSError):  # another process was first, or may not write
                os.rename(aside, whole)


def _checkpointer() -> ocp.Checkpointer:
    """Returns a checkpointer that waits for no other process, because this one has whole arrays."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _to_host(tree: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        arrays[jax.tree_util.keystr(path)] = np.asarray(x)
    return arrays


def _digest(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()
