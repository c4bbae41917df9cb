"""The one runner of whole episodes. Evaluations, recordings and films are views of it.

`run` plays every episode until the last has ended. A `View` selects what is kept of each step:
`evaluate` keeps totals, `jaxrl.data.recording.record` keeps transitions, `film` keeps states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.types import (
    Env,
    State,
    acting_key,
    check_instance,
    is_sound,
    summed,
    team_reward,
)
from envs.xla import seldom
from jaxrl.types import Policy

DEFAULT_MAX_STEPS = 1000  # for an environment without a time limit


def episode_limit(env: Env) -> int:
    """Returns the number of steps after which an episode of `env` is cut."""
    return getattr(env, "limit", DEFAULT_MAX_STEPS)


# --- The runner ---


@struct.dataclass
class Step:
    """One step of every episode, leaves [..., episodes, ...]."""

    before: State
    action: jax.Array
    after: State
    alive: jax.Array  # bool: the episode had not ended before
    finite: jax.Array  # bool: the simulation did not break in this step

    @property
    def counts(self) -> jax.Array:
        """Whether the step is part of its episode."""
        return self.alive & self.finite


@dataclass(frozen=True)
class View:
    """A fold over the steps of episodes, which returns what is kept of them.

    `begin(first, like) -> kept` takes the first `State` and the shapes of a `Step`.
    `see(kept, time, step) -> kept` takes every step; `time` counts from 0. With `freezes` a
    finished or broken episode stands still, so it cannot produce NaN later. A view that drops the
    steps after the end does not need that.
    """

    begin: Callable[[State, Step], Any]
    see: Callable[[Any, jax.Array, Step], Any]
    freezes: bool = True


def run(
    env: Env,
    policy: Policy,
    keys: jax.Array,
    view: View,
    deterministic: bool = True,
    max_steps: int | None = None,
    num_policies: int | None = None,
) -> Any:
    """Runs one episode per key, all at once, until the last has ended; returns what `view` kept.

    An episode depends on its own key only.

    Args:
      env: one instance.
      policy: for one instance; with `num_policies` its leaves have that leading axis, and every
        policy plays the same episodes.
      keys: [episodes].
      view: see `View`. It sees leaves [episodes, ...], or [num_policies, episodes, ...].
      deterministic: act by the mode of the policy.
      max_steps: cut episodes here; by default the time limit of `env`, or 1000.
      num_policies: how many policies; None: a single one without the axis.
    """
    check_instance(env)
    max_steps = max_steps or episode_limit(env)
    keys = jax.random.clone(keys)  # the caller may run the same episodes again
    several = num_policies is not None
    shape = (num_policies, keys.shape[0]) if several else (keys.shape[0],)
    k_act = jax.vmap(lambda key: acting_key(env, key))(keys)
    state = jax.vmap(env.reset)(keys)
    if several:
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_policies, *x.shape)), state)
    start = lambda _: policy.init_carry()
    for _ in shape:
        start = jax.vmap(start)
    carry = start(jnp.zeros(shape))

    def one_step(policy, key, carry, state):
        action, carry = policy.act(carry, policy.view(state), key, deterministic)
        new = env.step(state, action)
        return carry, action, new, is_sound(env, new)

    step = jax.vmap(one_step, (None, 0, 0, 0))
    if several:
        step = jax.vmap(step, (0, None, 0, 0), axis_size=num_policies)

    def advance(t, alive, state, carry):
        keys = jax.vmap(jax.random.fold_in, (0, None))(k_act, t)
        carry, action, new, finite = step(policy, keys, carry, state)
        return carry, Step(state, action, new, alive, finite)

    def running(loop):
        t, alive, *_ = loop
        return (t < max_steps) & alive.any()

    def body(loop):
        t, alive, state, carry, kept = loop
        carry, now = advance(t, alive, state, carry)
        kept = view.see(kept, t, now)
        counts, new = now.counts, now.after
        state = _where(counts, new, state) if view.freezes else new
        return t + 1, counts & ~new.terminated & ~new.truncated, state, carry, kept

    t, alive = jnp.zeros((), jnp.int32), jnp.ones(shape, bool)
    like = jax.eval_shape(advance, t, alive, state, carry)[1]
    loop = (t, alive, state, carry, view.begin(state, like))
    return jax.lax.while_loop(running, body, loop)[-1]


def history(like: Any, length: int) -> Any:
    """Returns zeros [length, ...] for a view that keeps steps. `put` fills them."""
    return jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), like)


def put(history: Any, time: jax.Array, now: Any) -> Any:
    """Returns `history` with `now` at index `time` of its first axis."""
    return jax.tree.map(lambda all, x: all.at[time].set(x), history, now)


# --- Evaluation ---


def evaluate(
    env: Env,
    policy: Policy,
    keys: jax.Array,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> dict[str, jax.Array]:
    """Runs one episode per key and measures it.

    Args:
      env, policy: for one instance each.
      keys: [episodes]; an episode depends on its own key only.
      deterministic: act by the mode of the policy.
      max_steps: cut episodes here; by default the time limit of `env`, or 1000.

    Returns:
      arrays [episodes]: `return`, `length`, `terminated`, `nonfinite` (the simulation
      broke; the return and the metrics are undefined then: NaN), and the task's metrics: `reward_*`
      summed over the episode, others as they were at its last step. Where the task measures
      `success`, `success` is 1 if any step of the episode succeeded, and `success_at_end` is
      that of its last step. `Dataset` counts success in the same way. Signals are summed over
      the episode: `signal_NAME`, or `signal_NAME_i` for every entry of a vector.
    """
    policies = jax.tree.map(lambda x: jnp.asarray(x)[None], policy)
    episodes = evaluate_runs(env, policies, keys, deterministic, max_steps)
    return jax.tree.map(lambda x: x[0], episodes)


def evaluate_runs(
    env: Env,
    policies: Policy,
    keys: jax.Array,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> dict[str, jax.Array]:
    """Runs `evaluate` for policies [runs] on the same episodes. Returns arrays [runs, episodes].

    A `vmap` of `evaluate` returns the same, but JAX takes long to batch a loop.
    """
    leaves = jax.tree.leaves(policies)
    num_policies = leaves[0].shape[0] if leaves else 1
    totals, sums = run(env, policies, keys, TOTALS, deterministic, max_steps, num_policies)
    undefined = lambda name, x: x if name in COUNTED else jnp.where(totals["nonfinite"], jnp.nan, x)
    return {name: undefined(name, x) for name, x in (totals | signal_totals(sums, 2)).items()}


def signal_totals(sums: dict[str, jax.Array], batch_ndim: int) -> dict[str, jax.Array]:
    """Returns signals that were summed over episodes, by their reported names.

    Args:
      sums: [*B, ...] by the signal's name, with `batch_ndim` batch axes.

    Returns:
      [*B] as `signal_NAME`, or as `signal_NAME_i` for entry i of a vector.
    """
    out = {}
    for name, x in sums.items():
        if x.ndim == batch_ndim:
            out[f"signal_{name}"] = x
            continue
        flat = x.reshape(*x.shape[:batch_ndim], -1)
        out |= {f"signal_{name}_{i}": flat[..., i] for i in range(flat.shape[-1])}
    return out


# Metrics by name, and signals by name. [...]
Totals = tuple[dict[str, jax.Array], dict[str, jax.Array]]


def _no_totals(first: State, like: Step) -> Totals:
    shape = like.alive.shape
    totals = {
        "return": jnp.zeros(shape),
        "length": jnp.zeros(shape, jnp.int32),
        "terminated": jnp.zeros(shape, bool),
        "nonfinite": jnp.zeros(shape, bool),
        **jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), first.metrics),
    }
    if "success" in totals:
        totals["success_at_end"] = jnp.zeros(shape)
    return totals, jax.tree.map(jnp.zeros_like, summed(first.signals))


def _add(kept: Totals, time: jax.Array, step: Step) -> Totals:
    totals, sums = kept
    counts, new = step.counts, step.after

    def total(name, old):
        if name == "return":
            return old + jnp.where(counts, team_reward(new.reward, counts.ndim), 0.0)
        if name == "length":
            return old + counts
        if name == "terminated":
            return old | (counts & new.terminated)
        if name == "nonfinite":
            return old | (step.alive & ~step.finite)
        source = "success" if name == "success_at_end" else name
        x = new.metrics[source].astype(jnp.float32)
        if name == "success":
            x = jnp.maximum(old, x)
        return jnp.where(counts, old + x if name.startswith("reward_") else x, old)

    more = jax.tree.map(jnp.add, sums, summed(new.signals))
    return {name: total(name, old) for name, old in totals.items()}, _where(counts, more, sums)


TOTALS = View(_no_totals, _add)


COUNTED = ("length", "terminated", "nonfinite")  # defined for broken episodes, too


def summarize(episodes: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Means over the last axis, and the spread of the return as `return_std`.

    A broken episode counts in `COUNTED` alone. Where all broke, the other means are NaN.
    """
    means = {k: _mean(v.astype(jnp.float32)) for k, v in episodes.items()}
    if "return" not in episodes:
        return means
    total = episodes["return"]
    spread = jnp.where(jnp.isnan(total).any(-1), jnp.nanstd(total, -1), total.std(-1))
    return means | {"return_std": spread}


