"""Two agents on a line want to meet: the smallest task of coordination in space."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.types import Box, Discrete, State, first_state

AGENTS = 2
STAY = 1  # action; 0 is a cell to the left, 2 a cell to the right


@struct.dataclass
class MeetingData:
    cell: jax.Array  # [2] int32


@struct.dataclass
class Meeting:
    """Two agents walk on a line of `cells` until both are in one cell.

    obs: {"obs": [2, 2 * cells] one-hot own cell and other's cell, "state": [2 * cells] one-hot
    cells, "mask": [2, 3] bool, "alive": [2] bool}. An action is 0 (left), 1 (stay) or 2 (right)
    and `mask` is False where it would leave the line; such an action stays. Both agents earn the
    same: `meeting_reward` at the step that ends in one cell, and `step_reward` at any other. Two
    agents at an odd distance that both step towards each other pass without meeting, so one of
    them has to wait: the best return is 1 + step_reward * (ceil(distance / 2) - 1).

    Attributes:
      step_reward: of a step that does not meet.
      meeting_reward: of the step that does.
      cells: of the line, at least 2.
    """

    step_reward: float = -0.1
    meeting_reward: float = 1.0
    cells: int = struct.field(pytree_node=False, default=6)

    def __post_init__(self):
        if self.cells < 2:
            raise ValueError(f"cells={self.cells}: must be at least 2")

    num_agents = AGENTS

    @property
    def observation_space(self) -> dict[str, Box]:
        return {
            "obs": Box((AGENTS, 2 * self.cells), 0.0, 1.0),
            "state": Box((2 * self.cells,), 0.0, 1.0),
            "mask": Box((AGENTS, 3), dtype=np.bool_),
            "alive": Box((AGENTS,), dtype=np.bool_),
        }

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    def reset(self, key: jax.Array) -> State:
        """Two different cells."""
        cell = jax.random.permutation(key, self.cells)[:AGENTS].astype(jnp.int32)
        data = MeetingData(cell)
        return first_state(data, self._obs(data), {"success": jnp.zeros(())}, num_agents=AGENTS)

    def step(self, state: State, action: jax.Array) -> State:
        data = MeetingData(jnp.clip(state.data.cell + action - STAY, 0, self.cells - 1))
        met = data.cell[0] == data.cell[1]
        reward = jnp.where(met, self.meeting_reward, self.step_reward)
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=jnp.full(AGENTS, reward, jnp.float32),
            terminated=met,
            metrics={"success": met.astype(jnp.float32)},
        )

    def _obs(self, data: MeetingData) -> dict[str, jax.Array]:
        where = jax.nn.one_hot(data.cell, self.cells)  # [2, cells]
        not_first, not_last = data.cell > 0, data.cell < self.cells - 1
        everyone = jnp.ones(AGENTS, bool)
        return {
            "obs": jnp.concatenate([where, where[::-1]], 1),
            "state": where.reshape(-1),
            "mask": jnp.stack([not_first, everyone, not_last], 1),
            "alive": everyone,
        }
