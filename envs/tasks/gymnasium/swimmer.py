"""Swimmer-v5 of Gymnasium on MJX: a three-link snake swims forward in a viscous fluid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium
from envs.tasks.gymnasium.locomotion import metrics
from envs.types import Box, State, first_state


@struct.dataclass
class Swimmer:
    """obs [8]: angles (3), velocity (5). action [2]: torques in [-1, 1]. Never terminates."""

    sim: Simulator
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-4
    reset_noise_scale: float = 0.1
    frame_skip: int = struct.field(pytree_node=False, default=4)
    exclude_current_positions_from_observation: bool = struct.field(pytree_node=False, default=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("swimmer.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((10 - 2 * self.exclude_current_positions_from_observation,))

    @property
    def action_space(self) -> Box:
        return Box((2,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_pos, k_vel = jax.random.split(key)
        noise = lambda k: self.reset_noise_scale * jax.random.uniform(k, (5,), minval=-1.0)
        data = self.sim.physics(self.sim.model.qpos0 + noise(k_pos), noise(k_vel))
        zero = jnp.zeros(())
        return first_state(data, self._obs(data), metrics(data, jnp.zeros(2), zero, zero))

    def step(self, state: State, action: jax.Array) -> State:
        data, _ = self.sim.simulate(state.data, action, self.frame_skip)
        dt = self.frame_skip * self.sim.model.opt.timestep
        velocity = (data.qpos[:2] - state.data.qpos[:2]) / dt
        forward = self.forward_reward_weight * velocity[0]
        ctrl = self.ctrl_cost_weight * jnp.sum(action**2)
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=forward - ctrl,
            metrics=metrics(data, velocity, forward, -ctrl),
        )

    def _obs(self, data: Physics) -> jax.Array:
        skip = 2 * self.exclude_current_positions_from_observation
        return jnp.concatenate([data.qpos[skip:], data.qvel])
