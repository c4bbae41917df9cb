"""Implicit Q-learning (Kostrikov et al. 2022): offline, never asking for an unseen action."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl import checks
from jaxrl.learners.offline.bc import Actor, gaussian
from jaxrl.loops import off_policy, offline
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.nn.layers import ACTIVATIONS, MLP, Ensemble
from jaxrl.ops import optim, schedules
from jaxrl.types import Learner, Metrics

MAX_WEIGHT = 100.0


@struct.dataclass
class Config(off_policy.Config):
    """IQL's settings (locomotion defaults): plain numbers can be swept in one program."""

    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    tau: float = 0.005
    expectile: float = 0.7  # 0.9 for sparse mazes
    beta: float = 3.0  # inverse temperature of the advantage weights; 10 for sparse mazes
    schedule_steps: float = 0.0  # updates until the actor's rate, a cosine, is 0; 0: it stays

    normalize_obs: bool = struct.field(pytree_node=False, default=True)
    updates_per_step: int = struct.field(pytree_node=False, default=100)
    layer_norm: bool = struct.field(pytree_node=False, default=False)  # in the critics
    actor_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    critic_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    activation: str = struct.field(pytree_node=False, default="relu")


@struct.dataclass
class Agent:
    actor: Any
    value: Any
    critic: Any  # two, leading axis [2]
    target_critic: Any
    actor_opt: Any
    value_opt: Any
    critic_opt: Any


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    actor = Actor(c.actor_hidden, action_size, c.activation)
    value = MLP(c.critic_hidden, 1, c.activation, layer_norm=c.layer_norm)
    critic = Ensemble(2, c.critic_hidden, 1, c.activation, c.layer_norm)

    def q_values(params, obs, action):
        return critic.apply(params, jnp.concatenate([obs, action], -1))[..., 0]  # [2, B]

    def v_values(params, obs):
        return value.apply(params, obs)[..., 0]  # [B]

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        k_actor, k_value, k_critic = jax.random.split(key, 3)
        actor_params = actor.init(k_actor, actor_obs)
        value_params = value.init(k_value, critic_obs)
        critic_in = jnp.concatenate([critic_obs, jnp.zeros((1, action_size))], -1)
        critic_params = critic.init(k_critic, critic_in)
        return Agent(
            actor=actor_params,
            value=value_params,
            critic=critic_params,
            target_critic=critic_params,
            actor_opt=optim.init(actor_params),
            value_opt=optim.init(value_params),
            critic_opt=optim.init(critic_params),
        )

    def update_critic(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        # --- The value: an upper expectile of the target critics at the data's actions ---
        q = q_values(agent.target_critic, batch.critic_obs, batch.action).min(0)

        def value_loss(params):
            u = q - v_values(params, batch.critic_obs)
            return batch.mean(jnp.abs(hp.expectile - (u < 0)) * u**2)

        loss_v, grads = jax.value_and_grad(value_loss)(agent.value)
        new_value, value_opt = optim.adam(agent.value, psum(grads), agent.value_opt, hp.critic_lr)

        # --- The critics: regress on the value of what was really reached ---
        target = batch.reward + batch.discount * v_values(new_value, batch.next_critic_obs)

        def critic_loss(params):
            q = q_values(params, batch.critic_obs, batch.action)
            return batch.mean((q - target) ** 2).mean()

        loss_q, grads = jax.value_and_grad(critic_loss)(agent.critic)
        params, opt = optim.adam(agent.critic, psum(grads), agent.critic_opt, hp.critic_lr)
        return agent.replace(
            value=new_value,
            value_opt=value_opt,
            critic=params,
            critic_opt=opt,
            target_critic=optim.polyak(agent.target_critic, params, hp.tau),
        ), {"value_loss": loss_v, "critic_loss": loss_q, "q": batch.mean(q)}

    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        q = q_values(agent.target_critic, batch.critic_obs, batch.action).min(0)
        advantage = q - v_values(agent.value, batch.critic_obs)
        weight = jnp.minimum(jnp.exp(hp.beta * advantage), MAX_WEIGHT)

        def loss_fn(params):
            dist = gaussian(*actor.apply(params, batch.actor_obs))
            return -batch.mean(weight * dist.log_prob(batch.action))

        loss, grads = jax.value_and_grad(loss_fn)(agent.actor)
        updates = agent.actor_opt.count * c.policy_delay
        rate = schedules.cosine(hp.actor_lr, schedules.progress(updates, hp.schedule_steps))
        params, opt = optim.adam(agent.actor, psum(grads), agent.actor_opt, rate)
        metrics = {"actor_loss": loss, "advantage": batch.mean(advantage), "actor_lr": rate}
        return agent.replace(actor=params, actor_opt=opt), metrics

    def act(params, obs, key, deterministic):
        dist = gaussian(*actor.apply(params, obs))
        return dist.mode() if deterministic else dist.squash(dist.sample(key))

    return Algorithm(
        init=init,
        update_critic=update_critic,
        update_actor=update_actor,
        act=act,
    )


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """IQL on a `jaxrl.data.Dataset`; see `jaxrl.loops.offline.learner`."""
    return offline.learner(env, config, algorithm, validate, dataset)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    offline.validate(c)
    checks.in_range(c, 0.0, math.inf, "actor_lr", "critic_lr", "beta", "schedule_steps")
    checks.in_range(c, 0.0, 1.0, "tau", "expectile")
    checks.finite(c, "actor_lr", "critic_lr", "beta")
    checks.sizes(c, "actor_hidden", "critic_hidden")
    checks.one_of(c, "activation", ACTIVATIONS)
