"""Implicit Q-learning (Kostrikov et al. 2022): offline, never asking for an unseen action."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Duration, NonNegative, Share, Sizes, config
from jaxrl.learners.offline.bc import Actor, gaussian
from jaxrl.loops import offline
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, Updates
from jaxrl.nn import spaces
from jaxrl.nn.layers import MLP, Activation, Ensemble
from jaxrl.ops import optim, schedules
from jaxrl.ops.optim import Net
from jaxrl.types import Learner, Means

MAX_WEIGHT = 100.0


@config
class Config(Updates):
    """IQL's settings (locomotion defaults)."""

    actor_lr: NonNegative = 3e-4
    critic_lr: NonNegative = 3e-4
    tau: Share = 0.005
    expectile: Share = 0.7  # 0.9 for sparse mazes
    beta: NonNegative = 3.0  # inverse temperature of the advantage weights; 10 for sparse mazes
    schedule_steps: Duration = 0.0  # updates until the actor's rate, a cosine, is 0; 0: it stays

    normalize_obs: bool = True
    updates_per_step: Count = 100
    layer_norm: bool = False  # in the critics
    actor_hidden: Sizes = (256, 256)
    critic_hidden: Sizes = (256, 256)
    activation: Activation = "relu"


@struct.dataclass
class Agent:
    actor: Net
    value: Net
    critic: Net  # two, leading axis [2]


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """IQL's losses and updates."""
    size = actions.continuous()
    actor = Actor(config.actor_hidden, size, config.activation)
    value = MLP(config.critic_hidden, 1, config.activation, layer_norm=config.layer_norm)
    critic = Ensemble(2, config.critic_hidden, 1, config.activation, config.layer_norm)

    def q_values(params, obs: Obs, action):
        return critic.apply(params, jnp.concatenate([obs.critic, action], -1))[..., 0]  # [2, B]

    def v_values(params, obs: Obs):
        return value.apply(params, obs.critic)[..., 0]  # [B]

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_value, k_critic = jax.random.split(key, 3)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, size))], -1)
        return Agent(
            actor=optim.net(actor.init(k_actor, obs.actor)),
            value=optim.net(value.init(k_value, obs.critic)),
            critic=optim.net(critic.init(k_critic, critic_in), target=True),
        )

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        # --- The value: an upper expectile of the target critics at the data's actions ---
        q = q_values(agent.critic.target, batch.obs, batch.action).min(0)

        def value_loss(params):
            u = q - v_values(params, batch.obs)
            loss = batch.mean(jnp.abs(config.expectile - (u < 0)) * u**2)
            return loss, loss

        grads, loss_v = batch.grad(value_loss, agent.value.params)
        new_value = agent.value.step(grads, config.critic_lr)

        # --- The critics: regress on the value of what was really reached ---
        target = batch.reward + batch.discount * v_values(new_value.params, batch.next_obs)

        def critic_loss(params):
            q = q_values(params, batch.obs, batch.action)
            loss = batch.mean((q - target) ** 2).mean()
            return loss, loss

        grads, loss_q = batch.grad(critic_loss, agent.critic.params)
        new_critic = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        metrics = {"value_loss": loss_v, "critic_loss": loss_q, "q": batch.mean(q)}
        return agent.replace(value=new_value, critic=new_critic), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        q = q_values(agent.critic.target, batch.obs, batch.action).min(0)
        advantage = q - v_values(agent.value.params, batch.obs)
        weight = jnp.minimum(jnp.exp(config.beta * advantage), MAX_WEIGHT)

        def loss_fn(params):
            dist = gaussian(*actor.apply(params, batch.obs.actor))
            loss = -batch.mean(weight * dist.log_prob(batch.action))
            return loss, loss

        grads, loss = batch.grad(loss_fn, agent.actor.params)
        updates = agent.actor.opt.count * config.policy_delay
        rate = schedules.cosine(config.actor_lr, schedules.progress(updates, config.schedule_steps))
        metrics = {
            "actor_loss": loss,
            "advantage": batch.mean(advantage),
            "actor_lr": batch.constant(rate),
        }
        return agent.replace(actor=agent.actor.step(grads, rate)), metrics

    def act(params, memory, obs: Obs, key, deterministic):
        dist = gaussian(*actor.apply(params, obs.actor))
        return dist.mode() if deterministic else dist.squash(dist.sample(key)), memory

    return Algorithm(init=init, update=Delayed(update_critic, update_actor), act=act)


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """IQL on a `jaxrl.data.dataset.Dataset`; see `jaxrl.loops.offline.learner`."""
    return offline.learner(env, config, algorithm, dataset)
