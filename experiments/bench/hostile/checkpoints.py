"""Folders of checkpoints with links that lead nowhere, left-overs of a kill, and damage.

The newest whole checkpoint is used, with a complaint about each newer one. Nothing else is printed. A
run can save its next checkpoint there, and that one is then the newest.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.hostile import Case, Draw, check_line, numbered, small_run
from jaxrl.run import checkpoint

STEPS = (8, 16)
NEXT = 24
PLACES = ("a dangling link", "a loop", "a file", "an empty folder", "a FIFO", "a device", "a copy")
ENDINGS = ("", ".old", ".tmp")  # of the names beside a checkpoint
INSIDE = ("is missing", "is cut", "has changed", *(f"is {kind}" for kind in PLACES[:-1]))
STRANGERS = (
    *("000000000099", "0000000000١٦", "99", "-00000000001", "000000000099.old", "000000000024.tmp"),
    *("000000000024", "000000000024.old", "lost+found", ".000000000024", "000000000016.old.old"),
)
NOISE = ("Traceback", "Exception ignored", "Event loop is closed", "never retrieved")


def prepare(root: Path) -> Draw:
    run, saved = small_run(root)
    return lambda number: draw(number, root, run / "checkpoints", saved)


def draw(number: int, root: Path, whole: Path, saved: dict[int, Any]) -> Case:
    rng, pick = numbered(number, 18)
    done = [_change(rng, pick) for _ in range(1 + int(rng.integers(3)))]
    what = "; ".join(text for text, *_ in done)
    may_fail = {step for _, step, _ in done}
    for step in STEPS:  # set aside, and then replaced there
        if f"{step:012d} is set aside" in what and f"{step:012d}.old is" in what:
            may_fail.add(step)

    def tried() -> str:
        folder = root / "tried"
        _clear(folder)
        shutil.copytree(whole, folder)
        for _, _, change in done:
            change(folder, whole)
        said = io.StringIO()
        handler = logging.StreamHandler(said)
        logging.getLogger().addHandler(handler)
        gc.freeze()
        with contextlib.redirect_stderr(said):
            became = outcome(folder, saved, may_fail)
            gc.collect()  # asyncio tells of lost errors when it frees them
        gc.unfreeze()
        logging.getLogger().removeHandler(handler)
        if any(word in said.getvalue() for word in NOISE):
            raise RuntimeError(f"prints {said.getvalue().strip().splitlines()[-1]}")
        return became

    return Case(what, tried)


def outcome(folder: Path, saved: dict[int, Any], may_fail: set[int]) -> str:
    """Which checkpoint was used. Raises RuntimeError if it should have been another one."""
    like = jax.eval_shape(lambda: saved[STEPS[-1]])
    try:
        step, tree, complaints = checkpoint.restore_newest(folder, like)
    except (checkpoint.DamagedCheckpoint, FileNotFoundError) as error:
        check_line(str(error), {folder.name, *folder.parts[-1:]} | {f"{s:012d}" for s in STEPS})
        if set(STEPS) - may_fail:
            raise RuntimeError(f"a whole checkpoint was not used: {error}") from None
        step, complaints = 0, []
    else:
        if not _equal(tree, saved[step]):
            raise RuntimeError(f"{step} came back as another one")
        if step < max(set(STEPS) - may_fail, default=0):
            raise RuntimeError(f"{step} was used, though {STEPS[-1]} was whole")
    for text in complaints:
        check_line(text, [part for part in text.replace("/", " ").split() if part[:12].isdigit()])
    made = saved[STEPS[0]]
    checkpoint.save(folder, NEXT, made, keep=0)
    step_after, tree, complaints_after = checkpoint.restore_newest(folder, like)
    newer = [text for text in complaints_after if f"{99:012d}" not in text]
    if step_after != NEXT or newer or not _equal(tree, made):
        raise RuntimeError(f"after a save {step_after} was used: {complaints_after}")
    return {16: "the newest", 8: "the one before", 0: "refused"}[step]


def _equal(a: Any, b: Any) -> bool:
    data = lambda x: (
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    same = lambda x, y: np.array_equal(data(x), data(y))
    return all(map(same, jax.tree.leaves(a), jax.tree.leaves(b)))


# --- Changing ---

Change = Callable[[Path, Path], None]


def _change(rng: np.random.Generator, pick: Callable) -> tuple[str, int, Change]:
    """What is changed in words, the step whose checkpoint may fail (0: none), and what does it."""
    step, where = int(pick(STEPS)), rng.random()
    name = f"{step:012d}"
    if where < 0.25:
        stranger, kind = pick(STRANGERS), pick(PLACES[:-1])
        return f"{stranger} is {kind}", 0, lambda at, whole: _put(at / stranger, kind, whole / name)
    if where < 0.6:
        ending, kind = pick(ENDINGS), pick(PLACES)
        put = lambda at, whole: _put(at / f"{name}{ending}", kind, whole / name)
        return f"{name}{ending} is {kind}", 0 if ending or kind == "a copy" else step, put
    if where < 0.7:
        return f"{name} is set aside", 0, lambda at, _: _aside(at / name)
    kind, which, cut = pick(INSIDE), rng.random(), rng.random()
    inside = lambda at, _: _damage(at / name, kind, which, cut)
    return f"a file of {name} {kind} ({which:.2f})", step, inside


def _put(path: Path, kind: str, copy: Path) -> None:
    """Puts something in the place of `path`, or a whole copy of a checkpoint there."""
    _clear(path)
    if kind == "a dangling link":
        path.symlink_to("nowhere")
    elif kind == "a loop":
        path.symlink_to(path.name)
    elif kind == "a file":
        path.write_bytes(b"x")
    elif kind == "an empty folder":
        path.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        shutil.copytree(copy, path)


def _aside(path: Path) -> None:
    """As a kill between the two renames of a save leaves it."""
    if os.path.lexists(path):
        _clear(path.with_suffix(".old"))
        path.rename(path.with_suffix(".old"))


def _damage(checkpoint: Path, kind: str, which: float, cut: float) -> None:
    """Changes one of the files of a checkpoint, if it is a folder."""
    found = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    if not checkpoint.is_dir() or not found:
        return
    path = found[int(which * len(found))]
    if kind == "is missing":
        path.unlink()
    elif kind in ("is cut", "has changed"):
        content = path.read_bytes()
        at = int(cut * len(content))
        changed = content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :] if content else b"x"
        path.write_bytes(content[:at] if kind == "is cut" else changed)
    else:
        _put(path, kind.removeprefix("is "), path)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
