"""Hopper-v5 of Gymnasium on MJX: a one-legged robot hops forward without falling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, load_gymnasium
from envs.types import Box, State, first_state


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
        k_pos, k_vel = jax.random.split(key)
        noise = lambda k: self.reset_noise_scale * jax.random.uniform(k, (6,), minval=-1.0)
        data = self.sim.physics(self.sim.model.qpos0 + noise(k_pos), noise(k_vel))
        zero = jnp.zeros(())
        metrics = position_metrics(self.sim, data) | {"x_velocity": zero}
        metrics |= {"reward_forward": zero, "reward_ctrl": zero, "reward_survive": zero}
        return first_state(
            data, observation(data, self.exclude_current_positions_from_observation), metrics
        )

    def step(self, state: State, action: jax.Array) -> State:
        data, _ = self.sim.simulate(state.data, action, self.frame_skip)
        dt = self.frame_skip * self.sim.model.opt.timestep
        x_velocity = (data.qpos[0] - state.data.qpos[0]) / dt
        healthy = self._healthy(data)
        forward = self.forward_reward_weight * x_velocity
        ctrl = self.ctrl_cost_weight * jnp.sum(action**2)
        survive = healthy.astype(jnp.float32) * self.healthy_reward
        return state.replace(
            data=data,
            obs=observation(data, self.exclude_current_positions_from_observation),
            reward=forward + survive - ctrl,
            terminated=~healthy & self.terminate_when_unhealthy,
            truncated=jnp.zeros((), bool),
            metrics=position_metrics(self.sim, data)
            | {
                "x_velocity": x_velocity,
                "reward_forward": forward,
                "reward_ctrl": -ctrl,
                "reward_survive": survive,
            },
        )

    def _healthy(self, data: Physics) -> jax.Array:
        within = lambda x, bounds: (bounds[0] < x) & (x < bounds[1])
        rest = jnp.concatenate([data.qpos[2:], data.qvel])
        return (
            within(data.qpos[1], self.healthy_z_range)
            & within(data.qpos[2], self.healthy_angle_range)
            & within(rest, self.healthy_state_range).all()
        )


def position_metrics(sim: Simulator, data: Physics) -> dict[str, jax.Array]:
    """Of a planar walker."""
    height = data.qpos[1] - sim.model.qpos0[1]
    return {"x_position": data.qpos[0], "z_distance_from_origin": height}


def observation(data: Physics, exclude_x: bool) -> jax.Array:
    """A planar walker's positions, without x if told so, and velocities clipped to +-10."""
    return jnp.concatenate([data.qpos[int(exclude_x) :], jnp.clip(data.qvel, -10.0, 10.0)])
