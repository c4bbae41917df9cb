"""Soft actor-critic (Haarnoja et al. 2018b), with the options that made it sample-efficient.

Randomised ensembles (REDQ, Chen et al. 2021), LayerNorm critics and prior data (RLPD, Ball et
al. 2023) are settings: `RLPD` and `FAST` below are presets, not other algorithms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Finite, Fixed, NonNegative, Positive, Share, Sizes, config
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, UpdateOnBatch, Updates
from jaxrl.nn import distributions, spaces
from jaxrl.nn.layers import MLP, Activation, Ensemble
from jaxrl.ops import optim
from jaxrl.ops.optim import Net
from jaxrl.types import Learner, Means


@config
class Losses(Updates):
    """Settings of SAC's networks, losses and updates."""

    actor_lr: NonNegative = 3e-4
    critic_lr: NonNegative = 3e-4
    alpha_lr: NonNegative = 3e-4
    tau: Share = 0.005  # how far the target critics follow at each update
    init_alpha: Positive = 1.0  # entropy coefficient at the start
    target_entropy: Finite = -1.0  # per action dimension (Haarnoja et al.: -1; brax, RLPD: -0.5)

    num_critics: Count = 2
    target_critics: Count = 2  # size of the random set whose minimum is the target
    actor_q: Literal["min", "mean"] = "min"  # of all critics
    backup_entropy: bool = True
    layer_norm: bool = False  # in the critics
    actor_hidden: Sizes = (256, 256)
    critic_hidden: Sizes = (256, 256)
    actor_out_scale: Fixed = 0.01  # 0: starts at no action
    activation: Activation = "relu"

    def rules(self) -> None:
        super().rules()
        if self.target_critics > self.num_critics:
            raise ValueError(
                f"target_critics={self.target_critics}: must be at most"
                f" num_critics={self.num_critics}"
            )


@config
class Config(Losses, off_policy.Collect):
    """SAC's settings."""


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

# FastSAC (Seo et al. 2025, arXiv 2512.01996; code amazon-far/holosoma): many environments, large
# batches, quick targets, no clipped double Q. Their critics are categorical and their weights decay;
# here critics are plain numbers without decay. Each of their critics has a target of its own; here
# both have that of one of them, drawn for every update.
FAST = Config(
    num_envs=4096,
    updates_per_step=8,
    policy_delay=4,
    batch_size=8192,
    replay_size=4096 * 1024,
    learning_starts=4096 * 10,
    gamma=0.97,
    tau=0.125,
    init_alpha=0.001,
    target_entropy=0.0,
    target_critics=1,
    actor_q="mean",
    layer_norm=True,
    normalize_obs=True,
    activation="swish",
    actor_out_scale=0.0,
    actor_hidden=(512, 256, 128),
    critic_hidden=(768, 384, 192),
)


@struct.dataclass
class Agent:
    actor: Net
    critic: Net  # ensemble, leading axis [num_critics]
    log_alpha: Net


@dataclass(frozen=True)
class Networks:
    """The actor and the critics as functions of their parameters."""

    init: Callable[..., Agent]  # (key, obs [1, ...], config)
    distribution: Callable[..., Any]  # (actor, obs): of the action, over any batch
    sample: Callable[..., tuple[jax.Array, jax.Array]]  # (actor, obs, keys): actions, log_probs
    values: Callable[..., jax.Array]  # (critic, obs, action): [num_critics, B, outputs]
    act: Callable[..., tuple[jax.Array, Any]]  # for one environment


def networks(config: Losses, action_size: int, outputs: int = 1) -> Networks:
    """A squashed Gaussian actor, and critics with `outputs` numbers each."""
    actor = MLP(config.actor_hidden, 2 * action_size, config.activation, config.actor_out_scale)
    critic = critics(config, outputs)

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, action_size))], -1)
        return new_agent(actor.init(k_actor, obs.actor), critic.init(k_critic, critic_in), config)

    def distribution(params: Any, obs: Obs):
        return spaces.tanh_normal(actor.apply(params, obs.actor))

    def sample(params: Any, obs: Obs, keys: jax.Array):
        return distributions.draw(distribution(params, obs), keys)

    def values(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
        return critic.apply(params, jnp.concatenate([obs.critic, action], -1))

    def act(params, memory, obs: Obs, key, deterministic):
        return distributions.act(distribution(params, obs), key, deterministic), memory

    return Networks(init, distribution, sample, values, act)


def critics(config: Losses, outputs: int = 1) -> Ensemble:
    """`num_critics` critics with `outputs` numbers each."""
    return Ensemble(
        config.num_critics, config.critic_hidden, outputs, config.activation, config.layer_norm
    )


def new_agent(actor: Any, critic: Any, config: Losses) -> Agent:
    """An agent that starts with these parameters."""
    log_alpha = jnp.log(config.init_alpha)
    return Agent(optim.net(actor), optim.net(critic, target=True), optim.net(log_alpha))


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SAC's losses and updates."""
    size = actions.continuous()
    nets = networks(config, size)
    update = Delayed(critic_update(nets), actor_update(nets, size))
    return Algorithm(init=nets.init, update=update, act=nets.act)


def critic_update(nets: Networks) -> UpdateOnBatch:
    """The critics regress on the soft value of the next state."""

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        target = td_target(nets, agent, batch, config)

        def loss_fn(params):
            q = nets.values(params, batch.obs, batch.action)[..., 0]
            loss = 0.5 * batch.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=critic), metrics

    return update_critic


