"""Windows of consecutive steps, and what temporal-difference updates need of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from envs.types import summed
from jaxrl.types import Transition


@struct.dataclass
class Window:
    """`length` consecutive steps from each of B starts."""

    steps: Transition  # [length, B, ...]
    # [length, B] bool: recorded and finite and, unless the window crosses the ends of episodes,
    # still the first step's episode
    alive: jax.Array

    @property
    def begins(self) -> jax.Array:
        """Which steps begin an episode by the end of the step before. [length, B] bool

        The first row is False, because nothing is known about the step before it.
        """
        ended = self.steps.terminated | self.steps.truncated
        return jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])


@struct.dataclass
class Batch:
    """What a temporal-difference update needs, [B, ...]. From `sequence` all but `weight` is
    [B, length, ...]."""

    obs: Any
    action: jax.Array  # [B, A]; [B, length, A] from `chunk`
    reward: jax.Array  # [B] discounted sum over the steps taken
    next_obs: Any  # after the last of those steps
    discount: jax.Array  # [B] gamma^steps, 0 where the MDP terminated
    weight: jax.Array  # [B] 1, or 0 if the first step is not valid
    # [B, ...] float32, discounted sums like `reward`. `teacher` is that of the first step.
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)


def alive(steps: Transition, exists: jax.Array) -> jax.Array:
    """Returns which steps are before any end, recorded and valid, given `exists`. [length, B]"""
    ended = (steps.terminated | steps.truncated)[:-1]
    not_before = jnp.concatenate([jnp.ones_like(exists[:1]), ~ended])
    return jnp.cumprod(not_before & exists & steps.valid, 0, dtype=jnp.int32).astype(bool)


def _at_last(w: Window) -> tuple[Callable[[Any], Any], jax.Array]:
    """Returns a function that selects each window's last alive step, and their number [B]."""
    count = w.alive.sum(0)
    last = jnp.maximum(count - 1, 0)
    columns = jnp.arange(last.shape[0])
    return lambda tree: jax.tree.map(lambda x: x[last, columns], tree), count


def n_step(w: Window, gamma: jax.Array | float) -> Batch:
    """Makes n-step returns over up to `length` steps; the end of the episode cuts them."""
    chex.assert_equal_shape([w.alive, w.steps.reward, w.steps.terminated, w.steps.valid])
    at_last, count = _at_last(w)
    powers = jnp.asarray(gamma) ** jnp.arange(w.alive.shape[0])[:, None]
    first = jax.tree.map(lambda x: x[0], w.steps)

    def total(x):  # [length, B, ...] -> [B, ...]
        pad = (1,) * (x.ndim - 2)
        alive, scale = (y.reshape(y.shape + pad) for y in (w.alive, powers))
        return jnp.where(alive, scale * x, 0.0).sum(0)

    sums = jax.tree.map(total, summed(w.steps.signals))
    return Batch(
        obs=first.obs,
        action=first.action,
        reward=total(w.steps.reward),
        next_obs=at_last(w.steps.next_obs),
        discount=jnp.where(at_last(w.steps.terminated), 0.0, jnp.asarray(gamma) ** count),
        weight=w.alive[0].astype(jnp.float32),
        signals={k: sums.get(k, x) for k, x in first.signals.items()},
    )


def chunk(w: Window, gamma: jax.Array | float) -> tuple[Batch, jax.Array]:
    """Returns `n_step` with the whole chunk of actions [B, length, A], and a mask [B, length] of the
    actions that belong to the episode."""
    actions = jnp.moveaxis(w.steps.action, 0, 1)
    return n_step(w, gamma).replace(action=actions), w.alive.T


def sequence(w: Window, gamma: jax.Array | float) -> Batch:
    """Returns every step of each window by itself, [B, length, ...].

    `weight` [B] is 1 where any step is alive. A sample whose first steps are not alive still counts.
    Rewards and signals are 0 where a step is not.
    """
    chex.assert_equal_shape([w.alive, w.steps.reward, w.steps.terminated, w.steps.valid])
    steps = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), w.steps)

    def alive(x):  # [B, length, ...]
        return jnp.where(w.alive.T.reshape(x.shape[:2] + (1,) * (x.ndim - 2)), x, 0)

    return Batch(
        obs=steps.obs,
        action=steps.action,
        reward=alive(steps.reward),
        next_obs=steps.next_obs,
        discount=jnp.where(steps.terminated, 0.0, jnp.asarray(gamma)),
        weight=w.alive.any(0).astype(jnp.float32),
        signals=jax.tree.map(alive, steps.signals | summed(steps.signals)),
    )
