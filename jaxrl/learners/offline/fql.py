"""Flow Q-learning (FQL, Park et al. 2025, arXiv:2502.02538).

A flow imitates the data. The policy maps the flow's noise to an action in one evaluation. It
imitates the flow and maximises the value, so no gradient of a value goes through the steps of the
flow:

    loss = |mu(s, z) - flow(s, z)|^2 * distill_coef - Q(s, mu(s, z))

The rule is that of the authors' code (agents/fql.py). It differs in two points. The critics are
updated before the actors, on the same batch; theirs are updated together. `policy_delay` is a
setting.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, NonNegative, Share, Sizes, config
from jaxrl.loops import offline
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, Updates, split_each
from jaxrl.nn import heads, spaces
from jaxrl.nn.layers import MLP, Activation, Ensemble
from jaxrl.ops import optim
from jaxrl.ops.optim import Net
from jaxrl.types import Learner, Means


@config
class Config(Updates):
    """FQL's settings."""

    actor_lr: NonNegative = 3e-4
    critic_lr: NonNegative = 3e-4
    tau: Share = 0.005
    # Weight of the distance to the flow: 10 .. 1000 by the authors, 0.03 .. 10 with `normalize_q`.
    distill_coef: NonNegative = 10.0

    normalize_q: bool = False  # divide the values by their mean size
    critic_q: Literal["mean", "min"] = "mean"  # of the targets
    num_critics: Count = 2
    denoise_steps: Count = 10
    normalize_obs: bool = True
    updates_per_step: Count = 100
    layer_norm: bool = True  # in the critics
    actor_hidden: Sizes = (512, 512, 512, 512)  # of the flow, and of the policy
    critic_hidden: Sizes = (512, 512, 512, 512)
    activation: Activation = "gelu"


@struct.dataclass
class Agent:
    flow: Net
    actor: Net  # the policy of one step
    critic: Net  # ensemble, leading axis [num_critics]


def flow_of(config: Config, action_size: int) -> heads.Head:
    """The flow of single actions, as chunks [1, A]."""
    trunk = heads.FlatTrunk(config.actor_hidden, action_size)
    return heads.denoising(heads.FLOW, trunk, 1, action_size, config.denoise_steps, False)


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """FQL's losses and updates."""
    size = actions.continuous()
    flow = flow_of(config, size)
    actor = MLP(config.actor_hidden, size, config.activation)
    critic = Ensemble(
        config.num_critics, config.critic_hidden, 1, config.activation, config.layer_norm
    )

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_flow, k_actor, k_critic = jax.random.split(key, 3)
        with_action = lambda x: jnp.concatenate([x, jnp.zeros((1, size))], -1)
        return Agent(
            flow=optim.net(flow.init(k_flow, obs.actor)),
            actor=optim.net(actor.init(k_actor, with_action(obs.actor))),
            critic=optim.net(critic.init(k_critic, with_action(obs.critic)), target=True),
        )

    def values(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
        return critic.apply(params, jnp.concatenate([obs.critic, action], -1))[..., 0]

    def in_one_step(params: Any, obs: Obs, noise: jax.Array) -> jax.Array:
        """The policy's actions, not clipped. [B, A]"""
        return actor.apply(params, jnp.concatenate([obs.actor, noise], -1))

    def noises(keys: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        keys, _ = batch.key_pair
        action = jnp.clip(in_one_step(agent.actor.params, batch.next_obs, noises(keys)), -1.0, 1.0)
        q = values(agent.critic.target, batch.next_obs, action)
        target = batch.reward + batch.discount * (
            q.mean(0) if config.critic_q == "mean" else q.min(0)
        )

        def loss_fn(params):
            q = values(params, batch.obs, batch.action)
            loss = batch.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=critic), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        _, keys = batch.key_pair
        k_flow, k_noise = split_each(keys)
        noise, ones = noises(k_noise), jnp.ones(1)

        def flow_loss(params):
            each = lambda obs, action, key: flow.loss(params, obs[None], action[None], ones, key)
            loss = batch.mean(jax.vmap(each)(batch.obs.actor, batch.action, k_flow))
            return loss, {"flow_loss": loss}

        imitated = jax.vmap(flow.from_noise, (None, 0, 0))(
            agent.flow.params, batch.obs.actor[:, None], noise[:, None]
        )[:, 0]

        def policy_loss(params):
            action = in_one_step(params, batch.obs, noise)
            q = values(agent.critic.params, batch.obs, jnp.clip(action, -1.0, 1.0)).mean(0)
            size = batch.total(batch.mean(jnp.abs(q))) if config.normalize_q else 1.0
            size = jnp.maximum(jax.lax.stop_gradient(size), 1e-6)
            distance = batch.mean(((action - imitated) ** 2).mean(-1))
            loss = config.distill_coef * distance - batch.mean(q) / size
            return loss, {"actor_loss": loss, "distill_loss": distance}

        grads, of_flow = batch.grad(flow_loss, agent.flow.params)
        new_flow = agent.flow.step(grads, config.actor_lr)
        grads, of_policy = batch.grad(policy_loss, agent.actor.params)
        new_actor = agent.actor.step(grads, config.actor_lr)
        return agent.replace(flow=new_flow, actor=new_actor), of_flow | of_policy

    def act(params, memory, obs: Obs, key, deterministic):
        """The noise is part of the policy, also of a deterministic one."""
        noise = jax.random.normal(key, (size,))
        return jnp.clip(in_one_step(params, obs, noise), -1.0, 1.0), memory

    return Algorithm(init=init, update=Delayed(update_critic, update_actor), act=act)


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """FQL on a `jaxrl.data.dataset.Dataset`; see `jaxrl.loops.offline.learner`."""
    return offline.learner(env, config, algorithm, dataset)
