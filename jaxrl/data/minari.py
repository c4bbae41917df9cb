"""Reads and writes Minari data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.data.dataset import REAL, Dataset, from_arrays
from jaxrl.data.files import _rows
from jaxrl.data.reading import datasets_of, h5py_package

METADATA = "jaxrl_metadata"  # the entry of Minari's metadata that holds ours, as JSON text
SIGNALS = "signals"  # the info that holds the signals of `envs.types.State`, by name


def _minari():
    try:
        import minari
    except ImportError:
        raise ImportError("Minari data sets need minari: pip install 'jaxrl[minari]'") from None
    return minari


def from_minari(dataset_id: str) -> Dataset:
    """Reads a local Minari data set (download it first with `minari download ID`).

    The metadata are the data set's name and, if `to_minari` wrote it, ours. Numeric infos [T] become
    metrics. Those in a group "signals" become signals.

    Raises:
      ValueError: there is no such local data set, it is damaged or links to other files, its
        observations are neither arrays nor a dict of arrays, or the arrays of an episode do not fit
        each other. The message names the episode.
    """
    minari = _minari()
    try:
        source = minari.load_dataset(dataset_id)
    except FileNotFoundError:
        raise ValueError(f"no Minari data set {dataset_id!r} on this machine") from None
    except Exception as error:  # damaged texts and HDF5 raise any exception
        raise _unreadable(dataset_id, error) from None
    try:
        _check_files(source)
        kept = json.loads(source.storage.metadata.get(METADATA, "{}"))
        return _from_episodes(source.iterate_episodes(), kept | {"minari": dataset_id})
    except Exception as error:
        raise _unreadable(dataset_id, error) from None


def _unreadable(dataset_id: str, error: Exception) -> ValueError:
    why = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"Minari data set {dataset_id!r} cannot be read ({why})")


def _check_files(source: Any) -> None:
    """Refuses HDF5 that leads to other files, as `files.load` does."""
    for path in Path(source.storage.data_path).glob("*.hdf5"):
        with h5py_package().File(path, "r") as file:
            datasets_of(file)


def _from_episodes(episodes: Any, metadata: dict[str, Any]) -> Dataset:
    columns: dict[str, list] = {k: [] for k in ("obs", "next", "action", "reward", "term", "trunc")}
    extras: list[dict] = []
    signals: list[dict] = []
    for i, episode in enumerate(episodes):
        entries = _observations(i, episode)
        columns["obs"].append(_rows(entries, slice(None, -1)))
        columns["next"].append(_rows(entries, slice(1, None)))
        columns["action"].append(episode.actions)
        columns["reward"].append(episode.rewards)
        columns["term"].append(episode.terminations)
        truncated = np.array(episode.truncations, bool)
        truncated[-1] |= not episode.terminations[-1]
        columns["trunc"].append(truncated)
        infos = episode.infos or {}
        extras.append(_metrics(infos, len(truncated)))
        signals.append(_signals(i, infos.get(SIGNALS), len(truncated)))
        if signals[i].keys() != signals[0].keys():
            raise ValueError(f"episode {i}: signals {sorted(signals[i])}, not {sorted(signals[0])}")
        shapes = _shapes(columns["obs"][-1], episode.actions)
        first = _shapes(columns["obs"][0], columns["action"][0])
        if shapes != first:
            raise ValueError(f"episode {i}: observations and actions are {shapes}, not {first}")

    def join(parts):
        if isinstance(parts[0], dict):
            return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        return np.concatenate(parts)

    if not extras:
        raise ValueError("no episodes")
    shared = set.intersection(*(set(e) for e in extras))
    return from_arrays(
        *(join(columns[k]) for k in ("obs", "action", "reward", "next", "term", "trunc")),
        extras={k: np.concatenate([e[k] for e in extras]).astype(np.float32) for k in shared},
        metadata=metadata,
        signals=join(signals),
    )


def _observations(i: int, episode: Any) -> Any:
    """Returns the observations of episode `i`. Raises if its arrays do not fit each other."""
    entries = episode.observations
    for entry in entries.values() if isinstance(entries, Mapping) else [entries]:
        if isinstance(entry, Mapping | tuple):
            raise ValueError(f"observations hold a {type(entry).__name__}, not only arrays")
    steps = len(episode.actions)
    if steps == 0:
        raise ValueError(f"episode {i}: no steps")
    for name in ("rewards", "terminations", "truncations"):
        if len(getattr(episode, name)) != steps:
            raise ValueError(
                f"episode {i}: {len(getattr(episode, name))} {name} for {steps} actions"
            )
    named = entries if isinstance(entries, Mapping) else {"": entries}
    for key, entry in named.items():
        if len(entry) != steps + 1:
            name = f"observations/{key}".rstrip("/")
            raise ValueError(
                f"episode {i}: {len(entry)} {name} for {steps} actions, not {steps + 1}"
            )
    return entries


def _shapes(obs: Any, action: Any) -> Any:
    return jax.tree.map(lambda x: np.shape(x)[1:], (obs, action))


def _metrics(infos: Mapping[str, Any], steps: int) -> dict[str, np.ndarray]:
    """Returns the numeric infos of every step [steps]. A recorded info of the reset is dropped."""
    found = {k: np.asarray(v) for k, v in infos.items() if not isinstance(v, Mapping)}
    fits = lambda x: x.ndim == 1 and len(x) in (steps, steps + 1) and x.dtype.kind in REAL
    return {k: x[-steps:] for k, x in found.items() if fits(x)}


def _signals(i: int, group: Any, steps: int) -> dict[str, np.ndarray]:
    """Returns the signals of every step [steps, ...] of episode `i`. That of the reset is dropped."""
    if not isinstance(group, Mapping):
        return {}
    found = {name: np.asarray(x) for name, x in group.items()}
    for name, x in found.items():
        if x.dtype.kind not in REAL or x.ndim == 0 or len(x) not in (steps, steps + 1):
            raise ValueError(
                f"episode {i}: infos/{SIGNALS}/{name} is {x.dtype}{list(x.shape)}, not numbers for"
                f" {steps} actions"
            )
    return {name: x[-steps:] for name, x in found.items()}


def to_minari(dataset: Dataset, dataset_id: str, env: Any, **about: Any) -> Any:
    """Writes a local Minari data set. `from_minari` reads it back equal, with its metadata.

    Metrics are infos, and signals are infos in the group "signals". Both are 0 at the reset.

    Args:
      dataset: what to write.
      dataset_id: such as "hopper/medium-v0".
      env: the environment that it was recorded in, for its spaces.
      **about: passed to Minari (author, description, ...).

    Raises:
      ValueError: a data set of that name exists, the data do not fit the spaces of `env`, or a
        step's next observation is unknown or differs from the observation of the next step.
        Minari cannot store those.
    """
    minari = _minari()
    from minari.data_collector import EpisodeBuffer

    from envs.adapters.gymnasium import to_gymnasium_space

    dataset.steps_for(env)
    buffers = []
    steps = dataset.steps
    if not steps.valid.all():
        row = int((~steps.valid[:, 0]).argmax())
        raise ValueError(
            f"{dataset.name}: where step {row} led was not recorded, and Minari wants every"
            " episode's last observation"
        )
    apart = np.zeros(len(dataset) - 1, bool)
    for now, after in zip(*map(jax.tree.leaves, (steps.obs, steps.next_obs)), strict=True):
        apart |= (now[1:] != after[:-1]).any(tuple(range(1, now.ndim)))
    apart[dataset.ends[:-1]] = False
    if apart.any():
        row = int(apart.argmax())
        raise ValueError(
            f"{dataset.name}: next_obs[{row}] is not obs[{row + 1}], as Minari wants it"
        )
    for i, (start, end) in enumerate(zip(dataset.starts, dataset.ends, strict=True)):
        rows = slice(start, end + 1)
        path = lambda obs, last, rows=rows, end=end: np.concatenate(
            [obs[rows, 0], last[end : end + 1, 0]]
        )
        obs = (
            {k: path(v, steps.next_obs[k]) for k, v in steps.obs.items()}
            if isinstance(steps.obs, Mapping)
            else path(steps.obs, steps.next_obs)
        )
        after_reset = lambda x: np.concatenate([np.zeros_like(x[:1]), x])
        infos = {k: after_reset(v[rows]) for k, v in dataset.extras.items()}
        if steps.signals:
            infos[SIGNALS] = {k: after_reset(v[rows, 0]) for k, v in steps.signals.items()}
        buffers.append(
            EpisodeBuffer(
                id=i,
                observations=obs,
                actions=steps.action[rows, 0],
                rewards=list(steps.reward[rows, 0]),
                terminations=list(steps.terminated[rows, 0]),
                truncations=list(steps.truncated[rows, 0]),
                infos=infos or None,
            )
        )
    kept = json.dumps(dataset.metadata)
    made = minari.create_dataset_from_buffers(
        dataset_id=dataset_id,
        buffer=buffers,
        observation_space=to_gymnasium_space(env.observation_space),
        action_space=to_gymnasium_space(env.action_space),
        **about,
    )
    made.storage.update_metadata({METADATA: kept})
    return made
