"""Repeated matrix games of two agents: what one earns depends on what the other does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.types import Box, Discrete, State, first_state

# [row action, column action], paid to both. "climbing" and "penalty": Claus and Boutilier 1998.
SHARED: dict[str, np.ndarray] = {
    "coordination": np.array([[1, 0], [0, 1]], np.float32),
    "climbing": np.array([[11, -30, 0], [-30, 7, 6], [0, 0, 5]], np.float32),
    "penalty": np.array([[10, 0, -10], [0, 2, 0], [-10, 0, 10]], np.float32),
}
# Paid to the row agent; the column agent is paid `COLUMN`.
ROW = {
    "prisoners": np.array([[3, 0], [5, 1]], np.float32),
    "pennies": np.array([[1, -1], [-1, 1]], np.float32),
}
COLUMN = {"prisoners": ROW["prisoners"].T, "pennies": -ROW["pennies"]}
GAMES = tuple(sorted(SHARED | ROW))


@struct.dataclass
class MatrixGame:
    """Two agents choose an action each at every step and are paid by a matrix.

    obs: {"obs": [2, 2 * n] one-hot own and other's last action (zeros at first), "mask": [2, n]
    bool, "alive": [2] bool}; n is the number of actions. The game never terminates.

    Attributes:
      scale: of the payoffs.
      game: one of `GAMES`.
    """

    scale: float = 1.0
    game: str = struct.field(pytree_node=False, default="climbing")

    def __post_init__(self):
        if self.game not in GAMES:
            raise ValueError(f"game={self.game!r}: allowed are {', '.join(GAMES)}")

    num_agents = 2

    @property
    def payoffs(self) -> np.ndarray:
        """[2, n, n]: of the row and of the column agent, by their actions."""
        if self.game in SHARED:
            return np.stack([SHARED[self.game]] * 2)
        return np.stack([ROW[self.game], COLUMN[self.game]])

    @property
    def observation_space(self) -> dict[str, Box]:
        n = self.action_space.n
        return {
            "obs": Box((2, 2 * n), 0.0, 1.0),
            "mask": Box((2, n), dtype=np.bool_),
            "alive": Box((2,), dtype=np.bool_),
        }

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.payoffs.shape[-1])

    def reset(self, key: jax.Array) -> State:
        return first_state((), self._obs(jnp.zeros((2, self.action_space.n))), num_agents=2)

    def step(self, state: State, action: jax.Array) -> State:
        reward = self.scale * jnp.asarray(self.payoffs)[:, action[0], action[1]]
        return state.next(
            data=state.data,
            obs=self._obs(jax.nn.one_hot(action, self.action_space.n)),
            reward=reward,
        )

    def _obs(self, last: jax.Array) -> dict[str, jax.Array]:
        """last: [2, n], the one-hot actions of the step before."""
        everyone = jnp.ones(2, bool)
        obs = jnp.concatenate([last, last[::-1]], 1)
        return {"obs": obs, "mask": jnp.ones(last.shape, bool), "alive": everyone}