def td_target(nets: Networks, agent: Agent, batch: Batch, config: Losses) -> jax.Array:
    """r + gamma (min over a random set of target critics - alpha log pi). [B]"""
    keys, _ = batch.key_pair
    action, log_prob = nets.sample(agent.actor.params, batch.next_obs, keys)
    q = nets.values(agent.critic.target, batch.next_obs, action)[..., 0]
    next_value = q[target_set(config, batch.shared_key)].min(0)
    if config.backup_entropy:
        next_value -= jnp.exp(agent.log_alpha.params) * log_prob
    return batch.reward + batch.discount * next_value


def target_set(config: Losses, key: jax.Array) -> jax.Array | slice:
    """Which critics give the targets of this update: a random set of them, as REDQ draws it."""
    if config.target_critics == config.num_critics:
        return slice(None)
    return jax.random.permutation(key, config.num_critics)[: config.target_critics]


def actor_value(config: Losses, q: jax.Array) -> jax.Array:
    """What the actor climbs, [...], of the critics' values q [num_critics, ...]."""
    return q.min(0) if config.actor_q == "min" else q.mean(0)


def actor_update(
    nets: Networks, action_size: int, penalty: Callable[..., jax.Array] | None = None
) -> UpdateOnBatch:
    """The actor climbs the soft value. `penalty(params, agent, batch, config)` [B] is added to
    its loss."""

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        _, keys = batch.key_pair
        alpha = jnp.exp(agent.log_alpha.params)

        def loss_fn(params):
            action, log_prob = nets.sample(params, batch.obs, keys)
            q = nets.values(agent.critic.params, batch.obs, action)[..., 0]
            losses = alpha * log_prob - actor_value(config, q)
            if penalty is not None:
                added = jnp.asarray(penalty(params, agent, batch, config))
                chex.assert_equal_shape([added, losses], custom_message="penalty must return [B]")
                losses += added
            loss = batch.mean(losses)
            return loss, (batch.mean(-log_prob), {"actor_loss": loss})

        grads, (entropy, metrics) = batch.grad(loss_fn, agent.actor.params)
        agent, more = step_actor(agent, grads, batch, entropy, action_size, config)
        return agent, metrics | more

    return update_actor


def step_actor(
    agent: Agent,
    grads: Any,
    batch: Batch,
    entropy: jax.Array,
    action_size: int,
    config: Config,
    tx: optax.GradientTransformation = optim.ADAM,
) -> tuple[Agent, Means]:
    """`tx` on the actor, and Adam on log alpha.

    The gradient by log alpha is alpha (entropy - target), the dual of keeping the entropy at
    `target_entropy` per action dimension. `entropy`: this device's share of its mean.
    """
    gap = batch.total(
        entropy - batch.mean(jnp.full(batch.valid.shape, config.target_entropy * action_size))
    )
    alpha = jnp.exp(agent.log_alpha.params)
    agent = agent.replace(
        actor=agent.actor.step(grads, config.actor_lr, tx=tx),
        log_alpha=agent.log_alpha.step(alpha * gap, config.alpha_lr),
    )
    return agent, {"alpha": batch.constant(alpha), "entropy": entropy}


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """SAC on `env`.

    Args:
      env: one environment instance with bounded continuous actions; observations an array
        or a dict of arrays, from which `actor_obs` and `critic_obs` choose.
      config: see `Config`.
      prior: a `jaxrl.data.dataset.Dataset`, where `config.prior_ratio` > 0.

    Raises:
      ValueError: a field out of range, discrete actions, a prior that does not fit.
    """
    return off_policy.online(env, config, algorithm, prior)
