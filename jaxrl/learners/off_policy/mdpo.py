"""Off-policy mirror-descent policy optimisation (Tomar et al. 2022): SAC whose actor is also held
near the policy it was some updates ago. (The on-policy form is `ppo.Config(objective="mdpo")`.)
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl import checks
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.types import Learner, Metrics


@struct.dataclass
class Config(sac.Config):
    """SAC's settings, and the proximal step's."""

    kl_coef: float = 0.2  # weight of KL(policy || old policy), 1 / t_k of the paper
    refresh_every: float = 1000.0  # actor updates after which the old policy is the current one


@struct.dataclass
class Agent(sac.Agent):
    old_actor: Any
    age: jax.Array  # [] actor updates since `old_actor` was the current one


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    nets = sac.networks(c, action_size)

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        agent = nets.init(key, actor_obs, critic_obs, hp)
        return Agent(**vars(agent), old_actor=agent.actor, age=jnp.zeros(()))

    def kl(params, agent: Agent, batch: Batch) -> jax.Array:
        """KL(policy || old policy), which tanh does not change. [B]"""
        old = nets.distribution(agent.old_actor, batch.actor_obs)
        return nets.distribution(params, batch.actor_obs).kl(old)

    penalty = lambda params, agent, batch, hp: hp.kl_coef * kl(params, agent, batch)
    improve = sac.actor_update(nets, c, action_size, psum, penalty)

    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        fresh = agent.age >= hp.refresh_every
        old = jax.tree.map(
            lambda new, old: jnp.where(fresh, new, old), agent.actor, agent.old_actor
        )
        agent = agent.replace(old_actor=old, age=jnp.where(fresh, 0.0, agent.age) + 1.0)
        moved, metrics = improve(agent, batch, hp)
        return moved, metrics | {"kl": batch.mean(kl(agent.actor, agent, batch))}

    return Algorithm(
        init=init,
        update_critic=sac.critic_update(nets, c, psum),
        update_actor=update_actor,
        act=nets.act,
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """Off-policy MDPO on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, validate, prior)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    sac.validate(config)
    checks.in_range(config, 0.0, math.inf, "kl_coef", "refresh_every")
    checks.finite(config, "kl_coef")
