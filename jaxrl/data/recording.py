"""Data sets from policies, from other data sets and from replays."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.broken import what_breaks
from envs.transforms.base import check_count
from envs.transforms.residual import Residual
from envs.types import ACTION_SIGNALS, Env, State, check_instance
from envs.xla import seldom
from jaxrl import episodes
from jaxrl.data.dataset import Dataset, from_arrays
from jaxrl.episodes import Step, View, episode_limit
from jaxrl.nn import spaces as acting
from jaxrl.types import Policy, Transition


def record(
    policy: Policy,
    env: Env,
    num_episodes: int,
    key: jax.Array,
    deterministic: bool = False,
    num_envs: int = 256,
    metadata: dict[str, Any] | None = None,
) -> Dataset:
    """Records exactly `num_episodes` episodes of `policy`, `num_envs` of them at a time.

    An episode depends on `key` and its number only. If the simulation turns non-finite, the
    episode ends before that step.

    Raises:
      ValueError: `num_episodes` or `num_envs` < 1, or `env` is not one instance.
      RuntimeError: an episode was non-finite from its first step.
    """
    check_instance(env)
    check_count("num_episodes", num_episodes, 1)
    check_count("num_envs", num_envs, 1)
    limit = episode_limit(env)

    def transition(step: Step) -> tuple[Transition, dict[str, jax.Array]]:
        old, new = step.before, step.after
        terminated, truncated = new.terminated, new.truncated & ~new.terminated
        signals = dict(new.signals)
        action = signals.pop("executed", step.action)
        steps = Transition(
            old.obs, action, new.reward, new.obs, terminated, truncated, step.finite, signals
        )
        return steps, new.metrics

    def begin(first: State, like: Step) -> tuple[Any, jax.Array]:
        rows = episodes.history(jax.eval_shape(transition, like), limit)
        return rows, jnp.zeros(like.alive.shape, jnp.int32)

    def see(kept, time, step):
        rows, length = kept
        return episodes.put(rows, time, transition(step)), length + step.counts

    @partial(jax.jit, compiler_options=seldom())
    def run(policy, keys):
        """Returns steps and metrics [limit, n, ...], and the length of every episode [n]."""
        kept = View(begin, see, freezes=False)  # steps after `length` are dropped
        return episodes.run(env, policy, keys, kept, deterministic, limit)

    parts = []
    batch = min(num_envs, num_episodes)
    for first in range(0, num_episodes, batch):
        # The last batch runs some of the first episodes again, so that one program serves all.
        index = np.arange(first, first + batch) % num_episodes
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        history, length = jax.device_get(run(policy, keys))
        for e in range(min(batch, num_episodes - first)):
            if length[e] == 0:
                found = what_breaks(env, keys[e]) or "another action breaks it"
                raise RuntimeError(
                    f"episode {first + e}: the simulation was not finite at once ({found})"
                )
            parts.append(jax.tree.map(lambda x, e=e, n=length[e]: x[:n, e], history))
    steps, metrics = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    last = np.cumsum([len(p[0].reward) for p in parts]) - 1
    truncated = steps.truncated
    truncated[last] |= ~steps.terminated[last]  # ended by the limit or a broken simulation
    return from_arrays(
        steps.obs,
        steps.action,
        steps.reward,
        steps.next_obs,
        steps.terminated,
        truncated,
        extras={k: np.asarray(v, np.float32) for k, v in metrics.items()},
        metadata=metadata,
        signals=steps.signals,
    )


def through_base(dataset: Dataset, env: Any, key: jax.Array, num_envs: int = 256) -> Dataset:
    """Returns recorded episodes in the form of `env`, an `envs.transforms.residual`.

    The frozen base computes its action at every step, with its memory carried along the episode.
    Observations gain that action, and actions become corrections of it. A correction that the
    residual's scale cannot reach lies outside [-1, 1]. Runs `num_envs` episodes at a time.

    Raises:
      ValueError: the data do not fit the base's environment, or the base acts on states, which
        recordings do not hold.
    """
    if getattr(env.base, "sees_state", False):
        raise ValueError("through_base: the base acts on states, which recordings do not hold")
    dataset.steps_for(env.env)
    rows = int(dataset.lengths.max())
    first = lambda tree, row: jax.tree.map(lambda x: x[row], tree)

    @jax.jit
    def run(obs, last_obs, length, keys):
        """obs [n, rows, ...] and the final one [n, ...] -> base actions [n, rows + 1, A]."""

        def one(obs, last_obs, length, key):
            def step(carry, t):
                now = jax.tree.map(lambda a, b: jnp.where(t < length, a[t], b), obs, last_obs)
                return env.base.act(carry, now, jax.random.fold_in(key, t), env.deterministic)[::-1]

            return jax.lax.scan(step, env.base.init_carry(), jnp.arange(rows + 1))[1]

        return jax.vmap(one)(obs, last_obs, length, keys)

    starts, ends, lengths = dataset.starts, dataset.ends, dataset.lengths
    now, after = [], []
    for at in range(0, len(starts), num_envs):
        batch = np.arange(at, at + num_envs) % len(starts)  # a constant number: one program
        padded = np.minimum(starts[batch][:, None] + np.arange(rows), ends[batch][:, None])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch)
        obs = first(dataset.steps.obs, (padded, 0))
        last_obs = first(dataset.steps.next_obs, (ends[batch], 0))
        actions = np.asarray(run(obs, last_obs, lengths[batch], keys))
        for i, n in enumerate(lengths[batch][: len(starts) - at]):
            now.append(actions[i, :n])
            after.append(actions[i, 1 : n + 1])
    now, after = (np.concatenate(x)[:, None] for x in (now, after))
    entries = lambda obs: obs if isinstance(obs, dict) else {"obs": obs}
    steps = dataset.steps.replace(
        obs=entries(dataset.steps.obs) | {env.entry: now},
        next_obs=entries(dataset.steps.next_obs) | {env.entry: after},
        action=np.asarray(env.correction(now, dataset.steps.action), np.float32),
        signals={
            k: np.asarray(env.correction(now, x), np.float32) if k in ACTION_SIGNALS else x
            for k, x in dataset.steps.signals.items()
        },
    )
    return dataclasses.replace(dataset, steps=steps, bounded=False)


def plain_task(dataset: Dataset, env: Any) -> tuple[Dataset, Env]:
    """Returns a recording in `env` in the form of the task without residuals, and that task.

    This inverts `through_base` for one `envs.transforms.residual` or several. Observations lose
    the base's action, and actions are the executed ones, in the task's units. A refined policy can
    then be cloned like any demonstrator. Without a residual both are returned unchanged.
    """
    while isinstance(env, Residual):
        steps, inside = dataset.steps, env.env
        base, residual = steps.obs[env.entry], env
        whole = lambda x, base=base, env=residual: np.asarray(env.combine(base, x), np.float32)
        named = isinstance(inside.observation_space, dict)

        def without(obs, entry=env.entry, named=named):
            return {k: v for k, v in obs.items() if k != entry} if named else obs["obs"]

        steps = steps.replace(
            obs=without(steps.obs),
            next_obs=without(steps.next_obs),
            action=whole(steps.action),
            signals={k: whole(x) if k in ACTION_SIGNALS else x for k, x in steps.signals.items()},
        )
        dataset, env = dataclasses.replace(dataset, steps=steps, bounded=True), inside
    return dataset, env


def from_replay(
    state: Any, index: int, env: Env, metadata: dict[str, Any] | None = None
) -> Dataset:
    """Returns the episodes in the replay of run `index` of an off-policy learner, oldest first.

    Unfinished episodes and those whose start was overwritten have no return and are left out. If
    no whole episode remains, each environment's history is one truncated episode.
    """
    if not hasattr(state, "replay"):
        raise ValueError("this run has no replay: only online off-policy learners store one")
    ring = jax.tree.map(lambda x: np.asarray(x[index]), state.replay)
    order = (ring.position - ring.size + np.arange(ring.size)) % ring.capacity
    steps = jax.tree.map(lambda x: x[order], ring.steps)
    done = steps.terminated | steps.truncated
    whole = np.flip(np.logical_or.accumulate(np.flip(done, 0)), 0)  # its end is in the replay
    if ring.size == ring.capacity:
        whole &= np.cumsum(done, 0) - done > 0  # and its start is not the oldest row
    steps.truncated[-1] |= ~steps.terminated[-1]
    kept = steps.valid & (whole if (whole & steps.valid).any() else True)
    flat = lambda x: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
    column, keep = jax.tree.map(flat, steps), flat(kept)
    # A non-finite step is dropped, and the episode ends before it.
    broken = ~column.valid
    cut = np.append(broken[1:], False) & ~column.terminated
    to_env = acting.to_env(env.action_space)
    return from_arrays(
        jax.tree.map(lambda x: x[keep], column.obs),
        np.asarray(to_env(column.action[keep])),
        column.reward[keep],
        jax.tree.map(lambda x: x[keep], column.next_obs),
        column.terminated[keep],
        (column.truncated | cut)[keep],
        metadata=metadata,
        signals={
            k: np.asarray(to_env(x[keep]) if k in ACTION_SIGNALS else x[keep])
            for k, x in column.signals.items()
        },
    )
