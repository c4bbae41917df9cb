"""CrossQ (Bhatt et al. 2024, arXiv 1902.05605): SAC with batch renormalisation and no target critics.

The critics see (s, a) and (s', a') in one batch, so both are normalised by the same statistics.
That makes target networks unnecessary. Actor and critics have a batch renormalisation (Ioffe 2017)
before every layer. By the authors' code the first `warm_up` updates are plain batch normalisation,
Adam has a first decay rate of 0.5, and the next action comes from the actor's running statistics.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs.types import Env
from jaxrl.config import Count, NonNegative, Share, Sizes, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs
from jaxrl.nn import distributions, spaces
from jaxrl.nn.batch_renorm import Normalised, Training, apply_of, ensemble
from jaxrl.ops import optim
from jaxrl.types import Learner, Means

ADAM = optax.scale_by_adam(b1=0.5)


@config
class Config(sac.Config):
    """SAC's settings with the authors' numbers; `tau` and `layer_norm` have no effect."""

    actor_lr: NonNegative = 1e-3
    critic_lr: NonNegative = 1e-3
    alpha_lr: NonNegative = 1e-3
    momentum: Share = 0.99  # of the running statistics
    warm_up: NonNegative = 100_000.0  # updates with the statistics of the batch alone

    policy_delay: Count = 3
    updates_per_step: Count = 3
    critic_hidden: Sizes = (2048, 2048)


@struct.dataclass
class Agent(sac.Agent):
    actor_statistics: Any
    critic_statistics: Any  # leading axis [num_critics]


def training_on(batch: Batch, valid: jax.Array, config: Config) -> Training:
    """How samples are normalised of which those count that are `valid` [B]."""
    return Training(valid.astype(jnp.float32), batch.total, config.momentum, config.warm_up)


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """CrossQ's losses and updates."""
    size = actions.continuous()
    actor_module = Normalised(
        config.actor_hidden, 2 * size, config.activation, config.actor_out_scale
    )
    critic_module = Normalised(config.critic_hidden, 1, config.activation)
    actor, critics = apply_of(actor_module), ensemble(apply_of(critic_module))

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, size))], -1)
        of_actor = actor_module.init(k_actor, obs.actor)
        keys = jax.random.split(k_critic, config.num_critics)
        of_critics = jax.vmap(lambda key: critic_module.init(key, critic_in))(keys)
        return Agent(
            actor=optim.net(of_actor["params"], tx=ADAM),
            critic=optim.net(of_critics["params"], tx=ADAM),
            log_alpha=optim.net(jnp.log(config.init_alpha)),
            actor_statistics=of_actor["statistics"],
            critic_statistics=of_critics["statistics"],
        )

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        keys, _ = batch.key_pair
        out, _ = actor(agent.actor.params, agent.actor_statistics, batch.next_obs.actor)
        next_action, log_prob = distributions.draw(spaces.tanh_normal(out), keys)
        both = lambda now, after: jnp.concatenate([now, after])
        x = jnp.concatenate(
            [both(batch.obs.critic, batch.next_obs.critic), both(batch.action, next_action)], -1
        )
        training = training_on(batch, both(batch.valid, batch.valid), config)
        soft = jnp.exp(agent.log_alpha.params) * log_prob if config.backup_entropy else 0.0

        def loss_fn(params):
            q, statistics = critics(params, agent.critic_statistics, x, training)
            q, next_q = jnp.split(q[..., 0], 2, axis=-1)  # [num_critics, B] each
            next_value = next_q[sac.target_set(config, batch.shared_key)].min(0) - soft
            target = jax.lax.stop_gradient(batch.reward + batch.discount * next_value)
            loss = 0.5 * batch.mean((q - target) ** 2).sum()
            return loss, (statistics, {"critic_loss": loss, "q": batch.mean(q).mean()})

        grads, (statistics, metrics) = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr, tx=ADAM)
        return agent.replace(critic=critic, critic_statistics=statistics), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        _, keys = batch.key_pair
        alpha = jnp.exp(agent.log_alpha.params)
        training = training_on(batch, batch.valid, config)

        def loss_fn(params):
            out, statistics = actor(params, agent.actor_statistics, batch.obs.actor, training)
            action, log_prob = distributions.draw(spaces.tanh_normal(out), keys)
            x = jnp.concatenate([batch.obs.critic, action], -1)
            q, _ = critics(agent.critic.params, agent.critic_statistics, x)
            loss = batch.mean(alpha * log_prob - sac.actor_value(config, q[..., 0]))
            return loss, (statistics, batch.mean(-log_prob), {"actor_loss": loss})

        grads, (statistics, entropy, metrics) = batch.grad(loss_fn, agent.actor.params)
        agent, more = sac.step_actor(agent, grads, batch, entropy, size, config, ADAM)
        return agent.replace(actor_statistics=statistics), metrics | more

    def act(kept, memory, obs: Obs, key, deterministic):
        dist = spaces.tanh_normal(actor(*kept, obs.actor)[0])
        return distributions.act(dist, key, deterministic), memory

    return Algorithm(
        init=init,
        update=Delayed(update_critic, update_actor),
        act=act,
        keeps=lambda agent: (agent.actor.params, agent.actor_statistics),
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """CrossQ on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
