"""What an exported policy needs to act in C MuJoCo: the model, start states, and how to observe."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from envs import mjcf
from envs.gl import mujoco
from envs.mjx.in_c import MOCAP, in_c
from envs.mjx.simulator import Simulator
from envs.render import pose, seconds_per_step
from envs.transforms.base import Transform
from envs.transforms.residual import Residual
from envs.transforms.time_limit import TimeLimit
from envs.types import Env

MODEL, STARTS, RUNNER = "model.mjb", "starts.npz", "run_mujoco.py"


def files(env: Env, keys: jax.Array) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The entry `mujoco` of a contract, and the files that it names.

    The observation is described for a task of `envs.from_mjcf` without `observe`: qpos and qvel. The
    controls are those of `action="ctrl range"`. Otherwise, and under a transform other than a time
    limit, they are None, and `run_mujoco.py` asks for a function of the user's.

    Args:
      env: the environment that the policy was trained in; the base's under a residual.
      keys: of the episodes whose start states are written. [episodes]

    Returns:
      ({}, {}) for a task without a simulator of this library.
    """
    while isinstance(env, Residual):
        env = env.env
    if not isinstance(getattr(env, "sim", None), Simulator):
        return {}, {}
    task, layers = env, []
    while isinstance(task, Transform):
        layers.append(type(task))
        task = task.env
    own = isinstance(task, mjcf.Task) and set(layers) <= {TimeLimit}
    model, period = env.sim.plain_model(), seconds_per_step(env)
    content = _binary(model)
    about = {
        "model": MODEL,
        "sha256": hashlib.sha256(content).hexdigest(),
        "version": mujoco.__version__,
        "timestep_s": float(model.opt.timestep),
        "substeps": round(period / model.opt.timestep) if period else 1,
        "time_limit": getattr(env, "limit", None),
        "observation": ["qpos", "qvel"] if own and task.observe_fn is None else None,
        "control": "ctrl range" if own and task.control_fn is mjcf.control_range else None,
        "starts": STARTS,
    }
    runner = Path(__file__).with_name(RUNNER).read_bytes()
    return {"mujoco": about}, {MODEL: content, STARTS: _starts(env, keys), RUNNER: runner}


def _binary(model: mujoco.MjModel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        mujoco.mj_saveModel(model, str(path), None)
        return path.read_bytes()


def _starts(env: Env, keys: jax.Array) -> bytes:
    """The states after `reset`, by their names in `MjData`. [episodes, ...]"""
    states = pose(jax.jit(jax.vmap(in_c(env).reset))(keys))
    rows = {name: getattr(states, name) for name in ("qpos", "qvel", "act", *MOCAP)}
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(x) for name, x in rows.items() if x is not None})
    return file.getvalue()
