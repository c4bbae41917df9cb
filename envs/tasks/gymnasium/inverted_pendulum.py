"""InvertedPendulum-v5 of Gymnasium on MJX: a cart keeps its pole upright."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium
from envs.types import Box, State, first_state


@struct.dataclass
class InvertedPendulum:
    """obs [4]: cart position (m), pole angle (rad), their velocities. action [1]: force in [-3, 3]."""

    sim: Simulator
    reset_noise_scale: float = 0.01
    healthy_angle: float = 0.2  # rad; beyond it the episode ends
    frame_skip: int = struct.field(pytree_node=False, default=2)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("inverted_pendulum.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((4,))

    @property
    def action_space(self) -> Box:
        return Box((1,), -3.0, 3.0)

    def reset(self, key: jax.Array) -> State:
        k_pos, k_vel = jax.random.split(key)
        noise = lambda k: self.reset_noise_scale * jax.random.uniform(k, (2,), minval=-1.0)
        data = self.sim.physics(self.sim.model.qpos0 + noise(k_pos), noise(k_vel))
        return first_state(data, self._obs(data), {"reward_survive": jnp.zeros(())})

    def step(self, state: State, action: jax.Array) -> State:
        data, _ = self.sim.simulate(state.data, action, self.frame_skip)
        obs = self._obs(data)
        terminated = ~jnp.isfinite(obs).all() | (jnp.abs(obs[1]) > self.healthy_angle)
        reward = jnp.where(terminated, 0.0, 1.0).astype(jnp.float32)
        return state.next(
            data=data,
            obs=obs,
            reward=reward,
            terminated=terminated,
            metrics={"reward_survive": reward},
        )

    def _obs(self, data: Physics) -> jax.Array:
        return jnp.concatenate([data.qpos, data.qvel])
