"""HalfCheetah-v5 of Gymnasium on MJX: a two-legged planar robot runs forward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium
from envs.types import Box, State, first_state


@struct.dataclass
class HalfCheetah:
    """obs [17]: position without x (8), velocity (9). action [6]: torques in [-1, 1].

    Never terminates.
    """

    sim: Simulator
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.1
    reset_noise_scale: float = 0.1
    frame_skip: int = struct.field(pytree_node=False, default=5)
    exclude_current_positions_from_observation: bool = struct.field(pytree_node=False, default=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("half_cheetah.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((18 - self.exclude_current_positions_from_observation,))

    @property
    def action_space(self) -> Box:
        return Box((6,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_pos, k_vel = jax.random.split(key)
        noise = self.reset_noise_scale * jax.random.uniform(k_pos, (9,), minval=-1.0)
        qpos = self.sim.model.qpos0 + noise
        data = self.sim.physics(qpos, self.reset_noise_scale * jax.random.normal(k_vel, (9,)))
        zero = jnp.zeros(())
        metrics = {"x_position": qpos[0], "x_velocity": zero}
        metrics |= {"reward_forward": zero, "reward_ctrl": zero}
        return first_state(data, self._obs(data), metrics)

    def step(self, state: State, action: jax.Array) -> State:
        data, _ = self.sim.simulate(state.data, action, self.frame_skip)
        x = data.qpos[0]
        x_velocity = (x - state.data.qpos[0]) / (self.frame_skip * self.sim.model.opt.timestep)
        forward = self.forward_reward_weight * x_velocity
        ctrl = self.ctrl_cost_weight * jnp.sum(action**2)
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=forward - ctrl,
            metrics={
                "x_position": x,
                "x_velocity": x_velocity,
                "reward_forward": forward,
                "reward_ctrl": -ctrl,
            },
        )

    def _obs(self, data: Physics) -> jax.Array:
        skip = int(self.exclude_current_positions_from_observation)
        return jnp.concatenate([data.qpos[skip:], data.qvel])
