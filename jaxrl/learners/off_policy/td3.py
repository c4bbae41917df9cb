"""TD3 (Fujimoto et al. 2018), and FastTD3 (Seo et al. 2025), its massively parallel form.

FastTD3 is TD3 with many environments, large batches and categorical critics (C51, Bellemare et al.
2017). Each environment has exploration noise of its own scale. Both critics regress on the target
distribution with the lower mean, per transition. These are settings here: see `FAST` below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import (
    Count,
    Finite,
    Fixed,
    Limit,
    Natural,
    NonNegative,
    Share,
    Sizes,
    at_most,
    config,
)
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import (
    Algorithm,
    Batch,
    Delayed,
    Obs,
    UpdateOnBatch,
    Updates,
)
from jaxrl.nn import spaces
from jaxrl.nn.layers import MLP, Activation, Ensemble
from jaxrl.ops import categorical, optim
from jaxrl.ops.optim import Net
from jaxrl.types import Learner, Means


@config
class Losses(Updates):
    """Settings of TD3's networks, losses and updates."""

    actor_lr: NonNegative = 3e-4
    critic_lr: NonNegative = 3e-4
    weight_decay: NonNegative = 0.0
    tau: Share = 0.005  # how far the targets follow at each critic update (TD3's: at the actor's)
    target_noise: NonNegative = 0.2  # smoothing of the target action: standard deviation
    target_noise_clip: Limit = 0.5
    v_min: Finite = -10.0  # range of the categorical critics; must hold every discounted return
    v_max: Finite = 10.0

    policy_delay: Count = 2
    target_actor: bool = True
    num_atoms: Natural = 0  # 0: critics are plain numbers
    layer_norm: bool = False  # in the critics
    actor_hidden: Sizes = (256, 256)
    critic_hidden: Sizes = (256, 256)
    actor_out_scale: Fixed = 0.01  # 0: starts at no action
    activation: Activation = "relu"

    def rules(self) -> None:
        super().rules()
        if self.num_atoms == 1:
            raise ValueError(f"num_atoms={self.num_atoms}: must be 0 (off) or at least 2")
        if self.num_atoms:
            at_most(self, "v_min", "v_max", strictly=True)


@config
class Config(Losses, off_policy.Collect):
    """TD3's settings."""

    noise_min: NonNegative = 0.1  # exploration: an environment's standard deviation is drawn
    noise_max: NonNegative = 0.1  # between these at every episode

    def rules(self) -> None:
        super().rules()
        at_most(self, "noise_min", "noise_max")


FAST = Config(
    num_envs=1024,
    updates_per_step=2,
    batch_size=32_768,
    replay_size=1024 * 10_000,
    learning_starts=1024 * 10,
    gamma=0.97,
    tau=0.1,
    weight_decay=0.1,
    noise_min=0.001,
    noise_max=0.4,
    target_noise=0.001,
    target_actor=False,
    num_atoms=101,
    normalize_obs=True,
    actor_hidden=(512, 256, 128),
    critic_hidden=(1024, 512, 256),
)


@struct.dataclass
class Agent:
    actor: Net  # its target is () without `target_actor`
    critic: Net  # two, leading axis [2]


@dataclass(frozen=True)
class Networks:
    """The actor and the critics as functions of their parameters."""

    init: Callable[..., Agent]  # (key, obs [1, ...], config)
    act_on: Callable[..., jax.Array]  # (actor, obs): actions [B, A]
    outputs: Callable[..., jax.Array]  # (critic, obs, action): [2, B, 1] or logits [2, B, atoms]
    mean_value: Callable[..., jax.Array]  # (outputs, config): [2, B]
    action_size: int


