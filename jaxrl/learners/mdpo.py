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
from jaxrl import checks, off_policy, optim
from jaxrl.learners import sac
from jaxrl.off_policy import Algorithm, Batch
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

    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        _, keys = off_policy.split_each(batch.key)
        alpha = jnp.exp(agent.log_alpha)
        fresh = agent.age >= hp.refresh_every
        old = jax.tree.map(
            lambda new, old: jnp.where(fresh, new, old), agent.actor, agent.old_actor
        )
        old_dist = nets.distribution(old, batch.actor_obs)

        def loss_fn(params):
            dist = nets.distribution(params, batch.actor_obs)
            raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
            log_prob = dist.log_prob(raw)
            q = nets.values(agent.critic, batch.critic_obs, dist.squash(raw))[..., 0]
            q = q.min(0) if c.actor_q == "min" else q.mean(0)
            kl = dist.kl(old_dist)  # tanh changes nothing in a KL
            loss = batch.mean(alpha * log_prob + hp.kl_coef * kl - q)
            return loss, (batch.mean(-log_prob), {"actor_loss": loss, "kl": batch.mean(kl)})

        grads, (entropy, metrics) = jax.grad(loss_fn, has_aux=True)(agent.actor)
        params, opt = optim.adam(agent.actor, psum(grads), agent.actor_opt, hp.actor_lr)
        age = jnp.where(fresh, 0.0, agent.age) + 1.0
        agent = agent.replace(actor=params, actor_opt=opt, old_actor=old, age=age)
        agent, more = sac.step_temperature(agent, batch, entropy, action_size, psum, hp)
        return agent, metrics | more | {"entropy": entropy}

    return Algorithm(
        init=init,
        update_critic=sac.critic_update(nets, c, psum),
        update_actor=update_actor,
        acting_params=lambda agent: agent.actor,
        act=nets.act,
        explore=lambda agent, obs, noise, key, hp: nets.act(agent.actor, obs, key, False),
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """Off-policy MDPO on `env`; see `jaxrl.learners.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, validate, prior)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    sac.validate(config)
    checks.in_range(config, 0.0, math.inf, "kl_coef", "refresh_every")
