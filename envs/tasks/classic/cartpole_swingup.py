"""Swing a pole up by pushing the cart it hangs from, and keep it up in the middle of the rail."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Simulator
from envs.tasks.assets import load_asset
from envs.types import Box, State, first_state


@struct.dataclass
class CartpoleSwingup:
    """obs [5]: x (m), cos and sin of the angle from upright, x velocity, angular velocity.
    action [1]: push in [-1, 1], 10 N per unit.

    The reward of a step is in [0, 1], after the cartpole of dm_control: upright, times
    centred, small control and small velocity, each of which can at most halve it. An
    episode of 500 steps (10 s) starts hanging. Doing nothing returns 0.06, random pushes
    25, a tuned hand-written controller (pump energy, then balance) 435: 400 means solved.

    MJX sees neither contacts nor joint limits (no constraint solver runs): the end stops
    are a spring and a damper that this task adds to the push.
    """

    sim: Simulator
    reset_noise_scale: float = 0.05  # rad, m, rad/s and m/s
    rail: float = 1.8  # m, the end stops begin at +-rail
    stop_stiffness: float = 200.0  # N/m
    stop_damping: float = 30.0  # N s/m
    frame_skip: int = struct.field(pytree_node=False, default=2)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("cartpole_swingup.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((5,))

    @property
    def action_space(self) -> Box:
        return Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        noise = self.reset_noise_scale * jax.random.uniform(key, (4,), minval=-1.0)
        data = self.sim.physics(noise[:2].at[1].add(jnp.pi), noise[2:])
        metrics = {"upright": _upright(data), "x_position": data.qpos[0]}
        return first_state(data, self._obs(data), metrics)

    def step(self, state: State, action: jax.Array) -> State:
        push = jnp.clip(action, -1.0, 1.0)
        data, _ = self.sim.simulate(state.data, self.ctrl(state.data, push), self.frame_skip)
        upright = _upright(data)
        centred = (1.0 + _bell(data.qpos[0] / 2.0)) / 2.0
        small_control = (4.0 + (1.0 - push[0] ** 2)) / 5.0
        small_velocity = (1.0 + _bell(data.qvel[1] / 5.0)) / 2.0
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=upright * centred * small_control * small_velocity,
            metrics={"upright": upright, "x_position": data.qpos[0]},
        )

    def ctrl(self, data, push: jax.Array) -> jax.Array:
        """The motor's control: `push` [1] and the end stop, which only pushes inward. [1]"""
        x, velocity = data.qpos[0], data.qvel[0]
        side = jnp.sign(x)
        depth = jnp.maximum(jnp.abs(x) - self.rail, 0.0)
        force = self.stop_stiffness * depth + self.stop_damping * side * velocity
        stop = jnp.where(depth > 0.0, -side * jnp.maximum(force, 0.0), 0.0)
        return push + stop / self.sim.model.actuator_gear[0, 0]

    def _obs(self, data) -> jax.Array:
        x, angle = data.qpos
        return jnp.stack([x, jnp.cos(angle), jnp.sin(angle), *data.qvel])


def _upright(data) -> jax.Array:
    return (1.0 + jnp.cos(data.qpos[1])) / 2.0


def _bell(x: jax.Array) -> jax.Array:
    """1 at 0, 0.1 at +-1: dm_control's gaussian tolerance."""
    return 0.1 ** (x**2)
