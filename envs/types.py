"""The types every environment speaks: spaces, `State`, `Env`.

An environment is one instance: no batch axis and no hidden state. Batching is
`envs.vectorize`; learners never see an unbatched environment.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@dataclass(frozen=True)
class Box:
    """Real vectors of `shape` with `low <= x <= high` (scalars or nested tuples of that shape)."""

    shape: tuple[int, ...]
    low: Any = -np.inf
    high: Any = np.inf
    dtype: Any = np.float32

    @property
    def lows(self) -> np.ndarray:
        return self._bound(self.low)

    @property
    def highs(self) -> np.ndarray:
        return self._bound(self.high)

    def _bound(self, bound: Any) -> np.ndarray:
        """`bound` in the shape and dtype; an integer's infinity is the end of its range."""
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iub":
            ends = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            bound = np.clip(np.asarray(bound, np.float64), *ends)
        return np.broadcast_to(np.asarray(bound, dtype), self.shape)


@dataclass(frozen=True)
class Discrete:
    """Integers 0 .. n-1, as a scalar int32."""

    n: int

    shape = ()
    dtype = np.int32


@dataclass(frozen=True)
class MultiDiscrete:
    """Vectors of K integers, as int32 [K]: entry i is one of 0 .. nvec[i]-1."""

    nvec: tuple[int, ...]

    dtype = np.int32

    @property
    def shape(self) -> tuple[int]:
        return (len(self.nvec),)


Space = Box | Discrete | MultiDiscrete | dict[str, Box]
MEMBERS = ("reset", "step", "observation_space", "action_space")  # of `Env`
MAX_MAGNITUDE = 1e8  # of observations and rewards, see `is_sound`


@struct.dataclass
class State:
    """Everything one environment instance is at one time.

    `data` is the task's own state: enough to continue (and, for MJX tasks, only
    that: a few hundred bytes, not an `mjx.Data`). `info` holds what transforms
    carry, keyed by transform. Both are restored by a reset, so nothing leaks
    from one episode into the next.

    `signals` holds what a learner or a data set may need of a step beside its reward. It has
    the same names and shapes at every step, zeros after `reset`. Like the reward it belongs to
    the step just taken: an auto-reset keeps it, replay and data sets store it, n-step returns
    add it up, and reports give its sum over an episode as `signal_NAME`. Reserved names:

        executed    [A] the action that was carried out, in the environment's units. Replay and
                    data sets store it instead of the proposed one.
        teacher     [A] the action that a teacher would take, in the environment's units
        intervened  [] 1 where the action of the policy was overruled
        cost        [] what a constraint bounds
        objectives  [M] the rewards of M objectives
        force       [F] measured forces
        shaped      [] the part of the reward that only shapes
    """

    data: Any
    obs: Any  # array [obs] or dict of arrays
    reward: jax.Array  # [] float32; [A] of an environment with agents
    terminated: jax.Array  # [] bool: the MDP ended, its value is 0 from here
    truncated: jax.Array  # [] bool: the clock ended it, bootstrap from this obs
    metrics: dict[str, jax.Array]  # named scalars; `reward_*` are summed over an episode
    info: dict[str, Any]
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)

    def next(
        self,
        data: Any,
        obs: Any,
        reward: jax.Array,
        terminated: jax.Array | None = None,
        metrics: dict[str, jax.Array] | None = None,
        signals: dict[str, jax.Array] | None = None,
    ) -> State:
        """The state after a step of an environment that has no clock: `truncated` is False.

        Args:
          data, obs, reward: of the new state.
          terminated: whether the step ended the MDP, [] bool; None means that it never ends.
          metrics, signals: of the new state; None keeps those of this state.
        """
        no = jnp.zeros((), bool)
        return self.replace(
            data=data,
            obs=obs,
            reward=reward,
            terminated=no if terminated is None else terminated,
            truncated=no,
            metrics=self.metrics if metrics is None else metrics,
            signals=self.signals if signals is None else signals,
        )


