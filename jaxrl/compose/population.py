"""Population based training (PBT, Jaderberg et al. 2017) as one learner.

Members are an axis of the state. At intervals the worst members copy the best and perturb their
hyper-parameters. These are data of the state, so there is no recompilation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.config import check, numbers
from jaxrl.loops.branch import same_in_runs
from jaxrl.types import Learner, Metrics, Policy

FACTORS = (0.8, 1.2)  # factors of a copied hyper-parameter, equally likely


@struct.dataclass
class PopulationState:
    members: Any  # states of the learner, [M, ...]
    returned: jax.Array  # [M] sum of the returns of training episodes since the last selection
    episodes: jax.Array  # [M] number of those episodes
    score: jax.Array  # [M] mean return at the last comparison; -inf: none yet
    iteration: jax.Array  # [] int32
    key: jax.Array
    config: Any  # the config of `init`; members have their own


def population(
    learner: Learner,
    ranges: dict[str, tuple[float, float]],
    size: int = 8,
    every: int = 20,
    share: float = 0.25,
) -> Learner:
    """Returns `size` members of `learner` that tune the numbers `ranges` of its config.

    A member's score is the mean return of the training episodes that ended since the last
    selection. A copy takes over everything, environments and replay included, except the random
    key. The policy is that of the member with the best score.

    Args:
      learner: its state has `config` and `key`.
      ranges: (low, high) by field. Members begin with values drawn log-uniformly from them, and
        stay within. 0 < low < high.
      size: number of members. One step counts the environment steps of all of them.
      every: iterations from one selection to the next.
      share: the share of members that copy, and of those that are copied; in (0, 0.5].

    Raises:
      ValueError: a number out of range, or a field that is not a number of the config.
    """
    known = numbers(learner.config)
    for name, (low, high) in ranges.items():
        if name not in known:
            raise ValueError(f"ranges: {name!r}: allowed are the numbers {', '.join(known)}")
        if not 0 < low < high:
            raise ValueError(f"ranges: {name}={low, high}: must be 0 < low < high")
        for end in (low, high):
            check(learner.config.replace(**{name: end}))
    if size < 2:
        raise ValueError(f"size={size}: must be at least 2")
    if every < 1:
        raise ValueError(f"every={every}: must be at least 1")
    if not 0 < share <= 0.5:
        raise ValueError(f"share={share}: must be above 0 and at most 0.5")
    if learner.config is None:
        raise ValueError("population: the learner has no config")
    count = max(1, math.floor(share * size))
    zeros = jnp.zeros(size)

    def init(key: jax.Array, config: Any = learner.config) -> PopulationState:
        k_members, k_values, key = jax.random.split(key, 3)
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        uniform = jax.random.uniform(k_values, (len(ranges), size))
        values = {
            name: low * (high / low) ** u
            for (name, (low, high)), u in zip(ranges.items(), uniform, strict=True)
        }
        of_member = lambda key, values: learner.init(key, config.replace(**values))
        return PopulationState(
            members=jax.vmap(of_member)(jax.random.split(k_members, size), values),
            returned=zeros,
            episodes=zeros,
            score=jnp.full(size, -jnp.inf),
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            config=config,
        )

    def step(state: PopulationState, *data: Any) -> tuple[PopulationState, Metrics]:
        # --- Train ---
        of_members = jax.vmap(learner.step, (0, *[None] * len(data)))
        members, each = of_members(state.members, *data)
        state = state.replace(
            members=members,
            returned=state.returned + each.per_episode["episode_return"],
            episodes=state.episodes + each.sums["episodes"],
            iteration=state.iteration + 1,
        )
        # --- Exploit and explore ---
        due = same_in_runs(state.iteration % every == 0)
        turns = due.astype(jnp.int32)  # a loop, as in `update_if`: members are updated in place
        state = jax.lax.fori_loop(0, turns, lambda _, s: selection(s), state)
        # --- Metrics ---
        spread = {f"population_{name}": getattr(state.members.config, name) for name in ranges}
        total = lambda tree: jax.tree.map(lambda x: x.sum(0), tree)
        mean = lambda tree: jax.tree.map(lambda x: x.mean(0), tree)
        return state, Metrics(
            mean(each.means) | mean(spread), total(each.sums), total(each.per_episode)
        )

    def selection(state: PopulationState) -> PopulationState:
        k_source, k_factor, key = jax.random.split(state.key, 3)
        mean = state.returned / jnp.maximum(state.episodes, 1.0)
        score = jnp.where((state.episodes > 0) & jnp.isfinite(mean), mean, -jnp.inf)
        source = exploit(score, k_source, count)
        copied = source != jnp.arange(size)
        members = jax.tree.map(lambda x: x[source], state.members)
        config, keys = members.config, jax.random.split(k_factor, len(ranges))
        for k, (name, (low, high)) in zip(keys, ranges.items(), strict=True):
            value = getattr(config, name)
            config = config.replace(
                **{name: jnp.where(copied, explore(value, k, low, high), value)}
            )
        members = members.replace(config=config, key=state.members.key)
        return state.replace(
            members=members, returned=zeros, episodes=zeros, score=score[source], key=key
        )

    def best(state: PopulationState) -> Any:
        """Returns the state of the best member."""
        return jax.tree.map(lambda x: x[jnp.argmax(state.score)], state.members)

    def policy(state: PopulationState) -> Policy:
        return learner.policy(best(state))

    own = learner.evaluate
    return dataclasses.replace(
        learner,
        init=init,
        step=step,
        policy=policy,
        steps_per_iteration=size * learner.steps_per_iteration,
        sharing=None,
        evaluate=own and (lambda _, state, keys: own(learner, best(state), keys)),
    )


def exploit(score: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """Returns the index of the member that each member copies. [M] int32

    By truncation selection each of the worst `count` copies one of the best `count`, drawn
    uniformly. Every other member copies itself. Among equal scores the later member counts as better.

    score: [M]; -inf: unknown, counts as worst. If no score is known, nobody copies.
    """
    size = score.shape[0]
    order = jnp.argsort(score)  # stable; the worst first
    drawn = jax.random.randint(key, (count,), size - count, size)
    known = jnp.isfinite(score[order[drawn]])
    worst = order[:count]
    source = jnp.where(known, order[drawn], worst)
    return jnp.arange(size, dtype=jnp.int32).at[worst].set(source.astype(jnp.int32))


def explore(value: jax.Array, key: jax.Array, low: float, high: float) -> jax.Array:
    """Returns each value [M] times one of `FACTORS`, clipped to [low, high]."""
    up = jax.random.bernoulli(key, 0.5, value.shape)
    return jnp.clip(value * jnp.where(up, FACTORS[1], FACTORS[0]), low, high)
