"""Off-policy mirror-descent policy optimisation (Tomar et al. 2022).

SAC whose actor is also held near the policy it was some updates ago. The on-policy form is
`jaxrl/learners/on_policy/mdpo.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Duration, NonNegative, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs
from jaxrl.nn import spaces
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings, and the proximal step's."""

    kl_coef: NonNegative = 0.2  # weight of KL(policy || old policy), 1 / t_k of the paper
    refresh_every: Duration = 1000.0  # actor updates until the old policy is renewed


@struct.dataclass
class Agent(sac.Agent):
    old_actor: Any
    age: jax.Array  # [] actor updates since `old_actor` was the current one


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SAC's critics, and an actor with the proximal term."""
    size = actions.continuous()
    nets = sac.networks(config, size)

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        agent = nets.init(key, obs, config)
        return Agent(**vars(agent), old_actor=agent.actor.params, age=jnp.zeros(()))

    def kl(params: Any, agent: Agent, batch: Batch) -> jax.Array:
        """KL(policy || old policy), which tanh does not change. [B]"""
        old = nets.distribution(agent.old_actor, batch.obs)
        return nets.distribution(params, batch.obs).kl(old)

    penalty = lambda params, agent, batch, config: config.kl_coef * kl(params, agent, batch)
    improve = sac.actor_update(nets, size, penalty)

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        fresh = agent.age >= config.refresh_every
        renew = lambda new, old: jnp.where(fresh, new, old)
        old = jax.tree.map(renew, agent.actor.params, agent.old_actor)
        agent = agent.replace(old_actor=old, age=jnp.where(fresh, 0.0, agent.age) + 1.0)
        moved, metrics = improve(agent, batch, config)
        return moved, metrics | {"kl": batch.mean(kl(agent.actor.params, agent, batch))}

    update = Delayed(sac.critic_update(nets), update_actor)
    return Algorithm(init=init, update=update, act=nets.act)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """Off-policy MDPO on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
