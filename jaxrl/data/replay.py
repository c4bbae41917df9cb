"""Transitions on the device: a ring written in place, and what is drawn from it.

Replay and data sets share one layout, time-major [T, N, ...]. A row is one time step of N
environments, and a column is the history of one environment. A data set is a full ring of one
column. Every function here is pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.ops import goals, windows
from jaxrl.types import Transition


@struct.dataclass
class Replay:
    """A ring of T rows. Rows are counted by age: 0 is the oldest one held."""

    steps: Transition  # leaves [T, N, ...]
    position: jax.Array  # [] int32, the row to be written next
    size: jax.Array  # [] int32, how many rows are filled

    @property
    def num_envs(self) -> int:
        return self.steps.reward.shape[1]

    @property
    def capacity(self) -> int:
        return self.steps.reward.shape[0]


def empty(example: Transition, rows: int, num_envs: int) -> Replay:
    """Returns an empty replay for transitions shaped like `example` (one step of one environment)."""
    zeros = lambda x: jnp.zeros((rows, num_envs, *x.shape), x.dtype)
    zero = jnp.zeros((), jnp.int32)
    return Replay(jax.tree.map(zeros, example), zero, zero)


def full(steps: Transition) -> Replay:
    """Returns recorded steps [T, N, ...] as a full ring."""
    rows = steps.reward.shape[0]
    steps = jax.tree.map(jnp.asarray, steps)
    return Replay(steps, jnp.zeros((), jnp.int32), jnp.asarray(rows, jnp.int32))


def insert(replay: Replay, rows: Transition) -> Replay:
    """Writes rows [K, N, ...] over the oldest ones; K must divide the capacity.

    The cost depends on K alone: no row is moved, and a donated replay is updated in place.
    """
    count, capacity = rows.reward.shape[0], replay.capacity
    if capacity % count:
        raise ValueError(f"{count} rows do not divide the replay's capacity of {capacity}")
    write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, replay.position, 0)
    return Replay(
        steps=jax.tree.map(write, replay.steps, rows),
        position=(replay.position + count) % capacity,
        size=jnp.minimum(replay.size + count, capacity),
    )


def physical_row(replay: Replay, age: jax.Array) -> jax.Array:
    """Returns the index in the ring of the row with this age."""
    return (replay.position - replay.size + age) % replay.capacity


def window(replay: Replay, age: jax.Array, env: jax.Array, length: int) -> windows.Window:
    """Returns the `length` steps from row `age` [B] of column `env` [B] on.

    No window crosses the end of an episode, the newest row or a step that was not finite:
    `alive` is False from there on.
    """
    ages = age + jnp.arange(length)[:, None]  # [length, B]
    rows = physical_row(replay, ages)
    steps = jax.tree.map(lambda x: x[rows, env], replay.steps)
    return windows.Window(steps, windows.alive(steps, ages < replay.size))


def stretch(replay: Replay, age: jax.Array, env: jax.Array, length: int) -> windows.Window:
    """Returns the `length` steps from row `age` [B] of column `env` [B] on, across episodes.

    `alive` is False past the newest row and for steps that were not finite. `Window.begins` says
    where another episode begins.
    """
    ages = age + jnp.arange(length)[:, None]  # [length, B]
    rows = physical_row(replay, ages)
    steps = jax.tree.map(lambda x: x[rows, env], replay.steps)
    return windows.Window(steps, (ages < replay.size) & steps.valid)


# --- Goals ---


def episode_end(replay: Replay, age: jax.Array, env: jax.Array, horizon: int) -> jax.Array:
    """Returns the age of the last recorded row of each start's episode. [B]

    The search takes `horizon` rows, the start's own included: the length of the longest episode.
    Where the episode is longer, the last of these rows counts as its end.
    """
    ages = age + jnp.arange(horizon)[:, None]  # [horizon, B]
    rows = physical_row(replay, ages)
    ended = replay.steps.terminated[rows, env] | replay.steps.truncated[rows, env]
    ended |= (ages >= replay.size - 1) | (ages == age + horizon - 1)
    return age + ended.argmax(0)


def hindsight_goals(
    replay: Replay,
    keys: jax.Array,
    age: jax.Array,
    env: jax.Array,
    achieved_goal: Callable[[Any], jax.Array],
    horizon: int,
    gamma: jax.Array | float | None = None,
    final: jax.Array | float = 0.0,
    random: jax.Array | float = 0.0,
) -> jax.Array:
    """Draws an achieved goal for each start (age, env) [B]: [B, ...].

    With probability `random` it is that of any recorded row of the same column, else of one by
    `jaxrl.ops.goals.hindsight_ages`. The start's own row replaces a row that was not finite. Goal i depends on key
    i alone, so it does not depend on how devices share the samples.

    Args:
      keys: [B], one for each start.
      achieved_goal: of `envs.types.Goals`.
      horizon: see `episode_end`.
      gamma, final: see `jaxrl.ops.goals.hindsight_ages`.
    """

    def elsewhere(key):
        k_row, k_random = jax.random.split(key)
        return uniform(replay, k_row[None], 0, 1)[0][0], jax.random.bernoulli(k_random, random)

    pairs = jax.vmap(jax.random.split)(keys)
    own = goals.hindsight_ages(
        pairs[:, 0], age, episode_end(replay, age, env, horizon), gamma, final
    )
    any_age, is_random = jax.vmap(elsewhere)(pairs[:, 1])
    chosen = jnp.where(is_random, any_age, own)
    chosen = jnp.where(replay.steps.valid[physical_row(replay, chosen), env], chosen, age)
    row = physical_row(replay, chosen)
    return achieved_goal(jax.tree.map(lambda x: x[row, env], replay.steps.next_obs))


# --- Sampling ---


def uniform(replay: Replay, keys: jax.Array, first_env: jax.Array, envs: int):
    """Draws one start per key [B]: an age [B], and a column [B] of the `envs` from `first_env` [B].

    Uses random bits modulo the range. Probabilities differ by at most a share size / 2^32, and it
    costs a third of `randint`, which splits its key first.
    """
    bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
    age = bits[:, 0] % jnp.maximum(replay.size, 1).astype(jnp.uint32)
    return age.astype(jnp.int32), first_env + (bits[:, 1] % envs).astype(jnp.int32)


@struct.dataclass
class Trajectories:
    """The position of each episode of a one-column data set, and its probability."""

    start: jax.Array  # [E] int32
    length: jax.Array  # [E] int32
    cdf: jax.Array  # [E] cumulative probability of the episodes


def weighted(trajectories: Trajectories, keys: jax.Array) -> jax.Array:
    """Draws one start per key [B]: an episode by its probability, then one of its steps uniformly."""

    def one(key):
        k_episode, k_step = jax.random.split(key)
        u = jax.random.uniform(k_episode) * trajectories.cdf[-1]
        episode = jnp.searchsorted(trajectories.cdf, u, side="right")
        episode = jnp.minimum(episode, trajectories.cdf.shape[0] - 1)
        step = jax.random.randint(k_step, (), 0, trajectories.length[episode])
        return trajectories.start[episode] + step

    return jax.vmap(one)(keys)


def draw_recorded(
    data: tuple[Transition, Trajectories | None], keys: jax.Array, steps: int
) -> windows.Window:
    """Draws a window of `steps` per key [B], uniformly from one column or by `Trajectories`."""
    recorded, trajectories = full(data[0]), data[1]
    column = jnp.zeros(len(keys), jnp.int32)
    if trajectories is None:
        age, column = uniform(recorded, keys, column, 1)
    else:
        age = weighted(trajectories, keys)
    return window(recorded, age, column, steps)


def num_bytes(example: Transition, rows: int, num_envs: int) -> int:
    """Returns the bytes of device memory of `empty(example, rows, num_envs)`."""
    return rows * num_envs * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(example))