def _mean(x: jax.Array) -> jax.Array:
    """Over the entries of the last axis that are not NaN."""
    return jnp.where(jnp.isnan(x).any(-1), jnp.nanmean(x, -1), x.mean(-1))


# --- Film ---


def film(
    env: Env,
    policy: Policy,
    key: jax.Array,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> tuple[State, int]:
    """Returns the states of the episode that `evaluate` runs for `key`, on the host, and its length.

    States are [1 + max_steps, ...], from the reset on. States after the end of the episode repeat
    the first state.
    """
    limit = max_steps or episode_limit(env)

    def begin(first: State, like: Step) -> tuple[jax.Array, State]:
        states = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (1 + limit, *x.shape[1:])), first)
        return jnp.zeros((), jnp.int32), states

    def see(kept, time, step):
        length, states = kept
        counts = step.counts[0]
        now = jax.tree.map(lambda x: x[0], _where(step.counts, step.after, step.before))
        return length + counts, put(states, jnp.where(counts, time + 1, 1 + limit), now)

    play = lambda policy, key: run(
        env, policy, key[None], View(begin, see), deterministic, max_steps
    )
    length, states = jax.jit(play, compiler_options=seldom())(policy, key)
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), states), int(length)


def _where(mask: jax.Array, new: Any, old: Any) -> Any:
    """Chooses whole episodes: mask [...], leaves [..., ...]."""
    wide = lambda x: mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return jax.tree.map(lambda a, b: jnp.where(wide(a), a, b), new, old)
