"""Pusher-v5 of Gymnasium on MJX: a seven-joint arm pushes a cylinder to a goal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium, mjx
from envs.types import Box, State, first_state

CLEARANCE = 0.17  # m, the cylinder starts farther than this from the goal


@struct.dataclass
class Pusher:
    """obs [23]: arm angles (7) and velocities (7), positions (m) of the fingertips, the
    cylinder and the goal (9). action [7]: torques in [-2, 2]. Never terminates.
    """

    sim: Simulator
    reward_near_weight: float = 0.5
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 0.1
    frame_skip: int = struct.field(pytree_node=False, default=5)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("pusher_v5.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((23,))

    @property
    def action_space(self) -> Box:
        return Box((7,), -2.0, 2.0)

    def reset(self, key: jax.Array) -> State:
        k_cylinder, k_vel = jax.random.split(key)
        speed = jax.random.uniform(k_vel, (7,), minval=-0.005, maxval=0.005)
        data = self.sim.physics(
            jnp.concatenate([self.sim.model.qpos0[:7], _cylinder(k_cylinder), jnp.zeros(2)]),
            jnp.concatenate([speed, jnp.zeros(4)]),
        )
        positions = self._positions(self.sim.forward(data))
        zero = jnp.zeros(())
        metrics = {"reward_dist": zero, "reward_ctrl": zero, "reward_near": zero}
        return first_state(data, self._obs(data, positions), metrics)

    def step(self, state: State, action: jax.Array) -> State:
        data, positions = self.sim.simulate(state.data, action, self.frame_skip, self._positions)
        tips, cylinder, goal = positions
        near = -self.reward_near_weight * jnp.linalg.norm(cylinder - tips)
        dist = -self.reward_dist_weight * jnp.linalg.norm(cylinder - goal)
        ctrl = -self.reward_control_weight * jnp.sum(action**2)
        return state.next(
            data=data,
            obs=self._obs(data, positions),
            reward=dist + ctrl + near,
            metrics={"reward_dist": dist, "reward_ctrl": ctrl, "reward_near": near},
        )

    def _positions(self, data: mjx.Data) -> jax.Array:
        """Of the fingertips, the cylinder and the goal. [3, 3] m"""
        body = self.sim.mj_model.body
        return jnp.stack([data.xpos[body(n).id] for n in ("tips_arm", "object", "goal")])

    def _obs(self, data: Physics, positions: jax.Array) -> jax.Array:
        return jnp.concatenate([data.qpos[:7], data.qvel[:7], positions.ravel()])


def _cylinder(key: jax.Array) -> jax.Array:
    """Uniform on [-0.3, 0] x [-0.2, 0.2] outside the clearance. [2] m

    Gymnasium redraws until it is outside (38% of draws are not). The first that is outside
    of 32 draws follows the same law up to a chance of 1e-13.
    """
    low, high = jnp.array([-0.3, -0.2]), jnp.array([0.0, 0.2])
    draws = jax.random.uniform(key, (32, 2), minval=low, maxval=high)
    outside = jnp.linalg.norm(draws, axis=-1) > CLEARANCE
    return draws[jnp.argmax(outside)]
