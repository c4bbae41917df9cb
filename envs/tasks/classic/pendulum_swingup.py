"""Swing a rod upright with a motor too weak to lift it, and balance it there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs import drawing
from envs.mjx.simulator import Simulator
from envs.tasks.assets import load_asset
from envs.types import Box, State, first_state


@struct.dataclass
class PendulumSwingup:
    """obs [3]: cos and sin of the angle from upright, angular velocity (rad/s).
    action [1]: torque in [-1, 1], 2 N m per unit.

    Dynamics and start (any angle, up to 1 rad/s) are those of Gymnasium's Pendulum-v1,
    without its speed limit of 8 rad/s. The reward is in [0, 1]: upright, times small
    control and small velocity. Over 200 steps (10 s) doing nothing returns 45 on average
    and a hand-written controller (pump energy, then balance) 180: 170 means solved.
    """

    sim: Simulator
    max_start_angle: float = jnp.pi  # rad, on either side of upright
    max_start_velocity: float = 1.0  # rad/s
    frame_skip: int = struct.field(pytree_node=False, default=1)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("pendulum_swingup.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((3,))

    @property
    def action_space(self) -> Box:
        return Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        angle, velocity = jax.random.uniform(key, (2, 1), minval=-1.0)
        data = self.sim.physics(angle * self.max_start_angle, velocity * self.max_start_velocity)
        return first_state(data, self._obs(data), {"upright": _upright(data)})

    def step(self, state: State, action: jax.Array) -> State:
        torque = jnp.clip(action, -1.0, 1.0)
        data, _ = self.sim.simulate(state.data, torque, self.frame_skip)
        upright = _upright(data)
        small_control = (4.0 + (1.0 - torque[0] ** 2)) / 5.0
        small_velocity = (1.0 + 0.1 ** ((data.qvel[0] / 5.0) ** 2)) / 2.0
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=upright * small_control * small_velocity,
            metrics={"upright": upright},
        )

    def draw(self, state: State, width: int, height: int) -> jax.Array:
        """The rod from the front, with a disc at its tip. [height, width, 3] uint8"""
        x, y, scale = drawing.grid(width, height, (1.2, 1.2))
        angle = state.data.qpos[0]
        tip = jnp.stack([jnp.sin(angle), jnp.cos(angle)])
        image = jnp.full((height, width, 3), 0.92 * 255.0)
        rod = drawing.segment(x, y, jnp.zeros(2), tip, 0.06)
        image = drawing.painted(image, rod, scale, (230.0, 140.0, 51.0))
        image = drawing.painted(image, drawing.disc(x, y, tip, 0.15), scale, (41.0, 71.0, 115.0))
        return drawing.as_bytes(image)

    def _obs(self, data) -> jax.Array:
        angle = data.qpos[0]
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), data.qvel[0]])


def _upright(data) -> jax.Array:
    return (1.0 + jnp.cos(data.qpos[0])) / 2.0
