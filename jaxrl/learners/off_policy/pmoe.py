"""PMOE (Ren et al. 2021): SAC with a mixture of experts as its actor.

The experts are squashed Gaussians on a shared trunk. Each climbs its own value by the
reparameterisation trick; the router, which picks one per state, cannot, and learns instead to
name the expert whose action the critics value most.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from envs.types import Env
from jaxrl import checks
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.nn import spaces as acting
from jaxrl.nn.layers import ACTIVATIONS, Dense, Ensemble, hidden_init, last_init
from jaxrl.types import Learner, Metrics


@struct.dataclass
class Config(sac.Config):
    """SAC's settings, and how many experts share the work."""

    router_coef: float = 1.0  # weight of the router's loss
    num_experts: int = struct.field(pytree_node=False, default=4)
    actor_out_scale: float = struct.field(pytree_node=False, default=0.5)  # experts begin apart


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
            x = ACTIVATIONS[self.activation](Dense(width, kernel_init=hidden_init)(x))
        size, init = self.experts * 2 * self.action_size, last_init(self.out_scale)
        outputs = Dense(size, kernel_init=init)(x)
        logits = Dense(self.experts, kernel_init=last_init(0.01))(x)
        return outputs.reshape(*outputs.shape[:-1], self.experts, 2 * self.action_size), logits


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    actor = Mixture(c.actor_hidden, c.num_experts, action_size, c.activation, c.actor_out_scale)
    critic = Ensemble(c.num_critics, c.critic_hidden, 1, c.activation, c.layer_norm)

    def init(key, actor_obs, critic_obs, hp: Config) -> sac.Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([critic_obs, jnp.zeros((1, action_size))], -1)
        return sac.new_agent(actor.init(k_actor, actor_obs), critic.init(k_critic, critic_in), hp)

    def sample(params, obs, keys):
        """An action of the expert that the router draws, and that expert's log-probability."""

        def one(outputs, logits, key):
            k_expert, k_action = jax.random.split(key)
            dist = acting.tanh_normal(outputs[jax.random.categorical(k_expert, logits)])
            raw = dist.sample(k_action)
            return dist.squash(raw), dist.log_prob(raw)

        return jax.vmap(one)(*actor.apply(params, obs), keys)

    def values(params, obs, action):
        return critic.apply(params, jnp.concatenate([obs, action], -1))

    def act(params, obs, key, deterministic):
        """Deterministic: the most likely expert's mode."""
        outputs, logits = actor.apply(params, obs)
        k_expert, k_action = jax.random.split(key)
        drawn = jax.random.categorical(k_expert, logits)
        dist = acting.tanh_normal(outputs[jnp.where(deterministic, jnp.argmax(logits), drawn)])
        return dist.squash(dist.mode() if deterministic else dist.sample(k_action))

    nets = sac.Networks(init, actor.apply, sample, values, act)

    def update_actor(agent: sac.Agent, batch: Batch, hp: Config) -> tuple[sac.Agent, Metrics]:
        _, keys = off_policy.split_each(batch.key)
        alpha = jnp.exp(agent.log_alpha)

        def loss_fn(params):
            outputs, logits = actor.apply(params, batch.actor_obs)
            dist = acting.tanh_normal(outputs)  # [B, K, A]
            raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
            action, log_prob = dist.squash(raw), dist.log_prob(raw)
            each = jnp.repeat(batch.critic_obs[:, None], c.num_experts, 1)
            flat = lambda x: x.reshape(-1, x.shape[-1])
            q = values(agent.critic, flat(each), flat(action))[..., 0]
            q = (q.min(0) if c.actor_q == "min" else q.mean(0)).reshape(log_prob.shape)  # [B, K]
            soft = q - alpha * log_prob
            best = jax.nn.one_hot(jnp.argmax(jax.lax.stop_gradient(q), -1), c.num_experts)
            share = jax.nn.softmax(logits)
            router = batch.mean(((share - best) ** 2).sum(-1))
            # Every expert climbs, so that none dies for never being the best.
            loss = -batch.mean(soft.mean(-1)) + hp.router_coef * router
            entropy = batch.mean(-(jax.lax.stop_gradient(share) * log_prob).sum(-1))
            return loss, (entropy, {"actor_loss": loss, "router_loss": router})

        grads, (entropy, metrics) = jax.grad(loss_fn, has_aux=True)(agent.actor)
        agent, more = sac.step_actor(agent, grads, batch, entropy, action_size, psum, hp)
        return agent, metrics | more

    return Algorithm(
        init=init,
        update_critic=sac.critic_update(nets, c, psum),
        update_actor=update_actor,
        act=act,
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """PMOE on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, validate, prior)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    sac.validate(config)
    checks.positive(config, "num_experts")
    checks.in_range(config, 0.0, math.inf, "router_coef")
    checks.finite(config, "router_coef")
