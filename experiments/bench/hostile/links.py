"""HDF5 data sets whose arrays lie elsewhere: in another file, behind a link, in memory not yet there.

HDF5 can present the bytes of any file as an array. A data set that leads out of its file is refused by
the name of the array, and nothing of the other file is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.hostile import Case, Draw, numbered, outcome
from jaxrl.data import files as data_files

ROWS = 8
SECRET = 123.456  # the value of every array of the other file
ARRAYS = {
    "observations": (ROWS, 4),
    "next_observations": (ROWS, 4),
    "actions": (ROWS, 2),
    "rewards": (ROWS,),
    "terminals": (ROWS,),
    "timeouts": (ROWS,),
    "infos/success": (ROWS,),
    "signals/cost": (ROWS,),
    "unused/deep/below": (ROWS,),
}
OUTSIDE = ("an external link", "external storage", "a virtual data set", "a group elsewhere")
WAYS = (
    *OUTSIDE,
    "a soft link",
    "a soft link to nothing",
    "a soft link to itself",
    "a link to the root",
    "a second name",
    "an array of objects",
    "an array of references",
    "a type without an array",
    "an array larger than memory",
    "no values",
    "a group in its place",
)
HARMLESS = ("a second name", "a link to the root")
ELSEWHERE = ("{root}/other.hdf5", "other.hdf5", "nowhere.hdf5", "/etc/passwd", "/dev/zero", "fifo")


def prepare(root: Path) -> Draw:
    """Writes another data set, which no input may read."""
    import h5py

    with h5py.File(root / "other.hdf5", "w") as file:
        for name, shape in ARRAYS.items():
            file[name] = np.full(shape, SECRET, np.float32)
    os.mkfifo(root / "fifo")
    return lambda number: draw(number, root)


def draw(number: int, root: Path) -> Case:
    _, pick = numbered(number, 17)
    name, way, other = pick(list(ARRAYS)), pick(WAYS), pick(ELSEWHERE).format(root=root)
    path = root / "linked.hdf5"
    used = not name.startswith(("unused", "infos"))
    if way in ("a group in its place", "a type without an array"):
        used = used and not name.startswith("signals")  # which may hold anything
    nonsense = way in OUTSIDE or (used and way not in HARMLESS)

    def load() -> str:
        write(path, name, way, other)

        def read() -> None:
            data_files.metadata_of(path)
            made = data_files.load(path)
            flat = [np.asarray(x).ravel() for x in (made.steps.obs, made.steps.reward)]
            if np.isclose(np.concatenate(flat), SECRET).any():
                raise AssertionError("another file was read")

        return outcome([read], (path.name, str(path)), nonsense)

    return Case(f"{name} is {way} ({Path(other).name})", load)


def write(path: Path, name: str, way: str, other: str) -> None:
    """A good data set whose array `name` is what `way` says."""
    import h5py

    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        for each, shape in ARRAYS.items():
            if each != name:
                file[each] = np.zeros(shape, np.float32)
        _put(file, name, way, other)


def _put(file: Any, name: str, way: str, other: str) -> None:
    import h5py

    shape, float32 = ARRAYS[name], np.float32
    if way == "an external link":
        file[name] = h5py.ExternalLink(other, name)
    elif way == "external storage":
        size = int(np.prod(shape)) * 4
        file.create_dataset(name, shape, float32, external=[(other, 0, size)])
    elif way == "a virtual data set":
        layout = h5py.VirtualLayout(shape, float32)
        layout[...] = h5py.VirtualSource(other, name, shape)
        file.create_virtual_dataset(name, layout)
    elif way == "a group elsewhere":
        file[name.split("/")[0] + "/more" if "/" in name else name] = h5py.ExternalLink(other, "/")
    elif way.startswith("a soft link"):
        to = {"a soft link": "/spared", "a soft link to itself": f"/{name}"}.get(way, "/nothing")
        file["spared"] = np.zeros(shape, float32)
        file[name] = h5py.SoftLink(to)
    elif way == "a link to the root":
        file[name] = np.zeros(shape, float32)
        file["again"] = file["/"]
    elif way == "a second name":
        file["first"] = np.zeros(shape, float32)
        file[name] = file["first"]
    elif way == "an array of objects":
        file.create_dataset(name, data=np.array(["text"] * shape[0], object))
    elif way == "an array of references":
        file.create_dataset(name, data=np.array([file.ref] * shape[0], h5py.ref_dtype))
    elif way == "a type without an array":
        file[name] = np.dtype(float32)
    elif way == "an array larger than memory":
        file.create_dataset(name, (2**37, *shape[1:]), float32, chunks=True)
    elif way == "no values":
        file.create_dataset(name, data=h5py.Empty(float32))
    else:
        file.create_group(name)
