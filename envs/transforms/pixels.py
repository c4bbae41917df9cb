"""Observations with a picture: {"pixels": bytes [size, size, C], "state": ...}.

A task that has `draw(state, width, height)` in JAX (`envs.types.Sketched`) is drawn on the device,
under `vmap` and `jit`. Any other is drawn by MuJoCo on the host, one picture after the other, which
suits small batches: every step of a batch waits for its pictures.

    env = history(pixels(envs.make("pendulum_swingup"), 32, gray=True), 2)
    env = envs.make("pixels/pendulum_swingup", size=32, gray=True, frames=2)  # the same
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import registry
from envs.transforms.base import Transform, check_count
from envs.transforms.history import history
from envs.types import Box, Env, State, check_instance, check_single_agent

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
POSE = ("qpos", "qvel", "mocap_pos", "mocap_quat")


def _work(jobs: SimpleQueue) -> None:
    """Does jobs for as long as Python runs."""
    while True:
        answer, f, args = jobs.get()
        try:
            answer.set_result(f(*args))
        except Exception as error:
            answer.set_exception(error)
        del answer, f, args  # the owner of `f` may go


def _ask(jobs: SimpleQueue, worker: threading.Thread, f: Callable, *args: Any) -> Any:
    """Returns `f(*args)` of the thread that does `jobs`."""
    if threading.current_thread() is worker:  # it may drop the last reference
        return f(*args)
    answer: Future = Future()
    jobs.put((answer, f, args))
    return answer.result(timeout=600)


class Studio:
    """Draws poses on the host, on one thread of its own that holds the GL context.

    XLA calls it from any of its threads, and a GL context belongs to the thread that made it, also when
    it is closed.
    """

    def __init__(self, env: Env, size: int, camera: str | int | None):
        self._env, self._size, self._camera = env, size, camera
        self._draw: Any = None
        self._jobs: SimpleQueue = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._lock = threading.Lock()

    def __call__(self, pose: dict[str, Any]) -> np.ndarray:
        """Pictures [*B, size, size, 3] uint8 of leaves [*B, ...]."""
        pose = {name: np.asarray(x) for name, x in pose.items()}
        with self._lock:
            if self._worker is None:
                self._worker = threading.Thread(target=_work, args=(self._jobs,), daemon=True)
                self._worker.start()
        return _ask(self._jobs, self._worker, self._pictures, pose)

    def _pictures(self, pose: dict[str, np.ndarray]) -> np.ndarray:
        from envs.render import renderer  # imports the transforms

        if self._draw is None:
            self._draw = renderer(self._env, self._size, self._size, self._camera)
            # Also before Python ends.
            weakref.finalize(self, _ask, self._jobs, self._worker, self._draw.close)
        batch = pose["qpos"].shape[:-1]
        flat = {name: x.reshape(-1, *x.shape[len(batch) :]) for name, x in pose.items()}
        picture = np.zeros((int(np.prod(batch)), self._size, self._size, 3), np.uint8)
        for i in range(len(picture)):
            one = SimpleNamespace(**{name: x[i] for name, x in flat.items()})
            picture[i] = self._draw(SimpleNamespace(data=one))
        return picture.reshape(*batch, *picture.shape[1:])


@struct.dataclass
class Pixels(Transform):
    """It remembers nothing."""

    size: int = struct.field(pytree_node=False, kw_only=True)
    gray: bool = struct.field(pytree_node=False, default=False, kw_only=True)
    studio: Studio | None = struct.field(pytree_node=False, default=None, kw_only=True)

    @property
    def observation_space(self) -> dict[str, Box]:
        space = self.env.observation_space
        channels = 1 if self.gray else 3
        picture = Box((self.size, self.size, channels), 0, 255, np.uint8)
        return (space if isinstance(space, dict) else {"state": space}) | {"pixels": picture}

    def reset(self, key: jax.Array) -> State:
        return self._show(self.env.reset(key))

    def step(self, state: State, action: jax.Array) -> State:
        return self._show(self.env.step(state, action))

    def _show(self, state: State) -> State:
        picture = self._picture(state)
        if self.gray:
            picture = jnp.round(picture @ jnp.asarray(LUMA)).astype(jnp.uint8)[..., None]
        obs = state.obs if isinstance(state.obs, dict) else {"state": state.obs}
        return state.replace(obs=obs | {"pixels": picture})

    def _picture(self, state: State) -> jax.Array:
        """[size, size, 3] uint8"""
        if self.studio is None:
            return self.env.draw(state, self.size, self.size)
        from envs.render import pose_of

        pose = pose_of(state)
        names = {"qpos": ("qpos", "q"), "qvel": ("qvel", "qd")}
        leaves = {}
        for name in POSE:
            found = (getattr(pose, other, None) for other in names.get(name, (name,)))
            x = next((x for x in found if x is not None), None)
            if x is not None:
                leaves[name] = x
        shape = jax.ShapeDtypeStruct((self.size, self.size, 3), jnp.uint8)
        return jax.pure_callback(self.studio, shape, leaves, vmap_method="broadcast_all")


def pixels(
    env: Env,
    size: int = 32,
    gray: bool = False,
    camera: str | int | None = None,
    on_host: bool = False,
) -> Pixels:
    """Adds a picture to the observation, as its entry "pixels".

    A plain observation becomes the entry "state"; the entries of a dict stay. Learners choose what
    actor and critic see: `actor_obs=("pixels",)`. `history` around it stacks pictures as channels.

    Args:
      size: pixels of a side; >= 1.
      gray: one channel, the brightness, in place of red, green and blue.
      camera: for MuJoCo, as for `envs.render.renderer`.
      on_host: MuJoCo draws, although the task can draw itself on the device.

    Raises:
      ValueError: `size` < 1; an environment with agents, that has a "pixels" already, or that cannot be
        drawn; a camera for a task that draws itself.
    """
    from envs.render import check_size, mj_model

    check_instance(env)
    check_single_agent(env)
    check_count("size", size, 1)
    check_size(size, size)
    if isinstance(env.observation_space, dict) and "pixels" in env.observation_space:
        raise ValueError("pixels: the observation has an entry 'pixels' already")
    if hasattr(env, "draw") and not on_host:
        if camera is not None:
            raise ValueError(f"camera={camera!r}: the task draws itself and has no cameras")
        return Pixels(env, size=size, gray=gray)
    mj_model(env)  # refuses what MuJoCo cannot draw
    return Pixels(env, size=size, gray=gray, studio=Studio(env, size, camera))


def make(
    name: str,
    size: int = 32,
    gray: bool = False,
    frames: int = 1,
    camera: str | int | None = None,
    on_host: bool = False,
    **overrides: Any,
) -> Env:
    """`envs.make("pixels/NAME", ...)`: the task from pixels, with a history of `frames`.

    Args:
      name: as for `envs.make`.
      size, gray, camera, on_host: see `pixels`.
      frames: pictures (and states) in an observation, newest first; >= 1.
      **overrides: of the task.

    Raises:
      ValueError: see `envs.make`, `pixels` and `history`.
    """
    for field, value in (("gray", gray), ("on_host", on_host)):
        if not isinstance(value, bool):
            raise ValueError(f"{field}={value!r}: must be True or False")
    check_count("frames", frames, 1)
    env = pixels(registry.make(name, **overrides), size, gray, camera, on_host)
    return env if frames == 1 else history(env, frames)