@runtime_checkable
class Env(Protocol):
    """One environment instance: a frozen pytree whose numbers are leaves.

    What an environment may offer beside this is in `Goals`, `HasExpert`, `CarriesOver`, `Drawable` and
    `Agents`.
    `max_magnitude`, where it is an attribute, replaces `MAX_MAGNITUDE`.
    """

    def reset(self, key: jax.Array) -> State: ...

    def step(self, state: State, action: jax.Array) -> State: ...

    @property
    def observation_space(self) -> Space: ...

    @property
    def action_space(self) -> Box | Discrete | MultiDiscrete: ...


@runtime_checkable
class Goals(Protocol):
    """A goal-conditioned environment: `obs` is a dict with an entry "goal" [G].

    Hindsight replaces the goal of recorded steps, so all three broadcast over leading axes.
    """

    def achieved_goal(self, obs: dict[str, jax.Array]) -> jax.Array:
        """The goal that an observation [...] reached. [..., G]"""

    def goal_reward(self, achieved: jax.Array, goal: jax.Array) -> jax.Array:
        """The reward of a step that reached `achieved` where `goal` was asked for. [...]"""

    def goal_terminates(self, achieved: jax.Array, goal: jax.Array) -> jax.Array:
        """Whether that step terminates the episode. [...] bool"""


@runtime_checkable
class HasExpert(Protocol):
    """An environment with a scripted expert that acts on observations, in `num_modes` ways."""

    num_modes: int

    def expert(self, obs: Any, mode: jax.Array) -> jax.Array:
        """The expert's action in its way `mode` (0 .. num_modes - 1)."""


@runtime_checkable
class CarriesOver(Protocol):
    """An environment that hands something of an episode to the next one, such as a level.

    `envs.vectorize` calls it at every step and uses the result where an episode ended. The episodes of
    `jaxrl.episodes` start from `reset`, so nothing is handed to them.
    """

    def carry_over(self, ended: State, start: State) -> State:
        """The first state of the next episode of one instance.

        Args:
          ended: the state after the last step, with its metrics and flags.
          start: a state that `reset` returned.
        """


@runtime_checkable
class Drawable(Protocol):
    """An environment that draws itself; MJX tasks are drawn by MuJoCo instead."""

    def render(self, state: State, width: int, height: int) -> np.ndarray:
        """A picture of `state`. [height, width, 3] uint8"""


@runtime_checkable
class Sketched(Protocol):
    """An environment that draws itself in JAX, so that pictures are made under `vmap` and `jit`."""

    def draw(self, state: State, width: int, height: int) -> jax.Array:
        """A picture of `state`. [height, width, 3] uint8"""


@runtime_checkable
class Agents(Protocol):
    """An environment with A agents that act at the same time.

    `obs` is a dict: "obs" [A, ...], and where there are such "state" [s] (for critics), "mask"
    [A, n] bool (the actions that exist; of a MultiDiscrete n is the sum of `nvec`) and "alive" [A]
    bool. `observation_space` is of these whole arrays. `reward` is [A]; `terminated` and `truncated` stay scalars. `action_space` is of
    one agent; `step` takes actions [A, ...].
    """

    num_agents: int


def num_agents_of(env: Any) -> int | None:
    """The number of agents; None for an environment of one agent without an agent axis."""
    return getattr(env, "num_agents", None)


def check_single_agent(env: Any) -> None:
    """Raises ValueError for an environment with an agent axis."""
    agents = num_agents_of(env)
    if agents is not None:
        raise ValueError(f"num_agents={agents}: this acts for one agent without an agent axis")


def check_instance(env: Any, members: tuple[str, ...] = MEMBERS) -> None:
    """Raises ValueError unless `env` is one instance of an environment, with these members."""
    name = type(env).__name__
    if hasattr(env, "num_envs") and hasattr(env, "env"):
        raise ValueError(f"env: {name} is vectorised already, expected one instance")
    for member in members:
        if not hasattr(env, member):
            raise ValueError(f"env: {name} has no {member!r}, expected the members of envs.Env")


def team_reward(reward: jax.Array, batch_ndim: int) -> jax.Array:
    """The mean over agents of reward [*B, A]; a reward [*B] as it is. [*B]"""
    return reward if reward.ndim == batch_ndim else reward.mean(-1)


