"""Data sets: recorded episodes as one long column of transitions, on the host until used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import ACTION_SIGNALS, Box, Env
from jaxrl.data.replay import Trajectories
from jaxrl.nn import spaces as acting
from jaxrl.ops.moments import Moments
from jaxrl.types import Transition

REAL = "biuf"  # the kinds of dtypes that are real numbers


@dataclass(frozen=True)
class Dataset:
    """Episodes one after another: the replay's layout with a single column.

    Every episode ends by `terminated` or `truncated`. Actions are in the environment's
    units; corrections of a base policy may lie outside its bounds. Arrays are NumPy and are
    not to be written to.
    """

    steps: Transition  # [T, 1, ...]
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # [T] the task's metrics
    metadata: dict[str, Any] = field(default_factory=dict)  # plain JSON values
    trajectories: Trajectories | None = None  # how likely each episode is drawn; None: uniform
    bounded: bool = True  # actions are within the bounds

    def __len__(self) -> int:
        return self.steps.reward.shape[0]

    @property
    def ends(self) -> np.ndarray:
        """The row of every episode's last step. [E]"""
        return np.flatnonzero((self.steps.terminated | self.steps.truncated)[:, 0])

    @property
    def starts(self) -> np.ndarray:
        """The row of every episode's first step. [E]"""
        return np.concatenate([[0], self.ends[:-1] + 1]).astype(int)

    @property
    def lengths(self) -> np.ndarray:
        return self.ends - self.starts + 1

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of every episode. [E]"""
        return np.add.reduceat(self.steps.reward[:, 0].astype(np.float64), self.starts)

    @property
    def success(self) -> np.ndarray:
        """Whether any step of an episode succeeded, as the task's metric `success` says. [E] bool

        Raises:
          ValueError: the task does not measure it.
        """
        if "success" not in self.extras:
            raise ValueError("data: the task measures no success")
        return np.maximum.reduceat(self.extras["success"], self.starts) > 0

    def steps_for(self, env: Env) -> Transition:
        """The steps with actions in [-1, 1], as learners on `env` want them.

        Raises:
          ValueError: observations or actions do not fit the spaces of `env`.
        """
        space = env.action_space
        if not isinstance(space, Box):
            raise ValueError(f"action_space={space}: data sets are for continuous actions")
        action = self.steps.action
        if action.shape[2:] != space.shape:
            raise ValueError(f"data: actions have shape {action.shape[2:]}, not {space.shape}")
        outside = (action < space.lows - 1e-3) | (action > space.highs + 1e-3)
        if self.bounded and outside.any():
            row, _, *entry = np.argwhere(outside)[0].tolist()
            x, low, high = (a[tuple(entry)] for a in (action[row, 0], space.lows, space.highs))
            raise ValueError(f"data: actions[{row}]{entry}={x:g} is outside {low:g} .. {high:g}")
        wanted = env.observation_space
        have = jax.tree.map(lambda x: x.shape[2:], self.steps.obs)
        want = jax.tree.map(lambda b: b.shape, wanted, is_leaf=lambda b: isinstance(b, Box))
        if have != want:
            raise ValueError(f"data: observations have shape {have}, the environment's {want}")
        from_env = acting.from_env(space)

        def scaled(x):
            x = from_env(x)
            return (np.clip(x, -1.0, 1.0) if self.bounded else x).astype(np.float32)

        signals = self.steps.signals
        return self.steps.replace(
            action=scaled(action),
            signals={k: scaled(x) if k in ACTION_SIGNALS else x for k, x in signals.items()},
        )

    def source_for(self, env: Env) -> tuple[Transition, Trajectories | None]:
        """What `replay.draw_recorded` reads; raises as `steps_for` does."""
        return self.steps_for(env), self.trajectories

    def obs_moments(self) -> Moments:
        """Mean and variance of the observations."""
        mean = jax.tree.map(lambda x: x[:, 0].mean(0, dtype=np.float64), self.steps.obs)
        var = jax.tree.map(lambda x: x[:, 0].var(0, dtype=np.float64), self.steps.obs)
        single = lambda tree: jax.tree.map(np.float32, tree)
        return Moments(np.float32(len(self)), single(mean), single(var))

    def take(self, episodes: np.ndarray) -> Dataset:
        """A data set of the episodes with these numbers, in this order.

        Raises:
          ValueError: no numbers.
        """
        if not np.size(episodes):
            raise ValueError("data: no episodes to take")
        rows = [np.arange(self.starts[e], self.ends[e] + 1) for e in np.atleast_1d(episodes)]
        rows = np.concatenate(rows)
        return Dataset(
            jax.tree.map(lambda x: x[rows], self.steps),
            {k: v[rows] for k, v in self.extras.items()},
            self.metadata,
            bounded=self.bounded,
        )

    def successful(self) -> Dataset:
        """The episodes that ever succeeded, as the task's metric `success` says.

        Raises:
          ValueError: the task does not measure it, or none did.
        """
        ever = self.success
        if not ever.any():
            raise ValueError(f"data: success rate 0 in {len(ever)} episodes")
        return self.take(np.flatnonzero(ever))

    def weighted(self, temperature: float = 0.1, baseline: np.ndarray | None = None) -> Dataset:
        """Draws good episodes more often (Hong et al. 2023, "Harnessing mixed offline data").

        The probability of a step is proportional to exp(score / temperature), the score of
        its episode being its return scaled to 0 .. 1 over the data set (return weighting),
        or its return minus `baseline` [E], such as a value of its start (advantage weighting).
        Do it last: the weights are of these episodes, and `take` and the like leave them out.

        Raises:
          ValueError: a temperature that is not positive, a baseline that is not [E] finite numbers.
        """
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be above 0")
        score = self.returns
        if baseline is not None:
            if why := fault(baseline, len(score), flat=True):
                raise ValueError(f"baseline {why}")
            score = score - np.asarray(baseline)
        score = (score - score.min()) / max(np.ptp(score), 1e-12)
        mass = np.exp((score - 1.0) / temperature) * self.lengths
        cdf = np.cumsum(mass / mass.sum())
        index = lambda x: jnp.asarray(x, jnp.int32)
        table = Trajectories(index(self.starts), index(self.lengths), jnp.asarray(cdf, jnp.float32))
        return dataclasses.replace(self, trajectories=table)


def concatenate(*datasets: Dataset) -> Dataset:
    """All episodes of several data sets of one environment, with what all of them recorded."""
    join = lambda *x: np.concatenate(x)
    shared = set.intersection(*(set(d.extras) for d in datasets))
    common = sorted(set.intersection(*(set(d.steps.signals) for d in datasets)))
    with_common = lambda steps: steps.replace(signals={k: steps.signals[k] for k in common})
    return Dataset(
        jax.tree.map(join, *(with_common(d.steps) for d in datasets)),
        {k: join(*(d.extras[k] for d in datasets)) for k in sorted(shared)},
        datasets[0].metadata,
        bounded=all(d.bounded for d in datasets),
    )


def from_arrays(
    obs: Any,
    action: np.ndarray,
    reward: np.ndarray,
    next_obs: Any,
    terminated: np.ndarray,
    truncated: np.ndarray,
    extras: dict[str, np.ndarray] | None = None,
    metadata: dict[str, Any] | None = None,
    signals: dict[str, np.ndarray] | None = None,
) -> Dataset:
    """A data set from flat arrays [T, ...]; the last step ends an episode in any case.

    `signals`: [T] or [T, ...] by name, see `envs.types.State`.

    Raises:
      ValueError: no steps, an array that does not fit the others or is not finite (of `extras`
        only the shape is asked): which one, and where.
    """
    rows = np.size(terminated)
    if rows == 0:
        raise ValueError("data: no steps")
    arrays = {"obs": obs, "action": action, "next_obs": next_obs, "signals": signals or {}}
    flat = {"reward": reward, "terminated": terminated, "truncated": truncated}
    for path, x in jax.tree_util.tree_leaves_with_path(arrays | flat):
        if why := fault(x, rows, path[0].key in flat):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"data: array {name!r} {why}")
    shapes = [jax.tree.map(lambda x: np.shape(x)[1:], tree) for tree in (obs, next_obs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"data: obs have shape {shapes[0]}, next_obs {shapes[1]}")
    for name, x in (extras or {}).items():
        if np.shape(x) != (rows,):
            raise ValueError(f"data: array 'extras/{name}' has shape {np.shape(x)}, not ({rows},)")
    terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
    truncated &= ~terminated
    truncated[-1] |= ~terminated[-1]
    column = lambda tree: jax.tree.map(lambda x: np.asarray(x)[:, None], tree)
    steps = Transition(
        column(_single(obs)),
        column(_single(action)),
        column(_single(reward)),
        column(_single(next_obs)),
        column(terminated),
        column(truncated),
        np.ones((len(terminated), 1), bool),
        column(_single(signals or {})),
    )
    return Dataset(steps, extras or {}, metadata or {})


def fault(x: Any, rows: int, flat: bool) -> str | None:
    """What is wrong with an array that is to be [rows, ...] finite numbers, [rows] where `flat`."""
    x = np.asarray(x)
    if flat and x.ndim > 1 and len(x) == rows:
        return f"has shape {x.shape}, allowed is ({rows},)"
    if x.ndim == 0 or len(x) != rows:
        return f"has shape {x.shape}, but there are {rows} rows"
    if x.dtype.kind not in REAL:
        return f"holds {x.dtype}, not numbers"
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite to us
        bad = ~np.isfinite(x.reshape(rows, -1).astype(np.float32)).all(1)
    return f"row {int(bad.argmax())} is not finite" if bad.any() else None


def _single(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
