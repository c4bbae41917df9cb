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
        return np.broadcast_to(np.asarray(self.low, self.dtype), self.shape)

    @property
    def highs(self) -> np.ndarray:
        return np.broadcast_to(np.asarray(self.high, self.dtype), self.shape)


@dataclass(frozen=True)
class Discrete:
    """Integers 0 .. n-1, as a scalar int32."""

    n: int

    shape = ()
    dtype = np.int32


Space = Box | Discrete | dict[str, Box]


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
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool: the MDP ended, its value is 0 from here
    truncated: jax.Array  # [] bool: the clock ended it, bootstrap from this obs
    metrics: dict[str, jax.Array]  # named scalars; `reward_*` are summed over an episode
    info: dict[str, Any]
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)


@runtime_checkable
class Env(Protocol):
    """One environment instance: a frozen pytree whose numbers are leaves."""

    def reset(self, key: jax.Array) -> State: ...

    def step(self, state: State, action: jax.Array) -> State: ...

    @property
    def observation_space(self) -> Space: ...

    @property
    def action_space(self) -> Box | Discrete: ...


ACTION_SIGNALS = ("executed", "teacher")  # these are actions, so they are never added up


def summed(signals: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The signals that add up over time, as float32: all but `ACTION_SIGNALS`."""
    return {k: x.astype(jnp.float32) for k, x in signals.items() if k not in ACTION_SIGNALS}


def first_state(
    data: Any,
    obs: Any,
    metrics: dict[str, jax.Array] | None = None,
    signals: dict[str, jax.Array] | None = None,
) -> State:
    """The state a `reset` returns: no reward, not ended, no transform has run yet.

    `signals`: zeros of what `step` returns, for an environment that has signals.
    """
    return State(
        data=data,
        obs=obs,
        reward=jnp.zeros((), jnp.float32),
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


def sample_space(space: Box | Discrete, key: jax.Array) -> jax.Array:
    """One uniform action; unbounded directions are drawn from a standard normal."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n, jnp.int32)
    bounded = np.isfinite(space.lows) & np.isfinite(space.highs)
    low, high = np.where(bounded, space.lows, -1.0), np.where(bounded, space.highs, 1.0)
    uniform = jax.random.uniform(key, space.shape, minval=low, maxval=high)
    return jnp.where(bounded, uniform, jax.random.normal(key, space.shape))
