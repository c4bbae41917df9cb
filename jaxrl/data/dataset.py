"""Data sets: recorded episodes as one long column of transitions, on the host until used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import ACTION_SIGNALS, Box, Discrete, Env, MultiDiscrete
from jaxrl.config import Real
from jaxrl.data.replay import Trajectories
from jaxrl.nn import spaces as acting
from jaxrl.ops.moments import Moments, is_image
from jaxrl.types import Transition

REAL = "biuf"  # the kinds of dtypes that are real numbers
TOLERANCE = 1e-3  # share of an action's range by which a recorded action may exceed its bounds
MAX_ENTRIES = 256  # entries of an observation that summaries use at most


@dataclass(frozen=True)
class Dataset:
    """Episodes one after another: the replay's layout with a single column.

    Every episode ends by `terminated` or `truncated`. Actions are in the environment's units.
    Corrections of a base policy may exceed the bounds. `steps.valid` is False where the next
    observation was not recorded. There `steps.next_obs` repeats the observation: cloning uses the
    step, learners that bootstrap skip it. Arrays are NumPy and must not be written to.
    """

    steps: Transition  # [T, 1, ...]
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # [T] the task's metrics
    metadata: dict[str, Any] = field(default_factory=dict)  # plain JSON values
    trajectories: Trajectories | None = None  # the probability of each episode; None: uniform
    bounded: bool = True  # actions are within the bounds
    name: str = "data"  # the file that it was read from, for messages

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
        """Whether the task's metric `success` is 1 at any step of an episode. [E] bool

        Raises:
          ValueError: the task does not measure it.
        """
        if "success" not in self.extras:
            raise ValueError(f"{self.name}: the task measures no success")
        return np.maximum.reduceat(self.extras["success"], self.starts) > 0

    def steps_for(self, env: Env) -> Transition:
        """Returns the steps with actions in [-1, 1], for learners on `env`.

        Raises:
          ValueError: observations or actions do not fit the spaces of `env`.
        """
        space = env.action_space
        if not isinstance(space, Box | Discrete | MultiDiscrete):
            raise ValueError(f"action_space={space}: must be a Box, Discrete or MultiDiscrete")
        action, of = self.steps.action, self._recorded_in()
        if action.shape[2:] != space.shape:
            raise ValueError(
                f"{self.name}: actions have shape {action.shape[2:]}{of}, not {space.shape}"
            )
        if not isinstance(space, Box):
            self._check_integers(space)
        elif self.bounded:
            self._check_bounds(space)
        self._check_lengths(getattr(env, "limit", None))
        wanted = env.observation_space
        have = jax.tree.map(lambda x: x.shape[2:], self.steps.obs)
        want = jax.tree.map(lambda b: b.shape, wanted, is_leaf=lambda b: isinstance(b, Box))
        if have != want:
            raise ValueError(
                f"{self.name}: observations have shape {have}{of}, the environment's {want}"
            )

        def scaled(x):
            if not isinstance(space, Box):
                return x.astype(np.int32)
            x = acting.from_env(space)(x)
            return (np.clip(x, -1.0, 1.0) if self.bounded else x).astype(np.float32)

        signals = self.steps.signals
        return self.steps.replace(
            action=scaled(action),
            signals={k: scaled(x) if k in ACTION_SIGNALS else x for k, x in signals.items()},
        )

    def _recorded_in(self) -> str:
        """The environment that the metadata name, for a message."""
        return f" (metadata: env={self.metadata['env']!r})" if "env" in self.metadata else ""

    def _check_lengths(self, limit: int | None) -> None:
        """Prints which episode is longer than the environment's time limit."""
        lengths = self.lengths
        if limit is None or lengths.max() <= limit:
            return
        i = int(lengths.argmax())
        print(
            f"{self.name}: episode {i} (rows {self.starts[i]} .. {self.ends[i]}) has {lengths[i]}"
            f" steps, the environment's limit is {limit}: ends without a flag? cut_at={limit} cuts"
            " there"
        )

    def _check_bounds(self, space: Box) -> None:
        """Raises if an action exceeds its bounds by more than `TOLERANCE` of their range.

        Prints how many exceed them by less. `steps_for` clips those.
        """
        action, low, high = self.steps.action, space.lows, space.highs
        beyond = np.maximum(low - action, action - high)
        size = np.where(np.isfinite(high - low), high - low, 1.0)
        rounding = 1e-6 * np.maximum(size, np.minimum(np.abs(low), np.abs(high)))
        outside = beyond > TOLERANCE * size + rounding
        if outside.any():
            row, _, *entry = np.argwhere(outside)[0].tolist()
            x, least, most = (a[tuple(entry)] for a in (action[row, 0], low, high))
            raise ValueError(
                f"{self.name}: actions[{row}]{entry}={x:g} is outside {least:g} .. {most:g}"
            )
        clipped = (beyond > rounding).reshape(len(self), -1).any(1)
        if clipped.any():
            print(
                f"{self.name}: actions of {clipped.sum()} of {len(self)} steps are up to"
                f" {beyond.max():.2g} beyond their bounds, and are clipped"
            )

    def _check_integers(self, space: Discrete | MultiDiscrete) -> None:
        """Raises if an action, or an entry of one, is not one of 0 .. n - 1."""
        action = self.steps.action[:, 0]
        several = isinstance(space, MultiDiscrete)
        most = np.broadcast_to(space.nvec if several else space.n, action.shape) - 1
        wrong = (action < 0) | (action > most) | (action != np.floor(action))
        if wrong.any():
            row, *entry = at = tuple(np.argwhere(wrong)[0].tolist())
            raise ValueError(
                f"{self.name}: actions[{row}]{entry or ''}={action[at]:g} must be a whole number,"
                f" 0 .. {most[at]}"
            )

    def source_for(self, env: Env) -> tuple[Transition, Trajectories | None]:
        """Returns what `replay.draw_recorded` reads.

        Raises:
          ValueError: see `steps_for`; or no step has a next observation.
        """
        valid, reward = self.steps.valid, self.steps.reward
        if not valid.any():
            raise ValueError(
                f"{self.name}: no step has a next observation, only cloning learns from it"
            )
        if reward.any() and not reward[valid].any():
            print(
                f"{self.name}: all reward is at steps without a next observation, which are left"
                " out here; flag them as terminals if the task ends there"
            )
        return self.steps_for(env), self.trajectories

    def for_cloning(self) -> Dataset:
        """Returns the same data with every step valid, for learners that use no next observation."""
        steps = self.steps.replace(valid=np.ones_like(self.steps.valid))
        return dataclasses.replace(self, steps=steps)

    def obs_moments(self) -> Moments:
        """Mean and variance of the observations. Images are not measured, see `Moments`."""
        measured = lambda x: np.zeros((len(x), 0)) if is_image(x, 2) else x[:, 0]
        seen = jax.tree.map(measured, self.steps.obs)
        mean = jax.tree.map(lambda x: x.mean(0, dtype=np.float64), seen)
        var = jax.tree.map(lambda x: x.var(0, dtype=np.float64), seen)
        single = lambda tree: jax.tree.map(np.float32, tree)
        return Moments(np.float32(len(self)), single(mean), single(var))

    def take(self, episodes: np.ndarray) -> Dataset:
        """Returns a data set of some episodes.

        Args:
          episodes: their numbers, in the order wanted, or a mask [E] of bool.

        Raises:
          ValueError: no episode is chosen, one does not exist, or the mask is not [E].
        """
        count = len(self.ends)
        try:
            chosen = np.atleast_1d(np.asarray(episodes))
        except ValueError:  # lists of several lengths
            chosen = np.array([None])
        if chosen.ndim != 1 or not (chosen.dtype.kind in "biu" or not chosen.size):
            raise ValueError(f"{self.name}: episodes={episodes!r}: must be numbers or a mask")
        if chosen.dtype == bool:
            if chosen.shape != (count,):
                raise ValueError(
                    f"{self.name}: a mask of shape {chosen.shape} for {count} episodes"
                )
            chosen = np.flatnonzero(chosen)
        if not chosen.size:
            raise ValueError(f"{self.name}: no episodes to take")
        wrong = (chosen < 0) | (chosen >= count)
        if wrong.any():
            raise ValueError(f"{self.name}: episode {chosen[wrong][0]}: there are 0 .. {count - 1}")
        rows = np.concatenate([np.arange(self.starts[e], self.ends[e] + 1) for e in chosen])
        return dataclasses.replace(
            self,
            steps=jax.tree.map(lambda x: x[rows], self.steps),
            extras={k: v[rows] for k, v in self.extras.items()},
            trajectories=None,
        )

    def successful(self) -> Dataset:
        """Returns the episodes in which any step succeeded, by the task's metric `success`.

        Raises:
          ValueError: the task does not measure success, or no episode succeeded.
        """
        ever = self.success
        if not ever.any():
            raise ValueError(f"{self.name}: success rate 0 in {len(ever)} episodes")
        return self.take(np.flatnonzero(ever))

    def weighted(self, temperature: float = 0.1, baseline: np.ndarray | None = None) -> Dataset:
        """Returns data that draw good episodes more often.

        Source: Hong et al. 2023, "Harnessing mixed offline data".

        The probability of a step is proportional to exp(score / temperature). The score of an
        episode is its return scaled to 0 .. 1 over the data set (return weighting). With
        `baseline` [E], such as the value of its start, the score is the return minus the baseline
        (advantage weighting). Call this last: `take` and `concatenate` drop the weights.

        Raises:
          ValueError: a temperature that is not positive, a baseline that is not [E] finite numbers.
        """
        Real(0.0, above=True).check("temperature", temperature)
        if np.ndim(temperature):
            raise ValueError(f"temperature={temperature}: must be one number")
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
    """Returns all episodes of several data sets of one environment.

    Keeps metrics and signals that all of them recorded, and metadata without a contradiction.
    Drops weights, like `take`.

    Raises:
      ValueError: no data sets, of different environments, or of different shapes.
    """
    if not datasets:
        raise ValueError("concatenate: no data sets")
    shape = lambda d: jax.tree.map(lambda x: x.shape[2:], (d.steps.obs, d.steps.action))
    for key in ("env", "env_overrides"):
        naming = [d for d in datasets if key in d.metadata]
        for each in naming:
            if each.metadata[key] != naming[0].metadata[key]:
                raise ValueError(
                    f"concatenate: {each.name} has {key}={each.metadata[key]!r}, others have"
                    f" {naming[0].metadata[key]!r}"
                )
    for each in datasets:
        if shape(each) != shape(datasets[0]):
            raise ValueError(
                f"concatenate: {each.name} has observations and actions of shape {shape(each)},"
                f" others {shape(datasets[0])}"
            )
    join = lambda *x: np.concatenate(x)
    shared = set.intersection(*(set(d.extras) for d in datasets))
    common = sorted(set.intersection(*(set(d.steps.signals) for d in datasets)))
    with_common = lambda steps: steps.replace(signals={k: steps.signals[k] for k in common})
    every = {k: v for d in datasets for k, v in d.metadata.items()}
    agreed = lambda k: all(d.metadata.get(k, every[k]) == every[k] for d in datasets)
    return Dataset(
        jax.tree.map(join, *(with_common(d.steps) for d in datasets)),
        {k: join(*(d.extras[k] for d in datasets)) for k in sorted(shared)},
        {k: v for k, v in every.items() if agreed(k)},
        bounded=all(d.bounded for d in datasets),
        name=datasets[0].name if len(datasets) == 1 else "data",
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
    valid: np.ndarray | None = None,
    name: str = "data",
) -> Dataset:
    """Returns a data set made of flat arrays [T, ...]. The last step always ends an episode.

    Args:
      obs, next_obs: arrays or dicts of arrays. Bytes [T, H, W, ...] are images and stay uint8.
      action: [T, A] in the environment's units.
      reward, terminated, truncated: [T].
      extras: the task's metrics, [T] each.
      metadata: plain JSON values.
      signals: [T] or [T, ...] by name, see `envs.types.State`.
      valid: [T] False where `next_obs` is not known. Default: known everywhere.
      name: of the data set, for messages.

    Raises:
      ValueError: there are no steps, or an array does not fit the others or is not finite. The
        message names the array and the row. Of `extras` only shapes are checked.
    """
    rows = np.size(terminated)
    if rows == 0:
        raise ValueError(f"{name}: no steps")
    arrays = {"obs": obs, "action": action, "next_obs": next_obs, "signals": signals or {}}
    flat = {"reward": reward, "terminated": terminated, "truncated": truncated}
    if valid is not None:
        flat["valid"] = valid
    for path, x in jax.tree_util.tree_leaves_with_path(arrays | flat):
        if why := fault(x, rows, path[0].key in flat):
            array = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name}: array {array!r} {why}")
    shapes = [jax.tree.map(lambda x: np.shape(x)[1:], tree) for tree in (obs, next_obs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{name}: obs have shape {shapes[0]}, next_obs {shapes[1]}")
    for key, x in (extras or {}).items():
        if np.shape(x) != (rows,):
            raise ValueError(f"{name}: array 'extras/{key}' has shape {np.shape(x)}, not ({rows},)")
    terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
    truncated &= ~terminated
    truncated[-1] |= ~terminated[-1]
    column = lambda tree: jax.tree.map(lambda x: np.asarray(x)[:, None], tree)
    steps = Transition(
        column(_observed(obs)),
        column(_single(action)),
        column(_single(reward)),
        column(_observed(next_obs)),
        column(terminated),
        column(truncated),
        column(np.ones(rows, bool) if valid is None else np.array(valid, bool)),
        column(_single(signals or {})),
    )
    return Dataset(steps, extras or {}, metadata or {}, name=name)


def fault(x: Any, rows: int, flat: bool) -> str | None:
    """Returns why an array is not [rows, ...] finite numbers ([rows] if `flat`); None if it is."""
    x = np.asarray(x)
    if flat and x.ndim > 1 and len(x) == rows:
        return f"has shape {x.shape}, allowed is ({rows},)"
    if x.ndim == 0 or len(x) != rows:
        return f"has shape {x.shape}, but there are {rows} rows"
    if x.dtype.kind not in REAL:
        return f"holds {x.dtype}, not numbers"
    if x.dtype.kind != "f":
        return None
    with np.errstate(over="ignore"):  # a number too large for float32 counts as infinite
        bad = ~np.isfinite(x.reshape(rows, -1).astype(np.float32)).all(1)
    return f"row {int(bad.argmax())} is not finite" if bad.any() else None


def _single(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def _observed(tree: Any) -> Any:
    image = lambda x: np.ndim(x) >= 3 and np.asarray(x).dtype == np.uint8
    return jax.tree.map(lambda x: np.asarray(x) if image(x) else _single(x), tree)


def few_entries(x: np.ndarray) -> np.ndarray:
    """Returns at most `MAX_ENTRIES` evenly spaced entries of each row. [T, ...] -> [T, entries] float64

    On images, summaries that compare all entries with each other would take hours.
    """
    flat = np.reshape(x, (len(x), -1))
    chosen = np.unique(np.linspace(0, flat.shape[1] - 1, MAX_ENTRIES).astype(int))
    chosen = chosen if flat.shape[1] > MAX_ENTRIES else slice(None)
    return flat[:, chosen].astype(np.float64)
