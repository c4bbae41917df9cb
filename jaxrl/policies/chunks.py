"""Executes chunks of actions: open loop, receding horizon, temporal ensembles, streaming.

The plan is part of the policy's carry, so every episode begins with a new plan. A plan costs many
network evaluations and is needed every few steps only. Under `vmap` every environment would plan
at every step. `_plan_where_needed` plans for those environments that need a new plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from envs.types import Box
from jaxrl.nn import spaces as acting
from jaxrl.nn.heads import Head

ACTING = ("open_loop", "ensemble", "streaming")
ENSEMBLE_DECAY = 0.1  # weight exp(-decay * i) of the i-th oldest plan (Zhao et al. 2023, ACT)


def chunked(
    head: Head,
    space: Box,
    obs_size: int,
    *,
    obs_keys: tuple[str, ...],
    history: int,
    horizon: int,
    execute: int,
    mode: str,
    see: Callable[[Any, Any], jax.Array] | None = None,
) -> tuple[Callable[[], Any], Callable[..., tuple[jax.Array, Any]]]:
    """Returns `init_carry` and `apply` of a `Policy` that plans with `head`.

    Its params are `{"net", "obs": Moments, "action": Scale}`.

    Args:
      space: the environment's action space, bounded.
      obs_size: entries of one flat observation.
      history, horizon: how many observations a plan sees, and how many actions it holds.
      mode: "open_loop": execute `execute` actions, then make a new plan (1: receding horizon).
        "ensemble": plan at every step. The action is the weighted mean of what all plans hold for
        this step.
        "streaming": keep a plan whose later actions are noisier. Every step denoises it by one
        network evaluation, executes its first action and appends noise.
      see: `(params, obs) -> [obs_size]`, what a plan sees of an observation. None: the entries
        `obs_keys`, normalised.
    """
    to_env = acting.to_env(space)
    size = math.prod(space.shape)
    see = see or (lambda params, obs: acting.select(params["obs"].normalize(obs), obs_keys, 0))
    levels = (
        1.0 - (jnp.arange(horizon) + 1.0) / horizon
    )  # levels of the streamed plan between two steps

    def make_plan(params, seen, key, deterministic):
        k_plan, k_noise = jax.random.split(key)
        plan = head.sample(params, seen, k_plan, deterministic)
        if mode == "streaming":
            plan = head.corrupt(plan, jax.random.normal(k_noise, plan.shape), levels)
        return plan

    replan = _plan_where_needed(make_plan, execute if mode == "open_loop" else horizon)

    def init_carry():
        return {
            "begun": jnp.zeros((), bool),
            "seen": jnp.zeros((history, obs_size)),  # oldest first
            "plan": jnp.zeros((horizon, horizon, size) if mode == "ensemble" else (horizon, size)),
            "age": jnp.zeros((), jnp.int32),  # steps taken since the plan (ensemble: the first)
        }

    def apply(params, carry, obs, key, deterministic):
        now = see(params, obs)
        begun, age, plan = carry["begun"], carry["age"], carry["plan"]
        pushed = jnp.concatenate([carry["seen"][1:], now[None]])
        seen = jnp.where(begun, pushed, jnp.broadcast_to(now, pushed.shape))
        if mode == "open_loop":
            needed = ~begun | (age >= execute)
            plan = replan(needed, params["net"], seen, key, deterministic, plan)
            age = jnp.where(needed, 0, age)
            action = plan[age]
        elif mode == "ensemble":  # plan[j] was made j steps ago
            newest = make_plan(params["net"], seen, key, deterministic)
            plan = jnp.concatenate([newest[None], plan[:-1]])
            age = jnp.where(begun, age, 0)
            index = jnp.arange(horizon)
            oldest_first = jnp.minimum(age, horizon - 1) - index
            weight = jnp.where(oldest_first >= 0, jnp.exp(-ENSEMBLE_DECAY * oldest_first), 0.0)
            action = weight @ plan[index, index] / weight.sum()
        else:
            k_plan, k_noise = jax.random.split(key)
            plan = replan(~begun, params["net"], seen, k_plan, deterministic, plan)
            plan = head.refine(params["net"], seen, plan, levels, levels + 1.0 / horizon)
            action = jnp.clip(plan[0], -1.0, 1.0)
            plan = jnp.concatenate([plan[1:], jax.random.normal(k_noise, (1, size))])
        carry = {"begun": jnp.ones((), bool), "seen": seen, "plan": plan, "age": age + 1}
        return to_env(jnp.clip(params["action"].restore(action), -1.0, 1.0)), carry

    return init_carry, apply


def planned(space: Box, execute: int) -> Callable[[Any, Any, jax.Array], jax.Array]:
    """Returns `plan(params, carry, action)`: the first `execute` actions of a policy's plan.

    They are [execute, *shape] in the environment's units. The carry is that after a step of an
    open-loop policy of `chunked`; at replan time its plan is what the policy will carry out.
    """
    to_env = acting.to_env(space)

    def plan(params, carry, action):
        restored = params["action"].restore(carry["plan"][:execute])
        return to_env(jnp.clip(restored, -1.0, 1.0))

    return plan


def evaluations_per_action(head: Head, execute: int, mode: str) -> float:
    """Network evaluations per control step. The first plan of an episode is not counted."""
    return {
        "open_loop": head.evaluations / execute,
        "ensemble": float(head.evaluations),
        "streaming": 1.0,
    }[mode]


def _plan_where_needed(make_plan: Callable[..., jax.Array], every: int) -> Callable[..., jax.Array]:
    """Returns `replan(needed, params, seen, key, deterministic, plan)`: a new plan or the old one.

    Batched over N environments, it plans for all of them at once if more than 2 N / every need a
    plan, as at the start of an episode. Otherwise it loops over groups of that size until every
    environment that needs a plan has one. Each plan equals that of the unbatched function.
    """

    @jax.custom_batching.custom_vmap
    def replan(needed, params, seen, key, deterministic, plan):
        return jnp.where(needed, make_plan(params, seen, key, deterministic), plan)

    @replan.def_vmap
    def rule(n, batched, needed, params, seen, key, deterministic, plan):
        is_batched = [any(jax.tree.leaves(b)) for b in batched]
        spread = lambda x, on: x if on else jnp.broadcast_to(x, (n, *jnp.shape(x)))
        needed, seen, key, deterministic, plan = (
            spread(x, is_batched[i])
            for i, x in ((0, needed), (2, seen), (3, key), (4, deterministic), (5, plan))
        )
        bucket = min(n, -(-2 * n // every))
        axis = jax.tree.map(lambda on: 0 if on else None, batched[1])
        take = lambda rows: jax.tree.map(lambda x, on: x[rows] if on else x, params, batched[1])
        many = jax.vmap(make_plan, (axis, 0, 0, 0))

        def all_of_them(loop):
            needed, plan = loop
            new = many(params, seen, jax.random.clone(key), deterministic)  # of two loops one draws
            return jnp.zeros_like(needed), jnp.where(needed[:, None, None], new, plan)

        def some_of_them(loop):
            needed, plan = loop
            rows = jnp.argsort(~needed)[:bucket]
            drawn = jax.random.clone(key)[rows]  # every turn has other rows
            new = many(take(rows), seen[rows], drawn, deterministic[rows])
            new = jnp.where(needed[rows][:, None, None], new, plan[rows])
            return needed.at[rows].set(False), plan.at[rows].set(new)

        # Loops, because under a second `vmap` (over seeds) a `cond` would become a `select`.
        loop = jax.lax.while_loop(lambda c: c[0].sum() > bucket, all_of_them, (needed, plan))
        loop = jax.lax.while_loop(lambda c: c[0].any(), some_of_them, loop)
        return loop[1], True

    return lambda needed, params, seen, key, deterministic, plan: replan(
        needed, params, seen, key, jnp.asarray(deterministic), plan
    )
