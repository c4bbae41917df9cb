"""Hopper-v5 of Gymnasium on MJX: a one-legged robot hops forward without falling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium
from envs.tasks.gymnasium import planar
from envs.tasks.gymnasium.planar import within
from envs.types import Box, State


@struct.dataclass
class Hopper:
    """obs [11]: position without x (5), velocity clipped to +-10 (6). action [3]: torques in [-1, 1]."""

    sim: Simulator
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    healthy_state_range: tuple[float, float] = (-100.0, 100.0)
    healthy_z_range: tuple[float, float] = (0.7, float("inf"))
    healthy_angle_range: tuple[float, float] = (-0.2, 0.2)
    reset_noise_scale: float = 5e-3
    frame_skip: int = struct.field(pytree_node=False, default=4)
    terminate_when_unhealthy: bool = struct.field(pytree_node=False, default=True)
    exclude_current_positions_from_observation: bool = struct.field(pytree_node=False, default=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_gymnasium("hopper.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((12 - self.exclude_current_positions_from_observation,))

    @property
    def action_space(self) -> Box:
        return Box((3,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        return planar.reset(self, key)

    def step(self, state: State, action: jax.Array) -> State:
        return planar.step(self, state, action)

    def healthy(self, data: Physics) -> jax.Array:
        """Whether height, pitch and the other coordinates are in their ranges. [] bool"""
        rest = jnp.concatenate([data.qpos[2:], data.qvel])
        return (
            within(data.qpos[1], self.healthy_z_range)
            & within(data.qpos[2], self.healthy_angle_range)
            & within(rest, self.healthy_state_range).all()
        )
