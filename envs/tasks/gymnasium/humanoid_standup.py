"""HumanoidStandup-v5 of Gymnasium on MJX: the humanoid lies on its back and gets up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator, TrackedPhysics
from envs.tasks.gymnasium.humanoid import (
    contact_cost,
    derive,
    observation_space,
    observe,
    simulator,
    start,
)
from envs.types import Box, State, first_state


@struct.dataclass
class HumanoidStandup:
    """obs [348] and action [17] as `Humanoid`'s. Never terminates.

    The reward is the height of the torso after a step (m) over the duration of a substep (s),
    minus the costs of control and contact, plus 1.
    """

    sim: Simulator
    uph_cost_weight: float = 1.0  # of the height; Gymnasium's task has this option and ignores it
    ctrl_cost_weight: float = 0.1
    impact_cost_weight: float = 5e-7
    impact_cost_range: tuple[float, float] = (-float("inf"), 10.0)
    reset_noise_scale: float = 1e-2
    frame_skip: int = struct.field(pytree_node=False, default=5)
    exclude_current_positions_from_observation: bool = struct.field(pytree_node=False, default=True)
    include_cinert_in_observation: bool = struct.field(pytree_node=False, default=True)
    include_cvel_in_observation: bool = struct.field(pytree_node=False, default=True)
    include_qfrc_actuator_in_observation: bool = struct.field(pytree_node=False, default=True)
    include_cfrc_ext_in_observation: bool = struct.field(pytree_node=False, default=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return simulator("humanoidstandup.xml", physics, impl, fast_contacts=16)

    @property
    def observation_space(self) -> Box:
        return observation_space(self)

    @property
    def action_space(self) -> Box:
        return Box((17,), -0.4, 0.4)

    def reset(self, key: jax.Array) -> State:
        data, derived = start(self, key)
        zero = jnp.zeros(())
        return first_state(
            data, observe(self, data, derived), self._metrics(data, zero, zero, zero)
        )

    def step(self, state: State, action: jax.Array) -> State:
        physics, derived = self.sim.simulate(
            state.data, action, self.frame_skip, lambda data: derive(self.sim, data)
        )
        data = TrackedPhysics(**vars(physics), tracked=derived.com)
        up = self.uph_cost_weight * data.qpos[2] / self.sim.model.opt.timestep
        ctrl = self.ctrl_cost_weight * jnp.sum(action**2)
        impact = contact_cost(derived, self.impact_cost_weight, self.impact_cost_range)
        return state.next(
            data=data,
            obs=observe(self, data, derived),
            reward=up - ctrl - impact + 1.0,
            metrics=self._metrics(data, up, -ctrl, -impact),
        )

    def _metrics(
        self, data: Physics, up: jax.Array, ctrl: jax.Array, impact: jax.Array
    ) -> dict[str, jax.Array]:
        return {
            "x_position": data.qpos[0],
            "y_position": data.qpos[1],
            "z_distance_from_origin": data.qpos[2] - self.sim.model.qpos0[2],
            "reward_linup": up,
            "reward_quadctrl": ctrl,
            "reward_impact": impact,
        }
