"""Humanoid-v5 of Gymnasium on MJX: a 17-actuator humanoid walks forward without falling."""

from __future__ import annotations

from typing import Protocol

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
class Derived:
    """What the task reads from `mjx.Data` after a step, without the world body."""

    com: jax.Array  # [2] xy of the centre of mass, m
    cinert: jax.Array  # [13, 10] inertia of each body about the centre of mass
    cvel: jax.Array  # [13, 6] velocity of each body about the centre of mass
    qfrc_actuator: jax.Array  # [17] actuator torque on each joint
    cfrc_ext: jax.Array  # [13, 6] contact force on each body


class Seen(Protocol):
    """The fields of a task that choose what of a humanoid is observed."""

    sim: Simulator
    reset_noise_scale: float
    exclude_current_positions_from_observation: bool
    include_cinert_in_observation: bool
    include_cvel_in_observation: bool
    include_qfrc_actuator_in_observation: bool
    include_cfrc_ext_in_observation: bool


def simulator(xml: str, physics: str, impl: str, fast_contacts: int) -> Simulator:
    """A humanoid's simulator; see `load_gymnasium`."""
    if impl == "warp":
        raise ValueError("impl='warp': humanoid needs contact forces, which MJX has for 'jax' only")
    return load_gymnasium(xml, physics, impl, fast_contacts=fast_contacts)


def derive(sim: Simulator, data: mjx.Data) -> Derived:
    """What is observed beside positions and velocities."""
    mass = sim.model.body_mass
    return Derived(
        com=(mass @ data.xipos)[:2] / mass.sum(),
        cinert=data._impl.cinert[1:],
        cvel=data.cvel[1:],
        qfrc_actuator=data.qfrc_actuator[6:],
        cfrc_ext=sim.contact_forces(data)[1:],
    )


def start(env: Seen, key: jax.Array) -> tuple[TrackedPhysics, Derived]:
    """The state in which an episode starts: that of the model file and uniform noise."""
    k_pos, k_vel = jax.random.split(key)
    noise = lambda k, n: env.reset_noise_scale * jax.random.uniform(k, (n,), minval=-1.0)
    physics = env.sim.physics(env.sim.model.qpos0 + noise(k_pos, 24), noise(k_vel, 23))
    derived = derive(env.sim, env.sim.forward(physics))
    # Gymnasium computes contact forces after steps only: at a reset they read 0.
    derived = derived.replace(cfrc_ext=jnp.zeros((13, 6)))
    return TrackedPhysics(**vars(physics), tracked=derived.com), derived


def observe(env: Seen, data: Physics, derived: Derived) -> jax.Array:
    """The observation, [348] with the default options."""
    skip = 2 * env.exclude_current_positions_from_observation
    parts = [data.qpos[skip:], data.qvel]
    for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"):
        if getattr(env, f"include_{name}_in_observation"):
            parts.append(getattr(derived, name).ravel())
    return jnp.concatenate(parts)


def observation_space(env: Seen) -> Box:
    """The space of `observe`."""
    size = 47 - 2 * env.exclude_current_positions_from_observation
    size += 130 * env.include_cinert_in_observation
    size += 78 * env.include_cvel_in_observation
    size += 17 * env.include_qfrc_actuator_in_observation
    size += 78 * env.include_cfrc_ext_in_observation
    return Box((size,))


def contact_cost(derived: Derived, weight: float, bounds: tuple[float, float]) -> jax.Array:
    """The weighted square of all contact forces, clipped to `bounds`. []"""
    return jnp.clip(weight * jnp.sum(derived.cfrc_ext**2), *bounds)


@struct.dataclass
class Humanoid:
    """obs [348]: position without xy (22), velocity (23), and the fields of `Derived` after
    `com` in that order (303). action [17]: controls in [-0.4, 0.4].
    """

    sim: Simulator
    forward_reward_weight: float = 1.25
    ctrl_cost_weight: float = 0.1
    contact_cost_weight: float = 5e-7
    contact_cost_range: tuple[float, float] = (-float("inf"), 10.0)
    healthy_reward: float = 5.0
    healthy_z_range: tuple[float, float] = (1.0, 2.0)  # m
    reset_noise_scale: float = 1e-2
    frame_skip: int = struct.field(pytree_node=False, default=5)
    terminate_when_unhealthy: bool = struct.field(pytree_node=False, default=True)
    exclude_current_positions_from_observation: bool = struct.field(pytree_node=False, default=True)
    include_cinert_in_observation: bool = struct.field(pytree_node=False, default=True)
    include_cvel_in_observation: bool = struct.field(pytree_node=False, default=True)
    include_qfrc_actuator_in_observation: bool = struct.field(pytree_node=False, default=True)
    include_cfrc_ext_in_observation: bool = struct.field(pytree_node=False, default=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return simulator("humanoid.xml", physics, impl, fast_contacts=8)

    @property
    def observation_space(self) -> Box:
        return observation_space(self)

    @property
    def action_space(self) -> Box:
        return Box((17,), -0.4, 0.4)

    def reset(self, key: jax.Array) -> State:
        data, derived = start(self, key)
        return first_legged_state(data, observe(self, data, derived))

    def step(self, state: State, action: jax.Array) -> State:
        physics, derived = self.sim.simulate(
            state.data, action, self.frame_skip, lambda data: derive(self.sim, data)
        )
        data = TrackedPhysics(**vars(physics), tracked=derived.com)
        cost = contact_cost(derived, self.contact_cost_weight, self.contact_cost_range)
        return next_legged_state(self, state, data, observe(self, data, derived), action, cost)

    def healthy(self, data: Physics) -> jax.Array:
        """Whether the torso's height is in its range. [] bool"""
        low, high = self.healthy_z_range
        return (low < data.qpos[2]) & (data.qpos[2] < high)
