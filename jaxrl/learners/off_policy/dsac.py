"""DSAC-T (Duan et al. 2025): soft actor-critic whose critics are Gaussians of the return.

It refines DSAC in three ways. The mean regresses on the expected target value, not on a sampled
one. Of twin critics, the one with the lower mean gives the target. Gradients are scaled by each
critic's own running spread, so that the scale of rewards matters less. As in SAC, the next action
comes from the current policy; the authors also keep a target policy.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, NonNegative, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, split_each
from jaxrl.nn import spaces
from jaxrl.nn.layers import Activation
from jaxrl.ops import optim
from jaxrl.types import Learner, Means

SIGMAS = 3.0  # how far, in standard deviations, a sampled return may lie
HUBER = 50.0
BIAS = 0.1  # keeps divisions by a variance finite
MAX_SCALE = 10.0  # of the gradients; the smallest scale is its inverse


@config
class Config(sac.Config):
    """SAC's settings with the paper's rates, delay and activation (its layers: three of 256)."""

    actor_lr: NonNegative = 1e-4
    critic_lr: NonNegative = 1e-4
    policy_delay: Count = 2
    activation: Activation = "gelu"


@struct.dataclass
class Agent(sac.Agent):
    spread: jax.Array  # [num_critics] running mean of each critic's standard deviation


def huber(x: jax.Array) -> jax.Array:
    """Elementwise: x^2 / 2 up to `HUBER`, linear beyond."""
    size = jnp.minimum(jnp.abs(x), HUBER)
    return 0.5 * size**2 + HUBER * (jnp.abs(x) - size)


def critic_losses(mean, std, target, sampled, spread):
    """The paper's loss, elementwise [num_critics, B]; `spread` [num_critics, 1].

    Its gradient by the mean is that of huber(mean - target), by the standard deviation that
    of a Gaussian likelihood of a sampled target clipped near the mean. (The authors' code
    has half the squared distance there, which makes the spread too small by sqrt 2.)
    """
    fixed_mean, fixed_std = jax.lax.stop_gradient((mean, std))
    bound = SIGMAS * spread
    near = fixed_mean + jnp.clip(sampled - fixed_mean, -bound, bound)
    scale = jnp.clip(spread**2 / (fixed_std**2 + BIAS), 1.0 / MAX_SCALE, MAX_SCALE)
    of_std = std * (fixed_std**2 - 2.0 * huber(near - fixed_mean)) / (fixed_std + BIAS)
    return scale * (huber(mean - target) + of_std)


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """DSAC-T's losses and updates."""
    size = actions.continuous()
    nets = sac.networks(config, size, outputs=2)
    gaussian = lambda out: (out[..., 0], jax.nn.softplus(out[..., 1]))

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        agent = nets.init(key, obs, config)
        # float32 is explicit: a weak type would cause a retrace of the step.
        none_yet = jnp.full(config.num_critics, -1.0, jnp.float32)
        return Agent(**vars(agent), spread=none_yet)

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        k_action, k_noise = split_each(batch.key_pair[0])
        action, log_prob = nets.sample(agent.actor.params, batch.next_obs, k_action)
        mean, std = gaussian(nets.values(agent.critic.target, batch.next_obs, action))
        chosen = sac.target_set(config, batch.shared_key)
        mean, std = mean[chosen], std[chosen]
        lower = jnp.argmin(mean, 0)[None]
        mean, std = (jnp.take_along_axis(x, lower, 0)[0] for x in (mean, std))
        noise = jax.vmap(lambda k: jax.random.normal(k))(k_noise)
        soft = jnp.exp(agent.log_alpha.params) * log_prob if config.backup_entropy else 0.0
        backup = lambda z: batch.reward + batch.discount * (z - soft)
        target = backup(mean)
        sampled = backup(mean + std * jnp.clip(noise, -SIGMAS, SIGMAS))

        _, std = gaussian(nets.values(agent.critic.params, batch.obs, batch.action))
        total, part = batch.total((batch.mean(std), batch.mean(jnp.ones_like(batch.reward))))
        now = total / jnp.maximum(part, 1e-6)
        moved = jnp.where(agent.spread < 0, now, optim.polyak(agent.spread, now, config.tau))
        spread = jnp.where(part > 0, moved, agent.spread)

        def loss_fn(params):
            mean, std = gaussian(nets.values(params, batch.obs, batch.action))
            losses = critic_losses(mean, std, target, sampled, spread[:, None])
            loss = batch.mean(losses).sum()
            return loss, {"critic_loss": loss, "q": batch.mean(mean).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        metrics["return_spread"] = batch.constant(spread.mean())
        return agent.replace(critic=critic, spread=spread), metrics

    update = Delayed(update_critic, sac.actor_update(nets, size))
    return Algorithm(init=init, update=update, act=nets.act)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """DSAC-T on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
