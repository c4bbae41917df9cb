"""Hindsight goals (Andrychowicz et al. 2017): goals that an episode achieved later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxrl.ops import windows
from jaxrl.ops.windows import Window


def hindsight_ages(
    keys: jax.Array,
    age: jax.Array,
    end: jax.Array,
    gamma: jax.Array | float | None = None,
    final: jax.Array | float = 0.0,
) -> jax.Array:
    """Draws, for each start [B], the later row of its episode that gives the goal. [B]

    The goal is what the row's `next_obs` achieved, so the start's own row is a possible choice.

    Args:
      keys: [B], one for each start.
      age, end: [B] the start's row and the last row of its episode.
      gamma: None gives every row up to the end the same probability, the strategy "future" of
        Andrychowicz et al. A number gives a geometric distance (each further row with probability
        `gamma`), cut at the end.
      final: the probability of taking the last row itself.
    """

    chex.assert_equal_shape([age, end])
    chex.assert_type([age, end], jnp.int32)

    def one(key, age, end):
        k_future, k_final = jax.random.split(key)
        u = jax.random.uniform(k_future, minval=1e-12)
        if gamma is None:
            ahead = jnp.floor(u * (end - age + 1))
        else:
            ahead = jnp.floor(jnp.log(u) / jnp.minimum(jnp.log(gamma), -1e-30))
        chosen = age + jnp.minimum(ahead, end - age).astype(jnp.int32)
        return jnp.where(jax.random.bernoulli(k_final, final), end, chosen)

    return jax.vmap(one)(keys, age, end)


def relabel(
    w: Window,
    goal: jax.Array,
    chosen: jax.Array,
    achieved_goal: Callable[[Any], jax.Array],
    goal_reward: Callable[[jax.Array, jax.Array], jax.Array],
    goal_terminates: Callable[[jax.Array, jax.Array], jax.Array],
) -> Window:
    """Returns the windows with the goal replaced by `goal` [B, ...] where `chosen` [B].

    Rewards and termination are those of the new goal. An episode that ended only because the old
    goal was reached becomes truncated.
    """
    old = w.steps
    chex.assert_shape(chosen, old.reward.shape[1:])
    goals = jnp.broadcast_to(goal, old.obs["goal"].shape)
    achieved = achieved_goal(old.next_obs)
    terminated = goal_terminates(achieved, goals)
    new = old.replace(
        obs=old.obs | {"goal": goals},
        next_obs=old.next_obs | {"goal": goals},
        reward=goal_reward(achieved, goals),
        terminated=terminated,
        truncated=(old.truncated | old.terminated) & ~terminated,
    )
    pick = lambda n, o: jnp.where(chosen.reshape((1, -1) + (1,) * (o.ndim - 2)), n, o)
    steps = jax.tree.map(pick, new, old)
    return Window(steps, w.alive & windows.alive(steps, w.alive))
