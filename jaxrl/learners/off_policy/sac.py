"""Soft actor-critic (Haarnoja et al. 2018b), with the options that made it sample-efficient.

Randomised ensembles (REDQ, Chen et al. 2021), LayerNorm critics and prior data (RLPD, Ball et
al. 2023) are settings: `RLPD` below is a preset, not another algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl import checks
from jaxrl.loops import off_policy
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.nn import spaces as acting
from jaxrl.nn.layers import ACTIVATIONS, MLP, Ensemble
from jaxrl.ops import optim
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
    actor_out_scale: float = struct.field(pytree_node=False, default=0.01)  # 0: starts at no action
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


@dataclass(frozen=True)
class Networks:
    """The actor and the critics as functions of their parameters."""

    init: Callable[..., Agent]  # (key, actor_obs [1, obs], critic_obs [1, obs], hp)
    distribution: Callable[..., Any]  # (actor, obs): of the action, over any batch
    sample: Callable[..., tuple[jax.Array, jax.Array]]  # (actor, obs, keys): actions, log_probs
    values: Callable[..., jax.Array]  # (critic, obs, action): [num_critics, B, outputs]
    act: Callable[..., jax.Array]  # for one environment


def networks(c: Config, action_size: int, outputs: int = 1) -> Networks:
    """A squashed Gaussian actor, and critics with `outputs` numbers each."""
    actor = MLP(c.actor_hidden, 2 * action_size, c.activation, c.actor_out_scale)
    critic = Ensemble(c.num_critics, c.critic_hidden, outputs, c.activation, c.layer_norm)

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([critic_obs, jnp.zeros((1, action_size))], -1)
        return new_agent(actor.init(k_actor, actor_obs), critic.init(k_critic, critic_in), hp)

    def distribution(params, obs):
        return acting.tanh_normal(actor.apply(params, obs))

    def sample(params, obs, keys):
        dist = distribution(params, obs)
        raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
        return dist.squash(raw), dist.log_prob(raw)

    def values(params, obs, action):
        return critic.apply(params, jnp.concatenate([obs, action], -1))

    def act(params, obs, key, deterministic):
        dist = distribution(params, obs)
        return dist.squash(dist.mode() if deterministic else dist.sample(key))

    return Networks(init, distribution, sample, values, act)


def new_agent(actor: Any, critic: Any, hp: Config) -> Agent:
    log_alpha = jnp.log(hp.init_alpha)
    return Agent(
        actor=actor,
        critic=critic,
        target_critic=critic,
        log_alpha=log_alpha,
        actor_opt=optim.init(actor),
        critic_opt=optim.init(critic),
        alpha_opt=optim.init(log_alpha),
    )


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    """SAC's losses and updates; `psum` sums over devices."""
    nets = networks(c, action_size)
    return Algorithm(
        init=nets.init,
        update_critic=critic_update(nets, c, psum),
        update_actor=actor_update(nets, c, action_size, psum),
        act=nets.act,
    )


def critic_update(nets: Networks, c: Config, psum) -> Callable[..., tuple[Agent, Metrics]]:
    def td_target(agent: Agent, batch: Batch) -> jax.Array:
        """r + gamma (min over a random set of target critics - alpha log pi). [B]"""
        keys, _ = off_policy.split_each(batch.key)
        action, log_prob = nets.sample(agent.actor, batch.next_actor_obs, keys)
        q = nets.values(agent.target_critic, batch.next_critic_obs, action)[..., 0]
        next_value = q[target_set(c, batch.shared_key)].min(0)
        if c.backup_entropy:
            next_value -= jnp.exp(agent.log_alpha) * log_prob
        return batch.reward + batch.discount * next_value

    def update_critic(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        target = td_target(agent, batch)

        def loss_fn(params):
            q = nets.values(params, batch.critic_obs, batch.action)[..., 0]
            loss = 0.5 * batch.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = jax.grad(loss_fn, has_aux=True)(agent.critic)
        return step_critic(agent, psum(grads), hp), metrics

    return update_critic


def target_set(c: Config, key: jax.Array) -> jax.Array | slice:
    """Which critics give the targets of this update: a random set of them, as REDQ draws it."""
    if c.target_critics == c.num_critics:
        return slice(None)
    return jax.random.permutation(key, c.num_critics)[: c.target_critics]


def step_critic(agent: Agent, grads: Any, hp: Config) -> Agent:
    """Adam on the critics, then the targets follow."""
    params, opt = optim.adam(agent.critic, grads, agent.critic_opt, hp.critic_lr)
    return agent.replace(
        critic=params,
        critic_opt=opt,
        target_critic=optim.polyak(agent.target_critic, params, hp.tau),
    )


def actor_update(
    nets: Networks,
    c: Config,
    action_size: int,
    psum,
    penalty: Callable[..., Any] = lambda params, agent, batch, hp: 0.0,  # [B], added to the loss
) -> Callable[..., tuple[Agent, Metrics]]:
    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        _, keys = off_policy.split_each(batch.key)
        alpha = jnp.exp(agent.log_alpha)

        def loss_fn(params):
            action, log_prob = nets.sample(params, batch.actor_obs, keys)
            q = nets.values(agent.critic, batch.critic_obs, action)[..., 0]
            q = q.min(0) if c.actor_q == "min" else q.mean(0)
            losses = alpha * log_prob - q + penalty(params, agent, batch, hp)
            return batch.mean(losses), batch.mean(-log_prob)

        (loss, entropy), grads = jax.value_and_grad(loss_fn, has_aux=True)(agent.actor)
        agent, metrics = step_actor(agent, grads, batch, entropy, action_size, psum, hp)
        return agent, metrics | {"actor_loss": loss}

    return update_actor


def step_actor(
    agent: Agent, grads: Any, batch: Batch, entropy: jax.Array, action_size: int, psum, hp: Config
) -> tuple[Agent, Metrics]:
    """Adam on the actor and on log alpha, the latter along d/d log_alpha of
    alpha (entropy - target): the dual of keeping the entropy at `target_entropy` per action
    dimension. `grads` and `entropy`: this device's share."""
    target = batch.mean(jnp.full(batch.valid.shape, hp.target_entropy * action_size))
    grads, gap = psum((grads, entropy - target))
    params, actor_opt = optim.adam(agent.actor, grads, agent.actor_opt, hp.actor_lr)
    alpha = jnp.exp(agent.log_alpha)
    log_alpha, alpha_opt = optim.adam(agent.log_alpha, alpha * gap, agent.alpha_opt, hp.alpha_lr)
    agent = agent.replace(
        actor=params, actor_opt=actor_opt, log_alpha=log_alpha, alpha_opt=alpha_opt
    )
    return agent, {"alpha": alpha * batch.share, "entropy": entropy}


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
    return off_policy.online(env, config, algorithm, validate, prior)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    off_policy.validate(c)
    rates = ("actor_lr", "critic_lr", "alpha_lr")
    checks.in_range(c, 0.0, math.inf, *rates)
    checks.finite(c, *rates, "init_alpha", "target_entropy", "actor_out_scale")
    checks.sizes(c, "actor_hidden", "critic_hidden")
    checks.in_range(c, 0.0, 1.0, "tau")
    checks.above(c, 0.0, "init_alpha")
    checks.positive(c, "num_critics", "target_critics")
    checks.one_of(c, "actor_q", ("min", "mean"))
    checks.one_of(c, "activation", ACTIVATIONS)
    if c.target_critics > c.num_critics:
        raise ValueError(
            f"target_critics={c.target_critics}: must be at most num_critics={c.num_critics}"
        )
