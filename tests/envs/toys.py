"""Tiny environments in plain JAX whose every number a test can predict."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.types import Box, Discrete, State, first_state


@struct.dataclass
class LineData:
    x: jax.Array  # []
    t: jax.Array  # [] float: steps of this episode
    goal: jax.Array  # []


@struct.dataclass
class Line:
    """A point on a line moves by `gain * action`, is paid where it is, ends beyond `edge`.

    obs [2]: x and the number of steps; with `goals` {"obs": [2], "goal": [1]}. A NaN
    action makes the physics NaN.
    """

    gain: float = 1.0
    edge: float = 3.0
    goals: bool = struct.field(pytree_node=False, default=False)
    discrete: bool = struct.field(pytree_node=False, default=False)
    signals: bool = struct.field(
        pytree_node=False, default=False
    )  # gives cost, objectives, executed

    @property
    def observation_space(self):
        obs = Box((2,), (-10.0, 0.0), (10.0, 100.0))
        return {"obs": obs, "goal": Box((1,), -1.0, 1.0)} if self.goals else obs

    @property
    def action_space(self):
        return Discrete(3) if self.discrete else Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        x, goal = jax.random.uniform(key, (2,), minval=-1.0)
        data = LineData(x, jnp.zeros(()), goal)
        metrics = {"reward_x": jnp.zeros(()), "x": x}
        signals = jax.tree.map(jnp.zeros_like, self._signals(data, jnp.zeros(1)))
        return first_state(data, self._obs(data), metrics, signals)

    def step(self, state: State, action: jax.Array) -> State:
        move = action - 1.0 if self.discrete else action[0]
        x = state.data.x + self.gain * move
        data = state.data.replace(x=x, t=state.data.t + 1.0)
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=x,
            terminated=jnp.abs(x) > self.edge,
            metrics={"reward_x": x, "x": x},
            signals=self._signals(data, jnp.asarray(action)),
        )

    def _signals(self, data: LineData, action: jax.Array) -> dict[str, jax.Array]:
        if not self.signals:
            return {}
        executed = jnp.clip(action, -0.5, 0.5)
        return {"cost": data.x**2, "objectives": jnp.stack([data.x, data.t]), "executed": executed}

    def _obs(self, data: LineData) -> Any:
        obs = jnp.stack([data.x, data.t])
        return {"obs": obs, "goal": data.goal[None]} if self.goals else obs


def rollout(vec, key: jax.Array, actions: jax.Array):
    """Every `VecState` of a run, the first one included: leaves [T + 1, N, ...].

    actions: [T, N, ...].
    """

    return _rollout(vec, key, actions)


@jax.jit
def _rollout(vec, key, actions):
    first = vec.reset(key)
    step = lambda state, action: (vec.step(state, action),) * 2
    _, rest = jax.lax.scan(step, first, actions)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def random_actions(steps: int, num_envs: int, size: int = 1, seed: int = 0) -> np.ndarray:
    """[T, N, size] in [-1, 1]; environment i's do not depend on `num_envs`."""
    draws = [
        np.random.default_rng([seed, i]).uniform(-1, 1, (steps, size)) for i in range(num_envs)
    ]
    return np.stack(draws, axis=1).astype(np.float32)


def assert_trees_equal(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """The same structure and the same numbers; typed keys by their data."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(plain(x), plain(y), rtol=rtol, atol=atol)


def plain(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)
