"""Ant-v5 of Gymnasium on MJX: a four-legged robot walks in the x direction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import (
    Physics,
    Simulator,
    TrackedPhysics,
    load_gymnasium,
    mjx,
)
from envs.tasks.gymnasium.locomotion import first_legged_state, next_legged_state
from envs.types import Box, State


@struct.dataclass
class Ant:
    """obs [105]: position without xy (13), velocity (14), contact force on each body
    clipped to +-1 (13 x 6). action [8]: torques in [-1, 1].
    """

    sim: Simulator
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.5
    contact_cost_weight: float = 5e-4
    healthy_reward: float = 1.0
    healthy_z_range: tuple[float, float] = (0.2, 1.0)  # m
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    reset_noise_scale: float = 0.1
    frame_skip: int = struct.field(pytree_node=False, default=5)
    terminate_when_unhealthy: bool = struct.field(pytree_node=False, default=True)
    exclude_current_positions_from_observation: bool = struct.field(pytree_node=False, default=True)
    include_cfrc_ext_in_observation: bool = struct.field(pytree_node=False, default=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        if impl == "warp":
            raise ValueError("impl='warp': ant needs contact forces, which MJX has for 'jax' only")
        return load_gymnasium("ant.xml", physics, impl, fast_contacts=8)

    @property
    def observation_space(self) -> Box:
        size = 29 - 2 * self.exclude_current_positions_from_observation
        return Box((size + 78 * self.include_cfrc_ext_in_observation,))

    @property
    def action_space(self) -> Box:
        return Box((8,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_pos, k_vel = jax.random.split(key)
        noise = self.reset_noise_scale * jax.random.uniform(k_pos, (15,), minval=-1.0)
        qpos = self.sim.model.qpos0 + noise
        physics = self.sim.physics(qpos, self.reset_noise_scale * jax.random.normal(k_vel, (14,)))
        data = TrackedPhysics(**vars(physics), tracked=qpos[:2])
        # Gymnasium computes contact forces after steps only: at a reset they read 0.
        return first_legged_state(data, self._obs(data, jnp.zeros((14, 6))))

    def step(self, state: State, action: jax.Array) -> State:
        physics, (xy, force) = self.sim.simulate(
            state.data, action, self.frame_skip, self._torso_and_contacts
        )
        data = TrackedPhysics(**vars(physics), tracked=xy)
        force = jnp.clip(force, *self.contact_force_range)
        contact = self.contact_cost_weight * jnp.sum(force**2)
        obs = self._obs(data, force)
        return next_legged_state(self, state, data, obs, action, contact)

    def _torso_and_contacts(self, data: mjx.Data) -> tuple[jax.Array, jax.Array]:
        """Torso xy [2] and contact forces [14, 6], as Gymnasium reads them after `mj_step`."""
        torso = self.sim.mj_model.body("torso").id
        return data.xpos[torso, :2], self.sim.contact_forces(data)

    def _obs(self, data: Physics, force: jax.Array) -> jax.Array:
        skip = 2 * self.exclude_current_positions_from_observation
        parts = [data.qpos[skip:], data.qvel]
        if self.include_cfrc_ext_in_observation:
            parts.append(force[1:].ravel())  # without the world
        return jnp.concatenate(parts)

    def healthy(self, data: Physics) -> jax.Array:
        """Whether the torso's height is in its range and all is finite. [] bool"""
        low, high = self.healthy_z_range
        finite = jnp.isfinite(data.qpos).all() & jnp.isfinite(data.qvel).all()
        return finite & (low <= data.qpos[2]) & (data.qpos[2] <= high)
