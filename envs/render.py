"""Pictures of an environment, headless: `render` for one, `renderer` for many.

A task draws itself if it has `render(state, width, height)`; any other is drawn by
MuJoCo from the pose in its state.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import jax
import numpy as np

from envs import gl
from envs.gl import mujoco
from envs.transforms.action_repeat import ActionRepeat
from envs.transforms.base import Transform, check_count
from envs.types import Env, State, check_instance

MOST_PIXELS = 2**14  # along a side; OpenGL draws no larger picture
CAMERAS = ("main", "track")  # preferred to the free camera, in this order


class Renderer:
    """Draws states of one environment with one GL context; see `renderer`."""

    def __init__(self, env: Env, width: int, height: int, camera: str | int | None):
        check_instance(env, ())
        check_size(width, height)
        self._env, self._width, self._height = env, width, height
        self._mujoco = None
        if hasattr(env, "render"):
            if camera is not None:
                task = _task_name(env)
                raise ValueError(f"camera={camera!r}: {task} draws itself and has no cameras")
            return
        model = mj_model(env)
        if width > model.vis.global_.offwidth or height > model.vis.global_.offheight:
            model = copy.deepcopy(model)  # the task's own stays as it is
            model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._data = mujoco.MjData(model)
        self._camera = _camera(model, camera)
        self._mujoco = _open(model, width, height)

    def __call__(self, state: State) -> np.ndarray:
        """uint8 [height, width, 3] of an unbatched `state`."""
        if self._mujoco is None:
            return np.asarray(self._env.render(state, self._width, self._height), np.uint8)
        data = self._data
        set_pose(self._mujoco.model, data, state)
        self._mujoco.update_scene(data, self._camera)
        return self._mujoco.render()

    def close(self) -> None:
        """Frees the GL context; closing twice does nothing."""
        if self._mujoco is not None:
            self._mujoco.close()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def renderer(
    env: Env, width: int = 480, height: int = 360, camera: str | int | None = None
) -> Renderer:
    """A function from `State` to a picture that keeps its GL context, to be closed after use.

    Args:
      env: one instance, with or without transforms around it.
      width, height: in pixels.
      camera: name or number of a camera of the model. The default is "main" or "track" if
        the model has one, else a free camera that follows the root if the root can move away.

    Raises:
      ValueError: a size that is no whole number in 1 .. `MOST_PIXELS`, unknown camera, a camera for a task that draws itself, or neither a MuJoCo
        model nor a `render` method.
      RuntimeError: this machine cannot draw; one line says why and how to mend it.
    """
    return Renderer(env, width, height, camera)


def render(
    env: Env, state: State, width: int = 480, height: int = 360, camera: str | int | None = None
) -> np.ndarray:
    """One picture, uint8 [height, width, 3]; see `renderer`."""
    with renderer(env, width, height, camera) as draw:
        return draw(state)


def check_size(width: int, height: int) -> None:
    """Raises ValueError unless a picture can have this size in pixels."""
    for name, pixels in (("width", width), ("height", height)):
        check_count(name, pixels, 1)
        if pixels > MOST_PIXELS:
            raise ValueError(f"{name}={pixels}: must be at most {MOST_PIXELS} pixels")


def mj_model(env: Env) -> mujoco.MjModel:
    """The MuJoCo model of an MJX task, or of a Brax or Playground environment.

    Raises:
      ValueError: it has none.
    """
    if hasattr(env, "sim"):
        return env.sim.mj_model
    suite = getattr(env, "suite", None)
    model = getattr(suite, "mj_model", None) or getattr(
        getattr(suite, "sys", None), "mj_model", None
    )
    if model is None:
        raise ValueError(
            f"env={_task_name(env)}: cannot be drawn, it has neither a MuJoCo model nor a `render` method"
        )
    return model


def seconds_per_step(env: Env) -> float | None:
    """How long one step lasts in the simulated world, where the task says so."""
    repeats, layer = 1, env
    while isinstance(layer, Transform):
        repeats *= layer.repeats if isinstance(layer, ActionRepeat) else 1
        layer = layer.env
    if hasattr(env, "dt"):
        return repeats * float(env.dt)
    if hasattr(env, "sim") and hasattr(env, "frame_skip"):
        return repeats * env.frame_skip * env.sim.mj_model.opt.timestep
    return None


def set_pose(model: mujoco.MjModel, data: mujoco.MjData, state: State) -> None:
    """Puts the pose of a state into `data`, with everything that MuJoCo draws of it."""
    now = pose(state)
    data.qpos[:] = now.qpos if hasattr(now, "qpos") else now.q
    data.qvel[:] = now.qvel if hasattr(now, "qvel") else now.qd
    if data.mocap_pos.size and getattr(now, "mocap_pos", None) is not None:
        data.mocap_pos[:] = now.mocap_pos
        data.mocap_quat[:] = now.mocap_quat
    mujoco.mj_forward(model, data)


def pose(state: State) -> Any:
    """Returns what holds the generalised coordinates in a state of ours, Brax's or Playground's."""
    return jax.device_get(pose_of(state))


def pose_of(state: State) -> Any:
    """`pose`, on the device."""
    data = state.data
    for name in ("physics", "pipeline_state", "data"):
        if not hasattr(data, "qpos"):
            data = getattr(data, name, data)
    return data


def _task_name(env: Env) -> str:
    while hasattr(env, "env"):
        env = env.env
    return type(getattr(env, "suite", env)).__name__


def _camera(model: mujoco.MjModel, camera: str | int | None) -> str | int | mujoco.MjvCamera:
    names = [model.camera(i).name for i in range(model.ncam)]
    if camera is not None:
        if camera not in names and camera not in range(model.ncam):
            raise ValueError(f"camera={camera!r}: the model has {names or 'none'}")
        return camera
    for name in CAMERAS:
        if name in names:
            return name
    free = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, free)
    _frame(model, free)
    root = _moving_root(model)
    if root is not None:
        free.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        free.trackbodyid = root
    return free


def _frame(model: mujoco.MjModel, free: mujoco.MjvCamera) -> None:
    """Fills the picture with everything but the floor, whose size MuJoCo's own framing counts."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    solid = model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE
    if not solid.any():
        return
    places, radii = data.geom_xpos[solid], model.geom_rbound[solid][:, None]
    low, high = (places - radii).min(0), (places + radii).max(0)
    free.lookat[:] = (low + high) / 2
    # Half of the picture's height spans tan(fovy / 2) of the distance.
    free.distance = np.linalg.norm(high - low) / 2 / np.tan(np.radians(model.vis.global_.fovy / 2))


def _moving_root(model: mujoco.MjModel) -> int | None:
    """The first body that can leave the picture: one with a free joint or with two slides."""
    for body in range(1, model.nbody):
        if model.body_parentid[body] == 0:
            start, count = model.body_jntadr[body], model.body_jntnum[body]
            kinds = list(model.jnt_type[start : start + count])
            if mujoco.mjtJoint.mjJNT_FREE in kinds or kinds.count(mujoco.mjtJoint.mjJNT_SLIDE) > 1:
                return body
    return None


def _open(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    try:
        if not hasattr(gl.context(), "GLContext"):
            raise RuntimeError("this setting switches MuJoCo's rendering off")
        drawing = mujoco.Renderer(model, height, width)
        drawing.update_scene(mujoco.MjData(model))
        drawing.render()  # a broken driver may show only now
        return drawing
    except Exception as error:  # each GL library fails in its own way
        chosen = os.environ.get(gl.NAME, "")
        cause = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise RuntimeError(
            f"cannot render with MUJOCO_GL={chosen or '(unset)'} ({cause}): before Python starts, set "
            "MUJOCO_GL=egl (apt install libegl1) or MUJOCO_GL=osmesa (apt install libosmesa6)"
        ) from error
