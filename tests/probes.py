"""MDPs of a few steps whose values are known in closed form.

Each isolates one thing an algorithm must get right: if it fails where values depend on
the observation, look at the network; where they are two steps ahead, at the discount;
and so on. Everything that tells them apart is a number, so all share one program:
give the environment to `jit` as an argument.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.tasks.classic.point_maze import PointMaze
from envs.transforms import pixels, time_limit
from envs.types import Box, Discrete, State, first_state

CLOCK = 6  # entries of the one-hot clock


@struct.dataclass
class ProbeData:
    cue: jax.Array  # [] -1 or 1, drawn by the reset
    t: jax.Array  # [] float: steps of this episode
    nothing: jax.Array  # [0] such leaves, as Brax's states have some, must travel too


@struct.dataclass
class Probe:
    """Episodes of `length` steps with a cue of -1 or 1 that an agent may see.

    obs [1 + CLOCK]: the cue and the one-hot clock, each 0 where it is not seen; with
    `split` {"cue": [1], "clock": [CLOCK]}. Actions are Box [-bound, bound] of one entry or, if
    `discrete`, 0 and 1, which count as -1 and 1.
    """

    length: float = 1.0
    truncates: bool = False  # what ends the episode
    sees_cue: float = 0.0
    sees_cue_at_first: float = 0.0  # only in the first observation of an episode
    sees_clock: float = 0.0
    pays: float = 0.0  # at every step
    pays_cue: float = 0.0  # at every step, times the cue
    pays_last: float = 0.0  # at the last step
    pays_goal: float = 0.0  # at the last step, times -(action - goal - goal_cue * cue)^2
    goal: float = 0.0
    goal_cue: float = 0.0
    plant: float = 0.0  # added to the observation where cue = 1 and t = plant_at
    plant_at: float = -1.0
    bound: float = struct.field(pytree_node=False, default=1.0)  # of the action; inf: none
    discrete: bool = struct.field(pytree_node=False, default=False)
    split: bool = struct.field(pytree_node=False, default=False)
    # Gives |action| as `cost`, and half the action as the `executed` one, which is what acts.
    signals: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self):
        split = {"cue": Box((1,)), "clock": Box((CLOCK,))}
        return split if self.split else Box((1 + CLOCK,))

    @property
    def action_space(self):
        return Discrete(2) if self.discrete else Box((1,), -self.bound, self.bound)

    def reset(self, key: jax.Array) -> State:
        cue = jax.random.rademacher(key, (), jnp.float32)
        data = ProbeData(cue, jnp.zeros(()), jnp.zeros(0))
        metrics = {"reward_paid": jnp.zeros(()), "cue": data.cue}
        signals = {"cost": jnp.zeros(()), "executed": jnp.zeros(1)} if self.signals else {}
        return first_state(data, self._obs(data), metrics, signals)

    def step(self, state: State, action: jax.Array) -> State:
        cue, t = state.data.cue, state.data.t
        action = 2.0 * action - 1.0 if self.discrete else action[0]
        action = 0.5 * action if self.signals else action
        signals = {"cost": jnp.abs(action), "executed": action[None]} if self.signals else {}
        last = t + 1 >= self.length
        miss = (action - self.goal - self.goal_cue * cue) ** 2
        reward = self.pays + self.pays_cue * cue
        reward += jnp.where(last, self.pays_last - self.pays_goal * miss, 0.0)
        data = state.data.replace(t=t + 1)
        return state.replace(
            data=data,
            obs=self._obs(data),
            reward=reward,
            terminated=last & jnp.logical_not(self.truncates),
            truncated=last & self.truncates,
            metrics={"reward_paid": reward, "cue": cue},
            signals=signals,
        )

    def _obs(self, data: ProbeData) -> Any:
        cue = data.cue * (self.sees_cue + self.sees_cue_at_first * (data.t == 0))
        cue += jnp.where((data.cue > 0) & (data.t == self.plant_at), self.plant, 0.0)
        clock = self.sees_clock * jax.nn.one_hot(data.t, CLOCK)
        return {"cue": cue[None], "clock": clock} if self.split else jnp.append(cue, clock)


@struct.dataclass
class Lamp(Probe):
    """A probe that draws its cue: a bright picture for 1, a dark one for -1."""

    def draw(self, state: State, width: int, height: int) -> jax.Array:
        bright = jnp.where(state.data.cue > 0, 200, 40).astype(jnp.uint8)
        return jnp.broadcast_to(bright, (height, width, 3))


@struct.dataclass
class PairData:
    cue: jax.Array  # [2] -1 or 1, drawn by the reset
    t: jax.Array  # [] float


@struct.dataclass
class Pair:
    """Two agents choose 0 or 1 for `length` steps; an agent may see its own cue of -1 or 1.

    Agent i gets `pays_own` where its action, as -1 or 1, is its cue, and each gets `pays_team`
    where both actions are the same. A step of the best policies is worth `pays_own + pays_team / 2`
    to each agent on average (the cues are the same half of the time) where
    `pays_team` < `pays_own`, and a step of uniform ones half of `pays_own + pays_team`.
    """

    length: float = 1.0
    pays_own: float = 1.0
    pays_team: float = 0.0
    num_agents: int = struct.field(pytree_node=False, default=2)

    @property
    def observation_space(self):
        return {
            "obs": Box((2, 1)),
            "state": Box((2,)),
            "mask": Box((2, 2), dtype=np.bool_),
            "alive": Box((2,), dtype=np.bool_),
        }

    @property
    def action_space(self):
        return Discrete(2)

    def reset(self, key: jax.Array) -> State:
        data = PairData(jax.random.rademacher(key, (2,), jnp.float32), jnp.zeros(()))
        return first_state(data, self._obs(data), num_agents=2)

    def step(self, state: State, action: jax.Array) -> State:
        data = state.data.replace(t=state.data.t + 1)
        sign = 2.0 * action - 1.0
        same = (action[0] == action[1]).astype(jnp.float32)
        return state.next(
            data=data,
            obs=self._obs(data),
            reward=self.pays_own * (sign == data.cue) + self.pays_team * same,
            terminated=data.t >= self.length,
        )

    def _obs(self, data: PairData) -> dict[str, jax.Array]:
        everyone = jnp.ones(2, bool)
        mask = jnp.ones((2, 2), bool)
        return {"obs": data.cue[:, None], "state": data.cue, "mask": mask, "alive": everyone}


# --- Comparing ---


def plain(x: Any) -> np.ndarray:
    """Typed keys by their data."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def assert_same(a: Any, b: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """The same structure and the same numbers, bit for bit unless a tolerance is given."""
    leaves_a, tree_a = jax.tree_util.tree_flatten_with_path(a)
    leaves_b, tree_b = jax.tree_util.tree_flatten_with_path(b)
    assert tree_a == tree_b
    for (path, x), (_, y) in zip(leaves_a, leaves_b, strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(plain(x), plain(y), rtol=rtol, atol=atol, err_msg=name)


def differ(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any((plain(x) != plain(y)).any() for x, y in pairs)


CONTINUOUS = Probe(length=5.0, truncates=True, pays_cue=1.0, pays_goal=1.0, sees_cue=1.0)
DISCRETE = CONTINUOUS.replace(discrete=True)
COSTLY = CONTINUOUS.replace(signals=True)
GOALS = time_limit(PointMaze(layout="open"), 5)
AGENTS = Pair(length=5.0)
PICTURES = pixels(Lamp(length=5.0, truncates=True, pays_goal=1.0, goal_cue=0.5), 4)
# For the learners of the registry that need more than `CONTINUOUS`.
ENVS = {
    "discrete_sac": DISCRETE,
    "dqn": DISCRETE,
    "drq": PICTURES,
    "her": GOALS,
    "ippo": AGENTS,
    "ppo_lagrangian": COSTLY,
}


def env_of(learner: str) -> Any:
    """A small environment that suits the learner with this name."""
    return ENVS.get(learner, CONTINUOUS)
