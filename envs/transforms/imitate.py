"""A robot follows a reference motion (DeepMimic, Peng et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.rewards import to_body
from envs.transforms.base import Transform
from envs.types import Box, Env, State, check_instance, check_range

if TYPE_CHECKING:  # importing `envs` imports no simulator
    from envs.mjx.simulator import Physics

FREE = 0  # mujoco.mjtJoint.mjJNT_FREE
TERMS = ("pose", "velocity", "root")
# Weights and scales of DeepMimic, section 5, without its term for hands and feet.
WEIGHTS = {"pose": 0.65, "velocity": 0.1, "root": 0.25}
SCALES = {"pose": 2.0, "velocity": 0.1, "root": 10.0}


@struct.dataclass
class Motion:
    """A reference motion at the control rate: T poses of a model, and its velocities.

    A motion with a free joint may move on: the pose after the last one is the first one, moved by
    `shift` along x, y and z.
    """

    qpos: jax.Array  # [T, nq]
    qvel: jax.Array  # [T, nv]
    shift: jax.Array = struct.field(default_factory=lambda: jnp.zeros(3))  # [3] m


@struct.dataclass
class Imitate(Transform):
    """Its slot holds {"frame": [] int32, "lap": [] int32}: the pose of the motion to be in now."""

    motion: Motion = struct.field(kw_only=True)
    max_error: Any = struct.field(kw_only=True)
    max_drift: Any = struct.field(kw_only=True)
    rooted: bool = struct.field(pytree_node=False, kw_only=True)  # a free joint comes first

    @property
    def length(self) -> int:
        """Poses of the motion."""
        return self.motion.qpos.shape[0]

    @property
    def observation_space(self) -> dict[str, Box]:
        nq, nv = self.motion.qpos.shape[1], self.motion.qvel.shape[1]
        joints = nq - 7 if self.rooted else nq
        state = joints + nv + 4 * self.rooted  # height and up for the root's pose
        return {"obs": Box((state,)), "phase": Box((2,), -1.0, 1.0), "target": Box((joints,))}

    def reset(self, key: jax.Array) -> State:
        state = self.env.reset(key)
        frame = jax.random.randint(self.own_key(key), (), 0, self.length, jnp.int32)
        slot = {"frame": frame, "lap": jnp.zeros((), jnp.int32)}
        qpos, qvel = self.pose(slot)
        physics = _physics(state.data).replace(qpos=qpos, qvel=qvel)
        metrics = {f"reward_{name}": jnp.zeros(()) for name in TERMS}
        state = state.replace(data=_placed(state.data, physics), metrics=state.metrics | metrics)
        return self._show(state, slot)

    def step(self, state: State, action: jax.Array) -> State:
        slot = state.info[self.slot]
        frame = slot["frame"] + 1
        slot = {"frame": frame % self.length, "lap": slot["lap"] + frame // self.length}
        state = self.env.step(state, action)
        errors = self.errors(_physics(state.data), slot)
        terms = {k: WEIGHTS[k] * jnp.exp(-SCALES[k] * errors[k]) for k in TERMS}
        lost = (errors["pose"] > self.max_error**2) | (errors["drift"] > self.max_drift**2)
        metrics = state.metrics | {f"reward_{name}": x for name, x in terms.items()}
        state = state.replace(
            reward=sum(terms.values()), terminated=state.terminated | lost, metrics=metrics
        )
        return self._show(state, slot)

    def pose(self, slot: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Positions [nq] and velocities [nv] of the motion."""
        qpos, qvel = self.motion.qpos[slot["frame"]], self.motion.qvel[slot["frame"]]
        return (qpos.at[:3].add(slot["lap"] * self.motion.shift) if self.rooted else qpos), qvel

    def errors(self, physics: Physics, slot: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Squared errors, all []: of joints (rad^2 or m^2, and per s^2), of the root's place (m^2) and turn
        (sin^2 of half the angle) together, and of its place alone."""
        qpos, qvel = self.pose(slot)
        start, first = (7, 6) if self.rooted else (0, 0)
        square = lambda x: jnp.square(x).sum()
        drift = turn = jnp.zeros(())
        if self.rooted:
            drift = square(physics.qpos[:3] - qpos[:3])
            turn = 1.0 - jnp.square((physics.qpos[3:7] * qpos[3:7]).sum())
        return {
            "pose": square(physics.qpos[start:] - qpos[start:]),
            "velocity": square(physics.qvel[first:] - qvel[first:]),
            "root": drift + turn,
            "drift": drift,
        }

    def _show(self, state: State, slot: dict[str, jax.Array]) -> State:
        physics, (target, _) = _physics(state.data), self.pose(slot)
        angle = 2.0 * jnp.pi * slot["frame"] / self.length
        seen = [physics.qpos, physics.qvel]
        if self.rooted:
            quat, turn = physics.qpos[3:7], physics.qvel[3:]
            up = to_body(quat, jnp.array([0.0, 0.0, 1.0]))
            velocity = to_body(quat, physics.qvel[:3])
            seen = [physics.qpos[2:3], up, physics.qpos[7:], velocity, turn]
        start = 7 if self.rooted else 0
        obs = {
            "obs": jnp.concatenate(seen),
            "phase": jnp.stack([jnp.cos(angle), jnp.sin(angle)]),
            "target": target[start:] - physics.qpos[start:],
        }
        return state.replace(obs=obs, info=state.info | {self.slot: slot})


def imitate(env: Env, motion: Motion, max_error: float = 2.0, max_drift: float = 0.5) -> Imitate:
    """Replaces the reward and the observation of an MJX task by those of following a motion.

    An episode begins at a random pose of the motion. It terminates where the joints are further than
    `max_error` from it, the root further than `max_drift`, or where `env` terminates. The reward is
    0.65 exp(-2 e_pose) + 0.1 exp(-0.1 e_velocity) + 0.25 exp(-10 e_root) of squared errors, at most 1
    in a step; without a free joint the last term is 0.25. Its terms are metrics.

    The observation: "obs", the state without the root's place (of a free joint: height (m), the
    world's up in its frame, joints, then velocity (m/s) and turn in its frame and joint velocities);
    "phase" [2], cosine and sine of the phase; "target", from each joint to the motion.

    Args:
      env: a task of this project on MJX, whose state holds its `Physics`. Its start is replaced, and
        its own memory (clocks, commands) is that of its reset. Goes inside of a time limit.
      motion: at the control rate of `env`; its last pose leads to its first one.
      max_error: of all joints together, the norm, in rad or m; above 0.
      max_drift: m; above 0.

    Raises:
      ValueError: a motion of other sizes, a bound not above 0, or a task without a `Physics`.
    """
    check_instance(env)
    data = jax.eval_shape(env.reset, jax.random.key(0)).data
    physics = _physics(data)
    if physics is None:
        raise ValueError(f"imitate: the state of {type(env).__name__} holds no Physics of MJX")
    for name in ("qpos", "qvel"):
        found, size = getattr(motion, name).shape, getattr(physics, name).shape
        if len(found) != 2 or found[1:] != size or not found[0]:
            raise ValueError(f"motion: {name} has shape {found}, expected (T, {size[0]})")
    if len(motion.qpos) != len(motion.qvel):
        raise ValueError(
            f"motion: qpos has {len(motion.qpos)} poses and qvel {len(motion.qvel)}, expected as many"
        )
    rooted = env.sim.mj_model.jnt_type[0] == FREE
    motion = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), motion)
    new = Imitate(env, motion=motion, max_error=max_error, max_drift=max_drift, rooted=bool(rooted))
    check_range(new, 0.0, np.inf, "max_error", "max_drift", above=True)
    return new


def _physics(data: Any) -> Physics | None:
    """The `Physics` in the state of a task."""
    found = getattr(data, "physics", data)
    return found if hasattr(found, "qpos") and hasattr(found, "qacc_warmstart") else None


def _placed(data: Any, physics: Physics) -> Any:
    return data.replace(physics=physics) if hasattr(data, "physics") else physics
