"""Re-ranks the samples of a frozen policy by a value: best-of-N, V-GPS.

V-GPS (Nakamoto et al. 2024, arXiv:2410.13816, "Steering Your Generalists") draws N actions from any
policy and carries out one of them with probability proportional to exp(Q / temperature). Q is
learned offline, by Cal-QL or IQL. The authors' critic values single actions and takes the
minimum of its target critics (jaxrl_m/agents/continuous/cql.py). Theirs sees images and language;
ours sees what its learner saw.

    value = critic_value(env, cal_ql_config, cal_ql_state)
    steered = best_of_n(policy, value, n=10, temperature=1.0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Real, Whole
from jaxrl.loops.algorithm import Updates, flatten
from jaxrl.nn import spaces
from jaxrl.nn.layers import Ensemble
from jaxrl.policies import improve
from jaxrl.types import Policy


@struct.dataclass
class Value:
    """How good candidates are in ONE state. `params` holds everything learned, as in a `Policy`.

    `apply(params, obs, candidates [N, ...]) -> [N]`, with actions in the environment's units.
    """

    params: Any
    apply: Callable[[Any, Any, jax.Array], jax.Array] = struct.field(pytree_node=False)


def best_of_n(
    policy: Policy,
    value: Value,
    n: int,
    temperature: float = 0.0,
    plan: Callable[[Any, Any, jax.Array], jax.Array] | None = None,
) -> Policy:
    """Returns `policy` with a choice among `n` of its samples at every step.

    All samples start from the same carry, and the carry of the chosen one goes on. A policy that
    carries out a plan open loop draws a new one only when the old one is used up. Between, its
    samples are the same, so the choice is made at replan time only.

    Args:
      policy: any policy, frozen. It samples, also where it is asked to be deterministic. With
        `n=1` it is the policy itself that samples, bit for bit.
      value: of what `plan` returns.
      n: candidates, at least 1.
      temperature: 0: the best one. Above: drawn by a softmax of value / temperature.
      plan: `(policy.params, carry, action) -> candidate`, what is valued of a sample: its action
        and the carry after it. None: the action. See `jaxrl.policies.chunks.planned`.

    Raises:
      ValueError: `n` below 1, a temperature below 0.
    """
    Whole(1).check("n", n)
    Real(0.0).check("temperature", temperature)
    draw = policy.apply

    def one(params, carry, obs, key, deterministic):
        return draw(params["policy"], carry, obs, key, False)

    def best(params, carry, obs, key, deterministic):
        k_samples, k_choice = jax.random.split(key)
        sample = lambda key: draw(params["policy"], carry, obs, key, False)
        actions, carries = jax.vmap(sample)(jax.random.split(k_samples, n))
        seen = obs.obs if policy.sees_state else obs
        candidates = actions
        if plan is not None:
            candidates = jax.vmap(plan, (None, 0, 0))(params["policy"], carries, actions)
        values = lambda x: value.apply(params["value"], seen, x)
        ranked = improve.values_of(values, candidates)
        chosen = improve.drawn(ranked, params["temperature"], k_choice)
        return jax.tree.map(lambda x: x[chosen], (actions, carries))

    params = {
        "policy": policy.params,
        "value": value.params,
        "temperature": jnp.asarray(temperature, jnp.float32),
    }
    return Policy(params, policy.init_carry, one if n == 1 else best, policy.sees_state)


def critic_value(env: Env, config: Updates, state: Any) -> Value:
    """Returns the least target critic of an off-policy or offline learner as a `Value`.

    Args:
      env: of the learner.
      config: the learner's, with `critic_hidden`, `activation`, `layer_norm`.
      state: of ONE run, with `agent.critic` and `obs_moments`: SAC's, IQL's or Cal-QL's. A critic of
        chunks of actions (`loops.chunked.in_chunks`) values chunks [N, h, ...].
    """
    size = jax.tree.leaves(state.agent.critic.target)[0].shape[0]
    critic = Ensemble(size, config.critic_hidden, 1, config.activation, config.layer_norm)
    actions = spaces.actions(env.action_space)

    def apply(params, obs, candidates):
        critics, moments = params
        batched = jax.tree.map(lambda x: x[None], obs)
        seen = flatten(config, moments, batched, 1).critic
        flat = actions.from_env(candidates).reshape(len(candidates), -1)  # [N, A], [N, h * A]
        seen = jnp.broadcast_to(seen, (len(flat), seen.shape[-1]))
        return critic.apply(critics, jnp.concatenate([seen, flat], -1))[..., 0].min(0)

    return Value((state.agent.critic.target, state.obs_moments), apply)
