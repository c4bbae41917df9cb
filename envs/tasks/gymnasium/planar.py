"""What Hopper-v5 and Walker2d-v5 of Gymnasium share: start, step, observation and metrics.

Both move in the x-z plane. `qpos` is x, z (m), the pitch of the torso and the joint angles (rad).
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from envs.mjx.simulator import Physics, Simulator
from envs.types import State, first_state


class Planar(Protocol):
    """The fields of a task that these functions read."""

    sim: Simulator
    forward_reward_weight: float
    ctrl_cost_weight: float
    healthy_reward: float
    reset_noise_scale: float
    frame_skip: int
    terminate_when_unhealthy: bool
    exclude_current_positions_from_observation: bool

    def healthy(self, data: Physics) -> jax.Array:
        """Whether the robot did not fall. [] bool"""


def reset(env: Planar, key: jax.Array) -> State:
    """The first state: `qpos0` and rest, both with uniform noise of +-`reset_noise_scale`."""
    k_pos, k_vel = jax.random.split(key)
    noise = lambda k, n: env.reset_noise_scale * jax.random.uniform(k, (n,), minval=-1.0)
    model = env.sim.model
    data = env.sim.physics(model.qpos0 + noise(k_pos, model.nq), noise(k_vel, model.nv))
    zero = jnp.zeros(())
    return first_state(data, observation(env, data), metrics(env, data, zero, zero, zero, zero))


def step(env: Planar, state: State, action: jax.Array) -> State:
    """The next state. Its reward is the forward speed plus `healthy_reward` minus a control cost."""
    data, _ = env.sim.simulate(state.data, action, env.frame_skip)
    dt = env.frame_skip * env.sim.model.opt.timestep
    x_velocity = (data.qpos[0] - state.data.qpos[0]) / dt
    healthy = env.healthy(data)
    forward = env.forward_reward_weight * x_velocity
    ctrl = env.ctrl_cost_weight * jnp.sum(action**2)
    survive = healthy.astype(jnp.float32) * env.healthy_reward
    return state.next(
        data=data,
        obs=observation(env, data),
        reward=forward + survive - ctrl,
        terminated=~healthy & env.terminate_when_unhealthy,
        metrics=metrics(env, data, x_velocity, forward, -ctrl, survive),
    )


def observation(env: Planar, data: Physics) -> jax.Array:
    """The positions, by default without x, and the velocities clipped to +-10. [obs]"""
    skip = int(env.exclude_current_positions_from_observation)
    return jnp.concatenate([data.qpos[skip:], jnp.clip(data.qvel, -10.0, 10.0)])


def metrics(
    env: Planar,
    data: Physics,
    x_velocity: jax.Array,
    forward: jax.Array,
    ctrl: jax.Array,
    survive: jax.Array,
) -> dict[str, jax.Array]:
    """Gymnasium's `info` from the speed (m/s) and the three parts of the reward, all []."""
    return {
        "x_position": data.qpos[0],
        "z_distance_from_origin": data.qpos[1] - env.sim.model.qpos0[1],
        "x_velocity": x_velocity,
        "reward_forward": forward,
        "reward_ctrl": ctrl,
        "reward_survive": survive,
    }


def within(x: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    """Whether `x` is strictly between the two bounds. [...] bool"""
    return (bounds[0] < x) & (x < bounds[1])
