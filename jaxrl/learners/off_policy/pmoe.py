"""PMOE (Ren et al. 2021): SAC with a mixture of experts as its actor.

The experts are squashed Gaussians on a shared trunk. Each climbs its own value by the
reparameterisation trick. The router picks one expert per state; it cannot be reparameterised, so
it learns to name the expert whose action the critics value most.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from envs.types import Env
from jaxrl.config import Count, Fixed, NonNegative, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs
from jaxrl.nn import distributions, spaces
from jaxrl.nn.layers import ACTIVATIONS, Dense, kernel_init
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings, and how many experts share the work."""

    router_coef: NonNegative = 1.0  # weight of the router's loss
    num_experts: Count = 4
    actor_out_scale: Fixed = 0.5  # experts begin apart


class Mixture(nn.Module):
    """obs [B, obs] to the outputs of every expert [B, K, 2A] and the router's logits [B, K]."""

    hidden: tuple[int, ...]
    experts: int
    action_size: int
    activation: str
    out_scale: float

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = obs
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](Dense(width, kernel_init=kernel_init("lecun"))(x))
        size, init = self.experts * 2 * self.action_size, kernel_init("lecun", self.out_scale)
        outputs = Dense(size, kernel_init=init)(x)
        logits = Dense(self.experts, kernel_init=kernel_init("lecun", 0.01))(x)
        return outputs.reshape(*outputs.shape[:-1], self.experts, 2 * self.action_size), logits


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SAC's critics, and the mixture's losses."""
    size = actions.continuous()
    actor = Mixture(
        config.actor_hidden,
        config.num_experts,
        size,
        config.activation,
        config.actor_out_scale,
    )
    critic = sac.critics(config)

    def init(key: jax.Array, obs: Obs, config: Config) -> sac.Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, size))], -1)
        params = actor.init(k_actor, obs.actor), critic.init(k_critic, critic_in)
        return sac.new_agent(*params, config)

    def sample(params, obs: Obs, keys):
        """An action of the expert that the router draws, and that expert's log-probability."""

        def one(outputs, logits, key):
            k_expert, k_action = jax.random.split(key)
            dist = spaces.tanh_normal(outputs[jax.random.categorical(k_expert, logits)])
            raw = dist.sample(k_action)
            return dist.squash(raw), dist.log_prob(raw)

        return jax.vmap(one)(*actor.apply(params, obs.actor), keys)

    def values(params, obs: Obs, action):
        return critic.apply(params, jnp.concatenate([obs.critic, action], -1))

    def act(params, memory, obs: Obs, key, deterministic):
        """Deterministic: the most likely expert's mode."""
        outputs, logits = actor.apply(params, obs.actor)
        k_expert, k_action = jax.random.split(key)
        drawn = jax.random.categorical(k_expert, logits)
        dist = spaces.tanh_normal(outputs[jnp.where(deterministic, jnp.argmax(logits), drawn)])
        return distributions.act(dist, k_action, deterministic), memory

    nets = sac.Networks(init, actor.apply, sample, values, act)

    def update_actor(agent: sac.Agent, batch: Batch, config: Config) -> tuple[sac.Agent, Means]:
        _, keys = batch.key_pair
        alpha = jnp.exp(agent.log_alpha.params)

        def loss_fn(params):
            outputs, logits = actor.apply(params, batch.obs.actor)
            dist = spaces.tanh_normal(outputs)  # [B, K, A]
            raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
            action, log_prob = dist.squash(raw), dist.log_prob(raw)
            flat = lambda x: x.reshape(-1, x.shape[-1])
            repeat = lambda x: flat(jnp.repeat(x[:, None], config.num_experts, 1))
            q = values(agent.critic.params, jax.tree.map(repeat, batch.obs), flat(action))[..., 0]
            q = sac.actor_value(config, q).reshape(log_prob.shape)  # [B, K]
            soft = q - alpha * log_prob
            best = jax.nn.one_hot(jnp.argmax(jax.lax.stop_gradient(q), -1), config.num_experts)
            share = jax.nn.softmax(logits)
            router = batch.mean(((share - best) ** 2).sum(-1))
            # Every expert climbs, so an expert that is never the best still learns.
            loss = -batch.mean(soft.mean(-1)) + config.router_coef * router
            entropy = batch.mean(-(jax.lax.stop_gradient(share) * log_prob).sum(-1))
            return loss, (entropy, {"actor_loss": loss, "router_loss": router})

        grads, (entropy, metrics) = batch.grad(loss_fn, agent.actor.params)
        agent, more = sac.step_actor(agent, grads, batch, entropy, size, config)
        return agent, metrics | more

    update = Delayed(sac.critic_update(nets), update_actor)
    return Algorithm(init=init, update=update, act=act)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """PMOE on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
