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
      summed over the episode, others as they were at its last step.
    """
    max_steps = max_steps or episode_limit(env)
    n = keys.shape[0]
    k_act = jax.vmap(lambda key: acting_key(env, key))(keys)
    state = jax.vmap(env.reset)(keys)
    carry = jax.vmap(lambda _: policy.init_carry())(keys)
    totals = {
        "return": jnp.zeros(n),
        "length": jnp.zeros(n, jnp.int32),
        "terminated": jnp.zeros(n, bool),
        "nonfinite": jnp.zeros(n, bool),
        **jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), state.metrics),
    }

    def running(loop):
        t, alive, *_ = loop
        return (t < max_steps) & alive.any()

    def body(loop):
        t, alive, state, carry, totals = loop
        keys = jax.vmap(jax.random.fold_in, (0, None))(k_act, t)
        act = lambda carry, obs, key: policy.act(carry, obs, key, deterministic)
        action, carry = jax.vmap(act)(carry, state.obs, keys)
        new = jax.vmap(env.step)(state, action)
        finite = jax.vmap(all_finite)((new.data, new.obs, new.reward))
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
            x = new.metrics[name].astype(jnp.float32)
            return jnp.where(counts, old + x if name.startswith("reward_") else x, old)

        totals = {name: total(name, old) for name, old in totals.items()}
        # A finished episode stands still, so that nothing it does can be NaN later.
        keep = lambda old, new: jnp.where(
            counts.reshape(counts.shape + (1,) * (new.ndim - 1)), new, old
        )
        state = jax.tree.map(keep, state, new)
        return t + 1, counts & ~new.terminated & ~new.truncated, state, carry, totals

    loop = (jnp.zeros((), jnp.int32), jnp.ones(n, bool), state, carry, totals)
    return jax.lax.while_loop(running, body, loop)[-1]


def summarize(episodes: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Means over the last axis, and the spread of the return as `return_std`."""
    means = {k: v.astype(jnp.float32).mean(-1) for k, v in episodes.items()}
    return means | {"return_std": episodes["return"].std(-1)}
