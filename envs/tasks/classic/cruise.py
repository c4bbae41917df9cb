"""A car on a road with a speed limit: going faster pays more and costs more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Box, State, check_range, first_state


@struct.dataclass
class CruiseData:
    speed: jax.Array  # [] m/s
    limit: jax.Array  # [] m/s, of this episode


@struct.dataclass
class Cruise:
    """Choose a speed on a road whose limit is drawn for every episode.

    obs [2]: speed and limit, in `max_speed`. action [1] in [-1, 1]: the speed of the next step,
    from 0 to `max_speed`. The reward is the speed, the signal `cost` the speed above the limit,
    both in `max_speed`. An episode of T steps never terminates. Under a bound of b on the cost of
    an episode, the best return on a road of limit m is T m + b, as long as speeds stay below
    `max_speed`; without a bound it is T.

    Attributes:
      max_speed: m/s; scales what is seen, not what is paid.
      limits: range of the limit in `max_speed`.
    """

    max_speed: float = 30.0
    limits: tuple[float, float] = (0.3, 0.7)

    def __post_init__(self):
        check_range(self, 0.0, 1e6, "max_speed", above=True)

    @property
    def observation_space(self) -> Box:
        return Box((2,), 0.0, 1.0)

    @property
    def action_space(self) -> Box:
        return Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        low, high = self.limits
        limit = self.max_speed * jax.random.uniform(key, (), minval=low, maxval=high)
        data = CruiseData(jnp.zeros(()), limit)
        return first_state(data, self._obs(data), signals={"cost": jnp.zeros(())})

    def step(self, state: State, action: jax.Array) -> State:
        speed = self.max_speed * (jnp.clip(action[0], -1.0, 1.0) + 1.0) / 2.0
        data = state.data.replace(speed=speed)
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=speed / self.max_speed,
            signals={"cost": jnp.maximum(speed - data.limit, 0.0) / self.max_speed},
        )

    def _obs(self, data: CruiseData) -> jax.Array:
        return jnp.stack([data.speed, data.limit]) / self.max_speed