def networks(config: Losses, action_size: int) -> Networks:
    """A deterministic actor and twin critics."""
    actor = MLP(config.actor_hidden, action_size, config.activation, config.actor_out_scale)
    critic = Ensemble(
        2, config.critic_hidden, max(config.num_atoms, 1), config.activation, config.layer_norm
    )

    def init(key: jax.Array, obs: Obs, config: Losses) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, action_size))], -1)
        return Agent(
            actor=optim.net(actor.init(k_actor, obs.actor), target=config.target_actor),
            critic=optim.net(critic.init(k_critic, critic_in), target=True),
        )

    def act_on(params: Any, obs: Obs) -> jax.Array:
        return jnp.tanh(actor.apply(params, obs.actor))

    def outputs(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
        return critic.apply(params, jnp.concatenate([obs.critic, action], -1))

    def mean_value(out: jax.Array, config: Losses) -> jax.Array:
        return (jax.nn.softmax(out) * atoms(config)).sum(-1) if config.num_atoms else out[..., 0]

    return Networks(init, act_on, outputs, mean_value, action_size)


def atoms(config: Losses) -> jax.Array:
    """Returns the grid of returns of categorical critics. [num_atoms]"""
    return jnp.linspace(config.v_min, config.v_max, config.num_atoms)


def critic_update(nets: Networks) -> UpdateOnBatch:
    """The critics regress on the lower target value of a smoothed action."""

    def target_outputs(agent: Agent, batch: Batch, config: Losses) -> jax.Array:
        """The target critics at the smoothed target action. [2, B, .]"""
        params = agent.actor.target if config.target_actor else agent.actor.params
        noise = jax.vmap(lambda k: jax.random.normal(k, (nets.action_size,)))(batch.key)
        limit = config.target_noise_clip
        noise = jnp.clip(config.target_noise * noise, -limit, limit)
        action = jnp.clip(nets.act_on(params, batch.next_obs) + noise, -1.0, 1.0)
        return nets.outputs(agent.critic.target, batch.next_obs, action)

    def update_critic(agent: Agent, batch: Batch, config: Losses) -> tuple[Agent, Means]:
        out = target_outputs(agent, batch, config)
        if config.num_atoms:
            grid = atoms(config)
            moved = batch.reward[:, None] + batch.discount[:, None] * grid  # [B, atoms]
            probs = jax.vmap(categorical.project, (0, None, None))(jax.nn.softmax(out), moved, grid)
            value = (probs * grid).sum(
                -1
            )  # [2, B], after the projection, which may clip at the ends
            target = jnp.where((value[0] < value[1])[:, None], probs[0], probs[1])
        else:
            target = batch.reward + batch.discount * nets.mean_value(out, config).min(0)

        def loss_fn(params):
            out = nets.outputs(params, batch.obs, batch.action)
            if config.num_atoms:
                losses = -(target * jax.nn.log_softmax(out)).sum(-1)
            else:
                losses = 0.5 * (out[..., 0] - target) ** 2
            loss = batch.mean(losses).sum()
            q = batch.mean(nets.mean_value(out, config)).mean()
            return loss, {"critic_loss": loss / 2, "q": q}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr, config.weight_decay)
        actor = agent.actor.follow(config.tau) if config.target_actor else agent.actor
        return agent.replace(critic=critic.follow(config.tau), actor=actor), metrics

    return update_critic


def actor_update(nets: Networks) -> UpdateOnBatch:
    """The actor climbs the first critic (TD3), or the lower of categorical ones (FastTD3)."""

    def update_actor(agent: Agent, batch: Batch, config: Losses) -> tuple[Agent, Means]:
        def loss_fn(params):
            action = nets.act_on(params, batch.obs)
            value = batch.mean(actor_value(nets, agent, batch, action, config))
            return -value, {"actor_loss": -value}

        grads, metrics = batch.grad(loss_fn, agent.actor.params)
        actor = agent.actor.step(grads, config.actor_lr, config.weight_decay)
        return agent.replace(actor=actor), metrics

    return update_actor


def actor_value(nets: Networks, agent: Agent, batch: Batch, action, config: Losses) -> jax.Array:
    """Returns the value that the actor climbs, at `action` [B, A]. [B]"""
    q = nets.mean_value(nets.outputs(agent.critic.params, batch.obs, action), config)
    return q.min(0) if config.num_atoms else q[0]


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """TD3's losses and updates, and noise whose scale lasts an episode."""
    nets = networks(config, actions.continuous())

    def explore(agent: Agent, scale: jax.Array, obs: Obs, key, config: Config):
        drawn = scale * jax.random.normal(key, (nets.action_size,))
        return jnp.clip(nets.act_on(agent.actor.params, obs) + drawn, -1.0, 1.0), scale

    def noise_scale(key: jax.Array, config: Config) -> jax.Array:
        return jax.random.uniform(key, (), minval=config.noise_min, maxval=config.noise_max)

    return Algorithm(
        init=nets.init,
        update=Delayed(critic_update(nets), actor_update(nets)),
        act=lambda params, memory, obs, key, deterministic: (nets.act_on(params, obs), memory),
        explore=explore,
        memory=noise_scale,
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """TD3 on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
