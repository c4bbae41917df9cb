"""`playground/NAME`: the environments of the installed MuJoCo Playground."""

from __future__ import annotations

import subprocess

import jax

from envs.adapters.suite import adapt, check_name, load_suite
from envs.registry import limited
from envs.transforms.base import check_count
from envs.types import Env

DEFAULT = object()  # the task's own episode length
NO_LIMIT = 2**30  # control steps, an episode length that no clock reaches


def make(task: str, *, time_limit: int | None = DEFAULT, **overrides) -> Env:
    """Builds a Playground environment, without Playground's training wrappers.

    Args:
      task: e.g. "CartpoleBalance" or "Go1JoystickFlatTerrain". Robot tasks download
        MuJoCo Menagerie on first use.
      time_limit: in control steps; the default is the task's `episode_length`, None is
        no limit. A limit is written into the task's configuration too, because some tasks
        keep a clock of their own or observe the fraction that has passed. `action_repeat`
        of that configuration belongs to the wrappers and is not applied: use a transform.
      **overrides: entries of the task's configuration; nested ones are written
        `**{"reward_config.scales.termination": -1.0}`. `impl` is "jax" unless an
        NVIDIA GPU is there (Playground's own default, "warp", needs one).

    Raises:
      ImportError: Playground is not installed.
      RuntimeError: a robot's model files could not be downloaded.
      ValueError: unknown task or override, or `time_limit` < 1.
    """
    install = "pip install 'jaxrl[playground]'"
    registry = load_suite("mujoco_playground", "playground", install).registry
    check_name("Playground task", task, registry.ALL_ENVS)
    config = registry.get_default_config(task)
    allowed = {name for name, _ in _entries(config)} - {"episode_length", "action_repeat"}
    for name in overrides:
        check_name(f"option of playground/{task}", name, allowed | {"time_limit"})
    if "impl" in config and not _has_nvidia_gpu():
        overrides = {"impl": "jax"} | overrides
    if time_limit is None:
        config.episode_length = NO_LIMIT
    elif time_limit is not DEFAULT:
        check_count("time_limit", time_limit, 1)
        config.episode_length = int(time_limit)
    try:
        suite = registry.load(task, config=config, config_overrides=overrides)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise RuntimeError(
            f"playground/{task} needs the files of github.com/google-deepmind/mujoco_menagerie, "
            f"and they could not be downloaded ({error})"
        ) from error
    return limited(adapt(suite), config.episode_length if time_limit is DEFAULT else time_limit)


def _entries(config, prefix: str = ""):
    """(dotted name, value) of every entry of a nested configuration."""
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _has_nvidia_gpu() -> bool:
    device = jax.local_devices()[0]
    return device.platform == "gpu" and "cuda" in device.client.platform_version.lower()
