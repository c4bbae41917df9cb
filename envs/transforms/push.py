"""Pushes a body at random, so that a policy learns to recover."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, check_count, on_task
from envs.types import Env, State, check_instance, check_range


@struct.dataclass
class Push(Transform):
    """Its slot holds {"key", "clock" [] int32, "force" [3] N}: the last push that was drawn."""

    force: Any = struct.field(kw_only=True)  # N, a leaf: a curriculum may raise it
    body: int = struct.field(pytree_node=False, kw_only=True)
    period: int = struct.field(pytree_node=False, kw_only=True)
    duration: int = struct.field(pytree_node=False, kw_only=True)

    def reset(self, key: jax.Array) -> State:
        k_next, k_clock = jax.random.split(self.own_key(key))
        clock = jax.random.randint(k_clock, (), 0, self.period, jnp.int32)
        slot = {"key": k_next, "clock": clock, "force": jnp.zeros(3)}
        state = self.env.reset(key)
        return state.replace(info=state.info | {self.slot: slot})

    def step(self, state: State, action: jax.Array) -> State:
        slot = state.info[self.slot]
        key, k_draw = jax.random.split(slot["key"])
        begins, lasts = slot["clock"] == 0, slot["clock"] < self.duration
        force = jnp.where(begins, self._draw(k_draw), slot["force"])
        env, state = pushed(self.env, state, self.body, jnp.where(lasts, force, 0.0))
        state = env.step(state, action)
        slot = {"key": key, "clock": (slot["clock"] + 1) % self.period, "force": force}
        return state.replace(info=state.info | {self.slot: slot})

    def _draw(self, key: jax.Array) -> jax.Array:
        """A horizontal force of uniform size and direction. [3]"""
        k_size, k_angle = jax.random.split(key)
        size = self.force * jax.random.uniform(k_size)
        angle = jax.random.uniform(k_angle, maxval=2 * jnp.pi)
        return size * jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.zeros(())])


def push(env: Env, body: str, force: float, period: int, duration: int = 1) -> Push:
    """Pushes a body horizontally, once in every `period` control steps.

    Each push has a uniform direction and a size uniform in 0 .. `force`, and acts on the body's
    centre of mass. The first one of an episode comes at a random step.

    Args:
      env: an MJX task of this project, of Playground, or of Brax with backend="mjx".
      body: its name in the model.
      force: the largest push, in N; at least 0.
      period: control steps from the start of a push to the next.
      duration: control steps that a push lasts; at most `period`.

    Raises:
      ValueError: a number out of range, an unknown body, or a task that MJX does not simulate or
        that sets `xfrc_applied` itself.
    """
    check_instance(env)
    check_count("period", period, 1)
    check_count("duration", duration, 1)
    if duration > period:
        raise ValueError(f"duration={duration}: must be at most period={period}")
    model = mj_model(env)
    names = [model.body(i).name for i in range(1, model.nbody)]
    if body not in names:
        raise ValueError(f"body={body!r}: the model has {', '.join(names)}")
    new = Push(env, force=force, body=model.body(body).id, period=period, duration=duration)
    check_range(new, 0.0, 1e6, "force")
    task = _task(env)
    if not hasattr(task, "sim"):
        task.check_pushes()
    return new


def pushed(env: Env, state: State, body: int, force: jax.Array) -> tuple[Env, State]:
    """The environment and the state whose next step pushes `body` with `force` [3] (N, world frame).

    Call `env.step(state, action)` on the two that are returned. A task of this project then holds
    the push in `sim.template`, a task of Playground or Brax in its state.

    Raises:
      ValueError: `mj_model` finds none.
    """
    pushes = jnp.zeros((mj_model(env).nbody, 6)).at[body, :3].set(force)
    task = _task(env)
    if not hasattr(task, "sim"):
        return env, task.pushed(state, pushes)
    template = task.sim.template.replace(xfrc_applied=pushes)
    new = task.replace(sim=task.sim.replace(template=template))
    return on_task(env, lambda _: new), state


def mj_model(env: Env) -> Any:
    """The MuJoCo model of an MJX task below its transforms.

    Raises:
      ValueError: there is none.
    """
    task = _task(env)
    model = task.sim.mj_model if hasattr(task, "sim") else getattr(task, "mj_model", None)
    if model is None:
        raise ValueError(f"push: {type(task).__name__} is not an MJX task")
    return model


def _task(env: Env) -> Any:
    while isinstance(env, Transform):
        env = env.env
    return env
