"""Behaviour cloning: maximum likelihood of the recorded actions, or least squares."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from envs.types import Env
from jaxrl import checks
from jaxrl.loops import off_policy, offline
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.nn.distributions import Normal
from jaxrl.nn.layers import ACTIVATIONS, MLP
from jaxrl.ops import optim
from jaxrl.types import Learner, Metrics

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0


@struct.dataclass
class Config(off_policy.Config):
    """BC's settings: plain numbers can be swept in one program, the others shape it. What is about
    rewards and values (gamma, n_step, ...) has no effect."""

    actor_lr: float = 3e-4
    weight_decay: float = 0.0

    loss: str = struct.field(pytree_node=False, default="mse")  # or "gaussian": log-likelihood
    normalize_obs: bool = struct.field(pytree_node=False, default=True)
    updates_per_step: int = struct.field(pytree_node=False, default=100)
    actor_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    activation: str = struct.field(pytree_node=False, default="relu")


@struct.dataclass
class Agent:
    actor: Any
    actor_opt: Any


class Actor(nn.Module):
    """Means from the observation, log standard deviations that are parameters alone.

    A deviation that depends on the observation starves rare actions, see `jaxrl.nn.heads.gaussian`.
    """

    hidden: tuple[int, ...]
    action_size: int
    activation: str
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, obs: jax.Array):
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_size,))
        mlp = MLP(self.hidden, self.action_size, self.activation, self.out_scale)
        return mlp(obs), log_std


def gaussian(outputs: jax.Array, log_std: jax.Array) -> Normal:
    """Mean in [-1, 1] by tanh, bounded standard deviation: a density of the action itself, so
    that recorded actions at the bounds have a finite likelihood."""
    return Normal(jnp.tanh(outputs), jnp.exp(jnp.clip(log_std, MIN_LOG_STD, MAX_LOG_STD)))


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    network = Actor(c.actor_hidden, action_size, c.activation, out_scale=0.01)

    def dist_of(params, obs) -> Normal:
        return gaussian(*network.apply(params, obs))

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        params = network.init(key, actor_obs)
        return Agent(params, optim.init(params))

    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        def loss_fn(params):
            dist = dist_of(params, batch.actor_obs)
            error = batch.mean(((dist.mean - batch.action) ** 2).mean(-1))
            nll = -batch.mean(dist.log_prob(batch.action))
            loss = nll if c.loss == "gaussian" else error
            return loss, {"actor_loss": loss, "action_error": error}

        grads, metrics = jax.grad(loss_fn, has_aux=True)(agent.actor)
        params, opt = optim.adam(
            agent.actor, psum(grads), agent.actor_opt, hp.actor_lr, hp.weight_decay
        )
        return Agent(params, opt), metrics

    def act(params, obs, key, deterministic):
        dist = dist_of(params, obs)
        if deterministic or c.loss == "mse":
            return dist.mode()
        return dist.squash(dist.sample(key))

    return Algorithm(
        init=init,
        update_critic=lambda agent, batch, hp: (agent, {}),
        update_actor=update_actor,
        act=act,
    )


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """Behaviour cloning of a `jaxrl.data.Dataset`; see `jaxrl.loops.offline.learner`."""
    dataset = None if dataset is None else dataset.for_cloning()
    return offline.learner(env, config, algorithm, validate, dataset)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    offline.validate(c)
    if c.policy_delay != 1:
        raise ValueError(f"policy_delay={c.policy_delay}: must be 1, there are no critics")
    checks.in_range(c, 0.0, math.inf, "actor_lr", "weight_decay")
    checks.finite(c, "actor_lr", "weight_decay")
    checks.sizes(c, "actor_hidden")
    checks.one_of(c, "loss", ("mse", "gaussian"))
    checks.one_of(c, "activation", ACTIVATIONS)
