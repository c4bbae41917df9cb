"""Soft actor-critic for discrete actions (Christodoulou 2019).

The critics give a value to every action, so that expectations over the policy are sums and not
samples. Everything else is `sac`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from envs.types import Env
from jaxrl.config import Share, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs
from jaxrl.nn import spaces
from jaxrl.nn.distributions import Categorical
from jaxrl.nn.layers import MLP
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings, with the target entropy relative to the largest."""

    target_entropy: Share = 0.98  # times log n, the entropy of n equally likely actions


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SAC's losses as sums over the actions."""
    n = actions.integers()
    actor = MLP(config.actor_hidden, n, config.activation, config.actor_out_scale)
    critic = sac.critics(config, n)

    def init(key: jax.Array, obs: Obs, config: Config) -> sac.Agent:
        k_actor, k_critic = jax.random.split(key)
        params = actor.init(k_actor, obs.actor), critic.init(k_critic, obs.critic)
        return sac.new_agent(*params, config)

    def log_policy(params: Any, obs: Obs) -> jax.Array:
        return jax.nn.log_softmax(actor.apply(params, obs.actor))  # [B, n]

    def td_target(agent: sac.Agent, batch: Batch, config: Config) -> jax.Array:
        """r + gamma sum_a pi(a) (min over target critics of Q(a) - alpha log pi(a)). [B]"""
        log_prob = log_policy(agent.actor.params, batch.next_obs)
        q = critic.apply(agent.critic.target, batch.next_obs.critic)  # [critics, B, n]
        value = q[sac.target_set(config, batch.shared_key)].min(0)
        if config.backup_entropy:
            value -= jnp.exp(agent.log_alpha.params) * log_prob
        return batch.reward + batch.discount * (jnp.exp(log_prob) * value).sum(-1)

    def update_critic(agent: sac.Agent, batch: Batch, config: Config) -> tuple[sac.Agent, Means]:
        target = td_target(agent, batch, config)

        def loss_fn(params):
            every = critic.apply(params, batch.obs.critic)
            q = jnp.take_along_axis(every, batch.action[None, :, None], -1)[..., 0]
            loss = 0.5 * batch.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        new = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=new), metrics

    def update_actor(agent: sac.Agent, batch: Batch, config: Config) -> tuple[sac.Agent, Means]:
        q = sac.actor_value(config, critic.apply(agent.critic.params, batch.obs.critic))
        alpha = jnp.exp(agent.log_alpha.params)

        def loss_fn(params):
            log_prob = log_policy(params, batch.obs)
            prob = jnp.exp(log_prob)
            loss = batch.mean((prob * (alpha * log_prob - q)).sum(-1))
            return loss, (batch.mean(-(prob * log_prob).sum(-1)), {"actor_loss": loss})

        grads, (entropy, metrics) = batch.grad(loss_fn, agent.actor.params)
        agent, more = sac.step_actor(agent, grads, batch, entropy, math.log(n), config)
        return agent, metrics | more

    def act(params: Any, memory, obs: Obs, key, deterministic):
        policy = Categorical(actor.apply(params, obs.actor))
        return policy.mode() if deterministic else policy.sample(key), memory

    return Algorithm(init=init, update=Delayed(update_critic, update_actor), act=act)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """Discrete SAC on `env`.

    Args:
      env: one environment instance with discrete actions.
      config: see `Config`.
      prior: as for `jaxrl.learners.off_policy.sac.make`.

    Raises:
      ValueError: a field out of range, continuous actions, a prior that does not fit.
    """
    return off_policy.online(env, config, algorithm, prior)
