"""Reacher-v5 of Gymnasium on MJX: a two-link planar arm brings its fingertip to a target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium, mjx
from envs.types import Box, State, first_state

TARGET_RADIUS = 0.2  # m, targets are uniform in this disk


@struct.dataclass
class Reacher:
    """obs [10]: cos and sin of the joint angles (4), target xy (2), joint velocities (2),
    fingertip minus target xy (2). action [2]: torques in [-1, 1]. Never terminates.
    """

    sim: Simulator
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 1.0
    frame_skip: int = struct.field(pytree_node=False, default=2)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("reacher.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((10,))

    @property
    def action_space(self) -> Box:
        return Box((2,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_pos, k_vel, k_radius, k_angle = jax.random.split(key, 4)
        arm = self.sim.model.qpos0[:2] + jax.random.uniform(k_pos, (2,), minval=-0.1, maxval=0.1)
        # Gymnasium draws from the square until it hits the disk; the law is the same.
        radius = TARGET_RADIUS * jnp.sqrt(jax.random.uniform(k_radius))
        angle = jax.random.uniform(k_angle, maxval=2 * jnp.pi)
        target = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        speed = jax.random.uniform(k_vel, (2,), minval=-0.005, maxval=0.005)
        data = self.sim.physics(
            jnp.concatenate([arm, target]), jnp.concatenate([speed, jnp.zeros(2)])
        )
        offset = self._offset(self.sim.forward(data))
        zero = jnp.zeros(())
        return first_state(
            data, self._obs(data, offset), {"reward_dist": zero, "reward_ctrl": zero}
        )

    def step(self, state: State, action: jax.Array) -> State:
        data, offset = self.sim.simulate(state.data, action, self.frame_skip, self._offset)
        dist = -self.reward_dist_weight * jnp.linalg.norm(offset)
        ctrl = -self.reward_control_weight * jnp.sum(action**2)
        return state.next(
            data=data,
            obs=self._obs(data, offset),
            reward=dist + ctrl,
            metrics={"reward_dist": dist, "reward_ctrl": ctrl},
        )

    def _offset(self, data: mjx.Data) -> jax.Array:
        """From the target to the fingertip. [3] m"""
        body = self.sim.mj_model.body
        return data.xpos[body("fingertip").id] - data.xpos[body("target").id]

    def _obs(self, data: Physics, offset: jax.Array) -> jax.Array:
        angles, target = data.qpos[:2], data.qpos[2:]
        return jnp.concatenate(
            [jnp.cos(angles), jnp.sin(angles), target, data.qvel[:2], offset[:2]]
        )
