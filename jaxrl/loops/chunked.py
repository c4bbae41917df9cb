"""A method of single actions as one of chunks: its action is `horizon` actions in a row.

    offline.learner(env, config, in_chunks(cal_ql.algorithm, 4), dataset)  # critics of chunks
    off_policy.online(env, config, in_chunks(sac.algorithm, 5), prior)  # RLPD-AC of Q-chunking

Q-chunking (Li et al. 2025, arXiv:2507.07969) has the reasons: the return over a chunk that is
carried out whole needs no correction, and exploration lasts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.config import Whole
from jaxrl.loops.algorithm import Algorithm, Build, Cut, Updates, n_step
from jaxrl.nn import spaces
from jaxrl.ops import windows
from jaxrl.ops.windows import Window


@struct.dataclass
class Plan:
    """What acting remembers."""

    actions: jax.Array  # [horizon, A]
    age: jax.Array  # [] int32, how many of them were carried out
    memory: Any  # the method's own, as it was when the plan was made


def in_chunks(build: Build, horizon: int) -> Build:
    """Returns the method of chunks of `horizon` actions; with 1 it is `build` itself.

    The method sees vectors of `horizon` times the size of an action. A chunk is carried out to its
    end, or to that of the episode. Steps are counted, and random first steps drawn, one by one.

    A sample begins at any step. Its return is over the chunk. A chunk that a termination cuts short
    counts, because its value is known; the last action stands for those that were not carried
    out. A chunk that a clock cuts short is left out of every loss.

    Raises:
      ValueError: `horizon` below 1, `n_step` above 1, or discrete actions (when it is built).
    """
    Whole(1).check("horizon", horizon)
    return (
        build if horizon == 1 else lambda config, actions: _chunked(build, horizon, config, actions)
    )


def _chunked(build: Build, horizon: int, config: Updates, actions: spaces.Actions) -> Algorithm:
    if getattr(config, "n_step", 1) != 1:
        raise ValueError(
            f"n_step={config.n_step}: must be 1, as a chunk of {horizon} actions is it"
        )
    size = actions.continuous()
    own = build(config, dataclasses.replace(actions, size=horizon * size))
    cut = own.cut or n_step(1)

    def make(window: Window, config: Updates) -> windows.Batch:
        sample = cut.make(window, config)
        last = jnp.maximum(window.alive.sum(0) - 1, 0)  # [B]
        taken = jnp.minimum(jnp.arange(horizon)[:, None], last)  # [horizon, B]
        action = jnp.take_along_axis(window.steps.action, taken[..., None], 0)
        known = window.alive.all(0) | (sample.discount == 0.0)
        return sample.replace(
            action=jnp.moveaxis(action, 0, 1).reshape(len(last), horizon * size),
            weight=sample.weight * known,
        )

    def memory(key: jax.Array, config: Updates) -> Plan:
        nothing = jnp.zeros((horizon, size)), jnp.asarray(horizon, jnp.int32)
        return Plan(*nothing, own.memory(key, config))

    def by_plan(decide: Any) -> Any:
        def act(params, plan: Plan, obs, key, *rest):
            flat, after = decide(params, plan.memory, obs, key, *rest)
            over = plan.age >= horizon
            new = Plan(flat.reshape(horizon, size), jnp.zeros_like(plan.age), after)
            plan = jax.tree.map(lambda new, old: jnp.where(over, new, old), new, plan)
            return plan.actions[plan.age], plan.replace(age=plan.age + 1)

        return act

    return dataclasses.replace(
        own,
        act=by_plan(own.act),
        explore=own.explore and by_plan(own.explore),
        memory=memory,
        cut=Cut(horizon, make),
    )
