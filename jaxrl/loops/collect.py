"""Episode metrics and minibatches, for on-policy and off-policy collection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from envs.types import ACTION_SIGNALS
from envs.vector import VecState, fold_keys
from jaxrl.episodes import signal_totals
from jaxrl.nn.spaces import Actions
from jaxrl.types import Metrics


def episode_metrics(stepped: VecState) -> Metrics:
    """Returns the metrics of one vectorised step.

    Means are taken over the environments. `episode_signal_NAME` is the sum of a signal over the
    episodes that ended.
    """
    done = stepped.done
    totals = {
        f"episode_{name}": jnp.where(done, x, 0.0).sum()
        for name, x in signal_totals(stepped.episode_signals, 1).items()
    }
    task = {f"metric_{k}": v.astype(jnp.float32).mean() for k, v in stepped.now.metrics.items()}
    return Metrics(
        means=task,
        sums={"episodes": done.sum(), "nonfinite_count": stepped.nonfinite.sum()},
        per_episode={
            "episode_return": jnp.where(done, stepped.episode_return, 0.0).sum(),
            "episode_length": jnp.where(done, stepped.episode_length, 0).sum(),
            **totals,
        },
    )


def stored(
    action: jax.Array, signals: dict[str, jax.Array], actions: Actions
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns what a replay keeps of a step: the action that was executed, and the signals.

    Args:
      action: [..., A] the proposed one in [-1, 1], or integers [...].
      signals: the step's signals, [..., ...]. `executed` replaces `action`. `executed` and
        `teacher` come in the environment's units and are scaled to [-1, 1].
      actions: the environment's.
    """
    if not signals.keys() & set(ACTION_SIGNALS):
        return action, signals
    squash = lambda x: x if actions.discrete else jnp.clip(actions.from_env(x), -1.0, 1.0)
    signals = {k: squash(x) if k in ACTION_SIGNALS else x for k, x in signals.items()}
    return signals.pop("executed", action), signals


def over_time(metrics: Metrics, psum: Callable[[Any], Any]) -> Metrics:
    """Reduces `episode_metrics` [T] over time and devices."""
    metrics = Metrics(
        means=jax.tree.map(lambda x: x.mean(0), metrics.means),
        sums=jax.tree.map(lambda x: x.sum(0), metrics.sums),
        per_episode=jax.tree.map(lambda x: x.sum(0), metrics.per_episode),
    )
    metrics, devices = psum((metrics, jnp.ones(())))
    return Metrics(
        means=jax.tree.map(lambda x: x / devices, metrics.means),
        sums=jax.tree.map(lambda x: x * 1.0, metrics.sums),
        per_episode=jax.tree.map(lambda x: x * 1.0, metrics.per_episode),
    )


def num_blocks(num_envs: int, num_minibatches: int, steps: int = 1) -> int:
    """Returns the number of blocks into which `shuffle` divides the environments."""
    return math.gcd(num_envs, num_envs * steps // num_minibatches, 8)


def shuffle(
    key: jax.Array, index: jax.Array, num_envs: int, num_minibatches: int, steps: int = 1
) -> jax.Array:
    """Returns what each minibatch takes. Every step of every environment is taken once.

    Steps are shuffled within at most 8 blocks of environments. The blocks do not depend on the
    number of devices, so the minibatches are the same on one device and on eight.

    Args:
      index: [n] global numbers of this device's environments, which are whole blocks.
      num_envs: on all devices. `num_envs * steps` is a multiple of `num_minibatches`.
      steps: of each environment; 1 shuffles environments, that is, whole unrolls.

    Returns:
      [num_minibatches, n * steps // num_minibatches] positions in [steps, n], flattened.
    """
    block = num_envs // num_blocks(num_envs, num_minibatches, steps)
    local_blocks = index.shape[0] // block
    keys = fold_keys(key, index.reshape(local_blocks, block)[:, 0])
    order = jax.vmap(lambda k: jax.random.permutation(k, steps * block))(keys)
    time, column = order // block, order % block + block * jnp.arange(local_blocks)[:, None]
    order = time * index.shape[0] + column
    order = order.reshape(local_blocks, num_minibatches, -1).swapaxes(0, 1)
    return order.reshape(num_minibatches, -1)


def take_unrolls(tree: Any, chosen: jax.Array) -> Any:
    """Returns the environments `chosen` [B] of leaves [T, N, ...], as [T, B, ...]."""
    return jax.tree.map(lambda x: jnp.take(x, chosen, 1), tree)


def take_steps(tree: Any, chosen: jax.Array) -> Any:
    """Returns the steps `chosen` [B] of leaves [T, N, ...], as [1, B, ...].

    `chosen` are positions in [T, N], flattened.
    """
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    return jax.tree.map(lambda x: jnp.take(flat(x), chosen, 0)[None], tree)


def step_ids(index: jax.Array, steps: int) -> jax.Array:
    """Returns global numbers of all steps of environments `index` [n], as [steps * n]."""
    return (index * steps + jnp.arange(steps)[:, None]).ravel()


def env_axis(state: Any) -> Any:
    """Which axis of each leaf of an on-policy state runs over environments; -1: none."""
    none = jax.tree.map(lambda _: -1, state)
    every = lambda tree: jax.tree.map(lambda _: 0, tree)
    env, carry, discounted = map(every, (state.env, state.carry, state.discounted))
    return none.replace(env=env.replace(key=-1, time=-1), carry=carry, discounted=discounted)
