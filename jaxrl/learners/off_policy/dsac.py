"""DSAC-T (Duan et al. 2025): soft actor-critic whose critics are Gaussians of the return.

Its three refinements of DSAC: the mean is regressed on the expected, not a sampled, target
value; twin critics, of which the one with the lower mean gives the target; and gradients
scaled by the critic's own running spread, so that the scale of rewards matters less. As in SAC,
the next action is the current policy's (the authors keep a target policy, too).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.learners.off_policy import sac
from jaxrl.learners.off_policy.sac import validate
from jaxrl.loops import off_policy
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.ops import optim
from jaxrl.types import Learner, Metrics

SIGMAS = 3.0  # how far, in standard deviations, a sampled return may lie
HUBER = 50.0
BIAS = 0.1  # keeps divisions by a variance finite
MAX_SCALE = 10.0  # of the gradients; the least is its inverse


@struct.dataclass
class Config(sac.Config):
    """SAC's settings with the paper's rates, delay and activation (its layers: three of 256)."""

    actor_lr: float = 1e-4
    critic_lr: float = 1e-4
    policy_delay: int = struct.field(pytree_node=False, default=2)
    activation: str = struct.field(pytree_node=False, default="gelu")


@struct.dataclass
class Agent(sac.Agent):
    spread: jax.Array  # [num_critics] running mean of each critic's standard deviation


def huber(x: jax.Array) -> jax.Array:
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


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    nets = sac.networks(c, action_size, outputs=2)
    gaussian = lambda out: (out[..., 0], jax.nn.softplus(out[..., 1]))

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        agent = nets.init(key, actor_obs, critic_obs, hp)
        none_yet = jnp.full(c.num_critics, -1.0, jnp.float32)  # weakly typed, a step is traced anew
        return Agent(**vars(agent), spread=none_yet)

    def update_critic(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        k_action, k_noise = off_policy.split_each(off_policy.split_each(batch.key)[0])
        action, log_prob = nets.sample(agent.actor, batch.next_actor_obs, k_action)
        mean, std = gaussian(nets.values(agent.target_critic, batch.next_critic_obs, action))
        chosen = sac.target_set(c, batch.shared_key)
        mean, std = mean[chosen], std[chosen]
        lower = jnp.argmin(mean, 0)[None]
        mean, std = (jnp.take_along_axis(x, lower, 0)[0] for x in (mean, std))
        noise = jax.vmap(lambda k: jax.random.normal(k))(k_noise)
        soft = jnp.exp(agent.log_alpha) * log_prob if c.backup_entropy else 0.0
        backup = lambda z: batch.reward + batch.discount * (z - soft)
        target = backup(mean)
        sampled = backup(mean + std * jnp.clip(noise, -SIGMAS, SIGMAS))

        _, std = gaussian(nets.values(agent.critic, batch.critic_obs, batch.action))
        total, part = psum((batch.mean(std), batch.mean(jnp.ones_like(batch.reward))))
        now = total / jnp.maximum(part, 1e-6)
        moved = jnp.where(agent.spread < 0, now, optim.polyak(agent.spread, now, hp.tau))
        spread = jnp.where(part > 0, moved, agent.spread)

        def loss_fn(params):
            mean, std = gaussian(nets.values(params, batch.critic_obs, batch.action))
            losses = critic_losses(mean, std, target, sampled, spread[:, None])
            loss = batch.mean(losses).sum()
            return loss, {"critic_loss": loss, "q": batch.mean(mean).mean()}

        grads, metrics = jax.grad(loss_fn, has_aux=True)(agent.critic)
        metrics["return_spread"] = spread.mean() * batch.share
        return sac.step_critic(agent, psum(grads), hp).replace(spread=spread), metrics

    return Algorithm(
        init=init,
        update_critic=update_critic,
        update_actor=sac.actor_update(nets, c, action_size, psum),
        act=nets.act,
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """DSAC-T on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, validate, prior)
