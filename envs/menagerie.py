"""`from_menagerie`: an environment from a robot of MuJoCo Menagerie, by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from envs.mjcf import from_mjcf
from envs.types import Env

MISSING = "from_menagerie needs the package mujoco-menagerie: pip install 'jaxrl[menagerie]'"


def from_menagerie(
    name: str, entry: str | None = None, *, root: str | os.PathLike | None = None, **task: Any
) -> Env:
    """Makes an environment of a robot of MuJoCo Menagerie and a few pure functions.

    The package `mujoco-menagerie` downloads the robot at its first use and keeps it.

    Args:
      name: of the robot, such as "unitree_go2"; `mujoco_menagerie.names()` lists them.
      entry: one of its models, such as "go2"; None: a scene that is made for MJX if there is one,
        else its default scene.
      root: a folder with one folder for each robot, such as a checkout of Menagerie, in place of a
        download; None: the variable MENAGERIE_ROOT, if it is set.
      **task: as for `from_mjcf`: `reward` and the others.

    Raises:
      ValueError: one line: the package is not installed, there is no such robot or entry, or the
        robot cannot be downloaded; or as `from_mjcf`.
    """
    return from_mjcf(menagerie_file(name, entry, root), **task)


def menagerie_file(
    name: str, entry: str | None = None, root: str | os.PathLike | None = None
) -> Path:
    """The MJCF file of a robot of Menagerie; see `from_menagerie` for arguments and errors."""
    try:
        import mujoco_menagerie
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        robot = mujoco_menagerie.get(name)
        if entry is None:
            for_mjx = [x.name for x in robot.entry_points if x.is_mjx and x.kind == "scene"]
            entry = for_mjx[0] if for_mjx else None
        return Path(robot.xml(entry, mujoco_menagerie.Cache(root=root)))
    except mujoco_menagerie.DownloadError as error:
        raise ValueError(
            f"from_menagerie: {name!r} cannot be downloaded ({error}); without a network give"
            " root=FOLDER, a checkout of MuJoCo Menagerie"
        ) from None
    except mujoco_menagerie.MenagerieError as error:
        raise ValueError(f"from_menagerie: {str(error).rstrip('.')}") from None
