"""Evaluation inside the program: whole episodes, counted once, nothing broken leaks in."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from envs.types import Env, acting_key
from envs.vector import all_finite
from jaxrl.types import Policy

DEFAULT_MAX_STEPS = 1000  # for an environment without a time limit


def episode_limit(env: Env) -> int:
    """Steps until the longest episode of `env` is cut."""
    return getattr(env, "limit", DEFAULT_MAX_STEPS)


def evaluate(
    env: Env,
    policy: Policy,
    keys: jax.Array,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> dict[str, jax.Array]:
    """Runs one episode per key, all at once, until the last has ended.

    Args:
      env, policy: for one instance each.
      keys: [episodes]; an episode depends on its own key only.
      deterministic: act by the mode of the policy.
      max_steps: cut episodes here; by default the time limit of `env`, or 1000.

    Returns:
      arrays [episodes]: `return`, `length`, `terminated`, `nonfinite` (the simulation
      broke; the return counts what came before), and the task's metrics: `reward_*`
      summed over the episode, others as they were at its last step. Where the task measures
      `success`, `success` is 1 if any step of the episode succeeded, and `success_at_end` is
      that of its last step. `Dataset` counts success in the same way.
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
    """`evaluate` for policies [runs] on the same episodes; arrays [runs, episodes].

    A `vmap` of `evaluate` gives the same, but JAX takes long to batch a loop.
    """
    max_steps = max_steps or episode_limit(env)
    leaves = jax.tree.leaves(policies)
    shape = (leaves[0].shape[0] if leaves else 1, keys.shape[0])
    of_runs = lambda x: jnp.broadcast_to(x, (shape[0], *x.shape))
    k_act = jax.vmap(lambda key: acting_key(env, key))(keys)
    state = jax.tree.map(of_runs, jax.vmap(env.reset)(keys))
    carry = jax.vmap(jax.vmap(lambda _: policies.init_carry()))(jnp.zeros(shape))
    totals = {
        "return": jnp.zeros(shape),
        "length": jnp.zeros(shape, jnp.int32),
        "terminated": jnp.zeros(shape, bool),
        "nonfinite": jnp.zeros(shape, bool),
        **jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), state.metrics),
    }
    if "success" in totals:
        totals["success_at_end"] = jnp.zeros(shape)

    def one_step(policy, key, carry, state):
        action, carry = policy.act(carry, state.obs, key, deterministic)
        new = env.step(state, action)
        return carry, new, all_finite((new.data, new.obs, new.reward))

    step = jax.vmap(one_step, (None, 0, 0, 0))
    step = jax.vmap(step, (0, None, 0, 0), axis_size=shape[0])

    def running(loop):
        t, alive, *_ = loop
        return (t < max_steps) & alive.any()

    def body(loop):
        t, alive, state, carry, totals = loop
        keys = jax.vmap(jax.random.fold_in, (0, None))(k_act, t)
        carry, new, finite = step(policies, keys, carry, state)
        counts = alive & finite

        def total(name, old):
            if name == "return":
                return old + jnp.where(counts, new.reward, 0.0)
            if name == "length":
                return old + counts
            if name == "terminated":
                return old | (counts & new.terminated)
            if name == "nonfinite":
                return old | (alive & ~finite)
            source = "success" if name == "success_at_end" else name
            x = new.metrics[source].astype(jnp.float32)
            if name == "success":
                x = jnp.maximum(old, x)
            return jnp.where(counts, old + x if name.startswith("reward_") else x, old)

        totals = {name: total(name, old) for name, old in totals.items()}
        # A finished episode stands still, so that nothing it does can be NaN later.
        keep = lambda old, new: jnp.where(counts.reshape(shape + (1,) * (new.ndim - 2)), new, old)
        state = jax.tree.map(keep, state, new)
        return t + 1, counts & ~new.terminated & ~new.truncated, state, carry, totals

    loop = (jnp.zeros((), jnp.int32), jnp.ones(shape, bool), state, carry, totals)
    return jax.lax.while_loop(running, body, loop)[-1]


def summarize(episodes: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Means over the last axis, and the spread of the return as `return_std`."""
    means = {k: v.astype(jnp.float32).mean(-1) for k, v in episodes.items()}
    return means | {"return_std": episodes["return"].std(-1)}
