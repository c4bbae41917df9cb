"""Soft actor-critic (Haarnoja et al. 2018b), with the options that made it sample-efficient.

Randomised ensembles (REDQ, Chen et al. 2021), LayerNorm critics and prior data (RLPD, Ball et
al. 2023) are settings: `RLPD` below is a preset, not another algorithm.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl import acting, checks, off_policy, optim
from jaxrl.networks import ACTIVATIONS, MLP, Ensemble
from jaxrl.off_policy import Algorithm, Batch
from jaxrl.types import Learner, Metrics


@struct.dataclass
class Config(off_policy.Config):
    """SAC's settings: plain numbers can be swept in one program, the others shape it."""

    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    alpha_lr: float = 3e-4
    tau: float = 0.005  # how far the target critics follow at each update
    init_alpha: float = 1.0  # entropy coefficient at the start
    target_entropy: float = -1.0  # per action dimension (Haarnoja et al.: -1; brax, RLPD: -0.5)

    num_critics: int = struct.field(pytree_node=False, default=2)
    target_critics: int = struct.field(pytree_node=False, default=2)  # minimum over a random set
    actor_q: str = struct.field(pytree_node=False, default="min")  # of all critics, or "mean"
    backup_entropy: bool = struct.field(pytree_node=False, default=True)
    layer_norm: bool = struct.field(pytree_node=False, default=False)  # in the critics
    actor_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    critic_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    activation: str = struct.field(pytree_node=False, default="relu")


RLPD = Config(
    num_critics=10,
    actor_q="mean",
    layer_norm=True,
    target_entropy=-0.5,
    prior_ratio=0.5,
    num_envs=1,
    updates_per_step=20,
    policy_delay=20,
)


@struct.dataclass
class Agent:
    actor: Any
    critic: Any  # ensemble, leading axis [num_critics]
    target_critic: Any
    log_alpha: jax.Array
    actor_opt: Any
    critic_opt: Any
    alpha_opt: Any


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    """SAC's networks, losses and updates; `psum` sums over devices."""
    actor = MLP(c.actor_hidden, 2 * action_size, c.activation, out_scale=0.01)
    critic = Ensemble(c.num_critics, c.critic_hidden, 1, c.activation, c.layer_norm)
    target_entropy = lambda hp: hp.target_entropy * action_size

    def sample(params, obs, keys):
        """Actions in [-1, 1] [B, A] and their log-probabilities [B]."""
        dist = acting.tanh_normal(actor.apply(params, obs))
        raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
        return dist.squash(raw), dist.log_prob(raw)

    def values(params, obs, action):
        """[num_critics, B]"""
        return critic.apply(params, jnp.concatenate([obs, action], -1))[..., 0]

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        actor_params = actor.init(k_actor, actor_obs)
        critic_in = jnp.concatenate([critic_obs, jnp.zeros((1, action_size))], -1)
        critic_params = critic.init(k_critic, critic_in)
        log_alpha = jnp.log(hp.init_alpha)
        return Agent(
            actor=actor_params,
            critic=critic_params,
            target_critic=critic_params,
            log_alpha=log_alpha,
            actor_opt=optim.init(actor_params),
            critic_opt=optim.init(critic_params),
            alpha_opt=optim.init(log_alpha),
        )

    def td_target(agent: Agent, batch: Batch, keys) -> jax.Array:
        """r + gamma (min over a random set of target critics - alpha log pi). [B]"""
        action, log_prob = sample(agent.actor, batch.next_actor_obs, keys)
        q = values(agent.target_critic, batch.next_critic_obs, action)
        if c.target_critics < c.num_critics:  # one set per update, as REDQ draws it
            chosen = jax.random.permutation(batch.shared_key, c.num_critics)
            q = q[chosen[: c.target_critics]]
        next_value = q.min(0)
        if c.backup_entropy:
            next_value -= jnp.exp(agent.log_alpha) * log_prob
        return batch.reward + batch.discount * next_value

    def update_critic(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        k_target, _ = split_each(batch.key)
        target = td_target(agent, batch, k_target)

        def loss_fn(params):
            q = values(params, batch.critic_obs, batch.action)
            loss = 0.5 * batch.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = jax.grad(loss_fn, has_aux=True)(agent.critic)
        params, opt = optim.adam(agent.critic, psum(grads), agent.critic_opt, hp.critic_lr)
        return agent.replace(
            critic=params,
            critic_opt=opt,
            target_critic=optim.polyak(agent.target_critic, params, hp.tau),
        ), metrics

    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        _, keys = split_each(batch.key)
        alpha = jnp.exp(agent.log_alpha)

        def loss_fn(params):
            action, log_prob = sample(params, batch.actor_obs, keys)
            q = values(agent.critic, batch.critic_obs, action)
            q = q.min(0) if c.actor_q == "min" else q.mean(0)
            return batch.mean(alpha * log_prob - q), batch.mean(-log_prob)

        (actor_loss, entropy), grads = jax.value_and_grad(loss_fn, has_aux=True)(agent.actor)
        params, opt = optim.adam(agent.actor, psum(grads), agent.actor_opt, hp.actor_lr)

        # d/d log_alpha of alpha (entropy - target), the dual of the entropy constraint
        share = batch.mean(jnp.ones_like(batch.weight))
        alpha_grad = alpha * psum(entropy - share * target_entropy(hp))
        log_alpha, alpha_opt = optim.adam(agent.log_alpha, alpha_grad, agent.alpha_opt, hp.alpha_lr)
        metrics = {"actor_loss": actor_loss, "entropy": entropy, "alpha": alpha * share}
        return agent.replace(
            actor=params, actor_opt=opt, log_alpha=log_alpha, alpha_opt=alpha_opt
        ), metrics

    def act(params, obs, key, deterministic):
        dist = acting.tanh_normal(actor.apply(params, obs))
        return dist.squash(dist.mode() if deterministic else dist.sample(key))

    return Algorithm(
        init=init,
        update_critic=update_critic,
        update_actor=update_actor,
        acting_params=lambda agent: agent.actor,
        act=act,
        explore=lambda agent, obs, noise, key, hp: act(agent.actor, obs, key, False),
    )


def split_each(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent keys [B] from each of keys [B]."""
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """SAC on `env`.

    Args:
      env: one environment instance with bounded continuous actions; observations an array
        or a dict of arrays, from which `actor_obs` and `critic_obs` choose.
      config: see `Config`.
      prior: a `jaxrl.data.Dataset`, where `config.prior_ratio` > 0.

    Raises:
      ValueError: a field out of range, discrete actions, a prior that does not fit.
    """
    validate(config)
    return off_policy.online(env, config, algorithm, prior)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    off_policy.validate(c)
    checks.in_range(c, 0.0, math.inf, "actor_lr", "critic_lr", "alpha_lr")
    checks.in_range(c, 0.0, 1.0, "tau")
    checks.above(c, 0.0, "init_alpha")
    checks.positive(c, "num_critics", "target_critics")
    checks.one_of(c, "actor_q", ("min", "mean"))
    checks.one_of(c, "activation", ACTIVATIONS)
    if c.target_critics > c.num_critics:
        raise ValueError(
            f"target_critics={c.target_critics}: must be at most num_critics={c.num_critics}"
        )
