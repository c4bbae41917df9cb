"""Draws the picture of every environment that can be drawn into experiments/docs/pictures/.

    python experiments/docs/pictures.py

An environment whose picture exists is left out. The picture is the start of an episode.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
from PIL import Image

import envs
from envs.render import renderer
from envs.types import Env
from jaxrl.cli import script

FOLDER = Path(__file__).parent / "pictures"
SIZE = (400, 300)  # pixels
COLOURS = 96
POSE = ("qpos", "qvel", "mocap_pos", "mocap_quat")


def start(env: Env, key: jax.Array) -> Any:
    """Returns the state at the start of an episode, as far as a picture needs it.

    Of a task of MuJoCo only the pose is asked for, so XLA compiles nothing of the physics.
    """
    if hasattr(env, "render"):
        return jax.device_get(jax.jit(env.reset)(key))

    def pose(key):
        data = env.reset(key).data
        data = data if hasattr(data, "qpos") else data.physics
        return {name: getattr(data, name) for name in POSE}

    return SimpleNamespace(data=SimpleNamespace(**jax.device_get(jax.jit(pose)(key))))


def draw(name: str) -> Image.Image | None:
    """Returns the picture of a task; None if it cannot be drawn."""
    env = envs.make(name)
    try:
        with renderer(env, *SIZE) as picture:
            return Image.fromarray(picture(start(env, jax.random.key(0))))
    except ValueError as error:
        print(f"{name}: {error}")
        return None


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name in envs.names():
        path = FOLDER / f"{name}.png"
        if not path.exists() and (picture := draw(name)):
            picture.quantize(COLOURS).save(path, optimize=True)
            print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)", flush=True)
    return 0


if __name__ == "__main__":
    script.run(main)
