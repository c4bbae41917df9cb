"""What the readers of data files share: metadata, HDF5 that stays in its file, and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from jaxrl.data.dataset import fault
from jaxrl.report.files import Option, Schema, parse


class Recorder(Schema):
    """What a LeRobot folder says about its recording."""

    fps: Annotated[float, Field(gt=0)] = 30  # frames a second
    robot_type: str | None = None
    tasks: list[str] = []  # in words, by their index


class Metadata(Schema):
    """The metadata that are read. Every entry is optional, and other entries are kept."""

    env: Annotated[str, Field(min_length=1)] = ""  # as for `envs.make`
    env_overrides: dict[str, Option] = {}
    kind: str = ""
    learner: str = ""
    env_steps: Annotated[int, Field(ge=0)] = 0  # training steps of the recorded policy
    random_return: float = 0.0  # mean returns: a normalised score is 0 here ...
    expert_return: float = 1.0  # ... and 1 here
    unrewarded: bool = False  # the file holds no rewards: they were set to 0
    lerobot: Recorder = None
    robomimic: dict[str, Any] = {}  # `env_args`


def parse_metadata(path: Path, text: Any) -> dict:
    """Returns the metadata. Raises one line about the first entry that does not fit `Metadata`."""
    return {} if text is None else parse(str(text), Metadata, f"{path}: metadata")


def as_json(metadata: dict) -> str:
    """Returns metadata as text. Raises ValueError if they are not JSON."""
    try:
        return json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata={metadata}: must be plain JSON values ({error})") from None


def damaged(path: Path, kind: str, name: str | None, error: Exception) -> ValueError:
    """Returns the one line about a file that cannot be opened, or its array that cannot be read."""
    why = " ".join(str(error).split())
    if name is None:
        return ValueError(f"{path} is damaged or no {kind} file ({why})")
    return ValueError(f"{path}: array {name!r} cannot be read ({why})")


def check_array(path: Path, name: str, x: np.ndarray, rows: int, flat: bool) -> None:
    """Raises one line unless `x` is finite numbers [rows, ...], or [rows] if `flat`."""
    if why := fault(x, rows, flat):
        raise ValueError(f"{path}: array {name!r} {why}")


def is_image(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether one step of an observation is an image: bytes [H, W], or anything [H, W, C]."""
    return len(shape) == 3 or (len(shape) == 2 and dtype == np.uint8)


# --- HDF5 ---


class Refused(ValueError):
    """A feature of HDF5 that is refused."""


def h5py_package() -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError("HDF5 files need h5py: pip install 'jaxrl[minari]'") from None
    return h5py


def datasets_of(file: Any) -> dict[str, Any]:
    """Every array of an open HDF5 file, by name.

    HDF5 can present bytes of any other file as an array. Everything that leads out of the file is
    refused, because an untrusted data set must not read the disk.

    Raises:
      Refused: an external or soft link, external storage or a virtual data set, by its name.
    """
    h5py = h5py_package()
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
