"""What Ant-v5, Humanoid-v5 and Swimmer-v5 of Gymnasium share: robots that move in x and y."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from envs.mjx.simulator import Physics, Simulator, TrackedPhysics
from envs.types import State, first_state


class Legged(Protocol):
    """The fields of a task that `first_legged_state` and `next_legged_state` read."""

    sim: Simulator
    forward_reward_weight: float
    ctrl_cost_weight: float
    healthy_reward: float
    frame_skip: int
    terminate_when_unhealthy: bool

    def healthy(self, data: Physics) -> jax.Array:
        """Whether the robot did not fall. [] bool"""


def metrics(
    data: Physics, velocity: jax.Array, forward: jax.Array, ctrl: jax.Array
) -> dict[str, jax.Array]:
    """Gymnasium's `info` from the xy velocity [2] (m/s) and two parts of the reward, both []."""
    x, y = data.qpos[0], data.qpos[1]
    return {
        "x_position": x,
        "y_position": y,
        "distance_from_origin": jnp.hypot(x, y),
        "x_velocity": velocity[0],
        "y_velocity": velocity[1],
        "reward_forward": forward,
        "reward_ctrl": ctrl,
    }


def legged_metrics(
    data: Physics,
    velocity: jax.Array,
    forward: jax.Array,
    ctrl: jax.Array,
    contact: jax.Array,
    survive: jax.Array,
) -> dict[str, jax.Array]:
    """`metrics` and two more parts of the reward, both []."""
    more = {"reward_contact": contact, "reward_survive": survive}
    return metrics(data, velocity, forward, ctrl) | more


def first_legged_state(data: TrackedPhysics, obs: jax.Array) -> State:
    """The state that a reset returns, at rest for the metrics."""
    zero = jnp.zeros(())
    return first_state(data, obs, legged_metrics(data, jnp.zeros(2), zero, zero, zero, zero))


def next_legged_state(
    env: Legged,
    state: State,
    data: TrackedPhysics,
    obs: jax.Array,
    action: jax.Array,
    contact: jax.Array,
) -> State:
    """The state after a step from `state` to `data`.

    The reward is the forward speed of the tracked point plus `healthy_reward` minus the costs of
    control and of `contact` [].
    """
    dt = env.frame_skip * env.sim.model.opt.timestep
    velocity = (data.tracked - state.data.tracked) / dt
    healthy = env.healthy(data)
    forward = env.forward_reward_weight * velocity[0]
    ctrl = env.ctrl_cost_weight * jnp.sum(action**2)
    survive = healthy.astype(jnp.float32) * env.healthy_reward
    return state.next(
        data=data,
        obs=obs,
        reward=forward + survive - ctrl - contact,
        terminated=~healthy & env.terminate_when_unhealthy,
        metrics=legged_metrics(data, velocity, forward, -ctrl, -contact, survive),
    )
