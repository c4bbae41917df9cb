"""What an exported policy's contract says about the task: rate, robot, observation, action."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.render import mj_model, seconds_per_step
from envs.transforms.base import Transform
from envs.transforms.residual import Residual
from envs.types import Box, Env, MultiDiscrete


def describe(env: Env) -> dict[str, Any]:
    """Returns what a contract says about the task: rate, robot, observation and action.

    Under a residual it is the task of the base.
    """
    task = env
    while isinstance(task, Residual):
        task = task.env
    period = seconds_per_step(task)
    layers, layer = [], task
    while isinstance(layer, Transform):
        layers.append(type(layer).__name__)
        layer = layer.env
    found: dict[str, Any] = {
        "task": {"name": type(layer).__name__, "transforms": layers},  # the outermost first
        "control": {"period_s": period, "rate_hz": None if period is None else 1.0 / period},
        "action": _space(task.action_space),
        "observation": _space(task.observation_space),
    }
    try:
        model = mj_model(task)
    except ValueError:
        return found
    return found | {"robot": _robot(model)}


def _space(space: Any) -> Any:
    if isinstance(space, dict):
        return {name: _space(entry) for name, entry in space.items()}
    if isinstance(space, Box):
        return {
            "shape": list(space.shape),
            "low": _finite(space.lows),
            "high": _finite(space.highs),
            "unit": "the environment's",
        }
    sizes = list(space.nvec) if isinstance(space, MultiDiscrete) else [space.n]
    return {"shape": list(space.shape), "choices": sizes}


def _finite(x: np.ndarray) -> Any:
    """Nested lists, with null where there is no bound."""
    nested = lambda y: [*map(nested, y)] if isinstance(y, list) else (y if np.isfinite(y) else None)
    return nested(np.asarray(x, np.float64).tolist())


JOINTS = {  # MuJoCo's mjtJoint: name, entries of qpos and qvel, units of both
    0: ("free", 7, 6, "m and quaternion", "m/s and rad/s"),
    1: ("ball", 4, 3, "quaternion", "rad/s"),
    2: ("slide", 1, 1, "m", "m/s"),
    3: ("hinge", 1, 1, "rad", "rad/s"),
}


def _robot(model: Any) -> dict[str, Any]:
    """Joints and actuators in MuJoCo's order, which is the order of qpos, qvel and ctrl."""
    joints = []
    for i in range(model.njnt):
        kind, positions, speeds, unit, speed_unit = JOINTS[int(model.jnt_type[i])]
        joints.append(
            {
                "name": model.joint(i).name,
                "type": kind,
                "qpos": [int(model.jnt_qposadr[i]), positions],  # first entry, how many
                "qvel": [int(model.jnt_dofadr[i]), speeds],
                "qpos_unit": unit,
                "qvel_unit": speed_unit,
            }
        )
    actuators = []
    for i in range(model.nu):
        limited = bool(model.actuator_ctrllimited[i])
        joint = int(model.actuator_trntype[i]) == 0  # mjTRN_JOINT
        actuators.append(
            {
                "name": model.actuator(i).name,
                "joint": model.joint(int(model.actuator_trnid[i][0])).name if joint else None,
                "ctrl_range": model.actuator_ctrlrange[i].tolist() if limited else None,
            }
        )
    return {"timestep_s": float(model.opt.timestep), "joints": joints, "actuators": actuators}
