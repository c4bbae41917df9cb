"""InvertedDoublePendulum-v5 of Gymnasium on MJX: a cart keeps two stacked poles upright."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium, mjx
from envs.types import Box, State, first_state


@struct.dataclass
class InvertedDoublePendulum:
    """obs [9]: cart position (m), sin (2) and cos (2) of the pole angles, velocities clipped
    to +-10 (3), constraint force on the cart clipped to +-10. action [1]: force in [-1, 1].
    """

    sim: Simulator
    healthy_reward: float = 10.0
    reset_noise_scale: float = 0.1
    frame_skip: int = struct.field(pytree_node=False, default=5)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("inverted_double_pendulum.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((9,))

    @property
    def action_space(self) -> Box:
        return Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_pos, k_vel = jax.random.split(key)
        noise = self.reset_noise_scale * jax.random.uniform(k_pos, (3,), minval=-1.0)
        qvel = self.reset_noise_scale * jax.random.normal(k_vel, (3,))
        data = self.sim.physics(self.sim.model.qpos0 + noise, qvel)
        _, force = self._tip_and_force(self.sim.forward(data))
        zero = jnp.zeros(())
        metrics = {"reward_survive": zero, "distance_penalty": zero, "velocity_penalty": zero}
        return first_state(data, self._obs(data, force), metrics)

    def step(self, state: State, action: jax.Array) -> State:
        data, (tip, force) = self.sim.simulate(
            state.data, action, self.frame_skip, self._tip_and_force
        )
        x, _, z = tip
        terminated = z <= 1.0
        survive = self.healthy_reward * (~terminated).astype(jnp.float32)
        distance = 0.01 * x**2 + (z - 2.0) ** 2
        velocity = 1e-3 * data.qvel[1] ** 2 + 5e-3 * data.qvel[2] ** 2
        return state.next(
            data=data,
            obs=self._obs(data, force),
            reward=survive - distance - velocity,
            terminated=terminated,
            metrics={
                "reward_survive": survive,
                "distance_penalty": -distance,
                "velocity_penalty": -velocity,
            },
        )

    def _tip_and_force(self, data: mjx.Data) -> tuple[jax.Array, jax.Array]:
        """Position of the upper pole's tip [3] (m) and the constraint force on the cart []."""
        return data.site_xpos[self.sim.mj_model.site("tip").id], data.qfrc_constraint[0]

    def _obs(self, data: Physics, force: jax.Array) -> jax.Array:
        angles = data.qpos[1:]
        clip = lambda x: jnp.clip(x, -10.0, 10.0)
        return jnp.concatenate(
            [data.qpos[:1], jnp.sin(angles), jnp.cos(angles), clip(data.qvel), clip(force)[None]]
        )