def typed_key(key: jax.Array) -> jax.Array:
    """`key` as `jax.random.key` makes them, where it is one of the older `jax.random.PRNGKey`."""
    if jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(jnp.asarray(key, jnp.uint32))


def is_sound(env: Any, state: State) -> jax.Array:
    """Whether the simulation of one instance did not break in the step to `state`. [] bool

    Every number is finite, and those of observation and reward are at most `env.max_magnitude`
    (by default `MAX_MAGNITUDE`): what an exploding simulation shows shortly before it is
    infinite would spoil every statistic.
    """
    bound = getattr(env, "max_magnitude", MAX_MAGNITUDE)
    floats = lambda tree: [
        x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    # A NaN is not at most anything.
    small = lambda x: (jnp.abs(x) <= min(bound, float(jnp.finfo(x.dtype).max))).all()
    shown = [small(x) for x in floats((state.obs, state.reward))]
    hidden = [jnp.isfinite(x).all() for x in floats((state.data, state.info, state.signals))]
    return jnp.stack([*shown, *hidden]).all()


ACTION_SIGNALS = ("executed", "teacher")  # these are actions, so they are never added up


def summed(signals: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The signals that add up over time, as float32: all but `ACTION_SIGNALS`."""
    return {k: x.astype(jnp.float32) for k, x in signals.items() if k not in ACTION_SIGNALS}


def first_state(
    data: Any,
    obs: Any,
    metrics: dict[str, jax.Array] | None = None,
    signals: dict[str, jax.Array] | None = None,
    num_agents: int | None = None,
) -> State:
    """The state a `reset` returns: no reward, not ended, no transform has run yet.

    `signals`: zeros of what `step` returns, for an environment that has signals. `num_agents`: of
    an environment with an agent axis.
    """
    return State(
        data=data,
        obs=obs,
        reward=jnp.zeros(() if num_agents is None else num_agents, jnp.float32),
        terminated=jnp.zeros((), bool),
        truncated=jnp.zeros((), bool),
        metrics=metrics or {},
        info={},
        signals=signals or {},
    )


def check_range(task: Any, low: float, high: float, *names: str, above: bool = False) -> None:
    """Raises ValueError unless the named numbers of `task` are in [low, high], or (low, high] if
    `above`. Arrays, as `randomise` sets, are not looked at."""
    for name in names:
        value = getattr(task, name)
        if not isinstance(value, (int, float)):
            continue
        if not low <= value <= high or (above and value == low):
            allowed = f"above {low:g} and at most {high:g}" if above else f"{low:g} .. {high:g}"
            raise ValueError(f"{name}={value}: must be {allowed}")


def acting_key(env: Env, key: jax.Array) -> jax.Array:
    """The key of the policy that acts in the episode which `env.reset(key)` begins.

    A policy frozen inside (`transforms.residual`) draws with it what it would draw if it acted
    itself; the policy around it has another.
    """
    return jax.random.fold_in(key, zlib.crc32(f"policy {getattr(env, 'policies', 0)}".encode()))


def sample_space(space: Box | Discrete | MultiDiscrete, key: jax.Array) -> jax.Array:
    """One uniform action; unbounded directions are drawn from a standard normal."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n, jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jax.random.randint(key, space.shape, 0, jnp.asarray(space.nvec), jnp.int32)
    bounded = np.isfinite(space.lows) & np.isfinite(space.highs)
    low, high = np.where(bounded, space.lows, -1.0), np.where(bounded, space.highs, 1.0)
    uniform = jax.random.uniform(key, space.shape, minval=low, maxval=high)
    return jnp.where(bounded, uniform, jax.random.normal(key, space.shape))


def sample_actions(env: Env, key: jax.Array) -> jax.Array:
    """Uniform actions for `env.step`: one, or [A, ...] of an environment with agents."""
    agents = num_agents_of(env)
    if agents is None:
        return sample_space(env.action_space, key)
    keys = jax.random.split(key, agents)
    return jax.vmap(lambda k: sample_space(env.action_space, k))(keys)
