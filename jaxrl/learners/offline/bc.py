"""Behaviour cloning: maximum likelihood of the recorded actions, or least squares."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from envs.types import Env
from jaxrl.config import Count, NonNegative, Sizes, config
from jaxrl.loops import offline
from jaxrl.loops.algorithm import Algorithm, Batch, Batches, Each, Obs, single
from jaxrl.nn import spaces
from jaxrl.nn.distributions import Normal
from jaxrl.nn.layers import MLP, Activation
from jaxrl.ops import optim
from jaxrl.ops.optim import Net
from jaxrl.types import Learner, Means

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0


@config
class Config(Batches):
    """BC's settings."""

    actor_lr: NonNegative = 3e-4
    weight_decay: NonNegative = 0.0

    loss: Literal["mse", "gaussian"] = "mse"  # or the Gaussian log-likelihood
    normalize_obs: bool = True
    updates_per_step: Count = 100
    actor_hidden: Sizes = (256, 256)
    activation: Activation = "relu"


@struct.dataclass
class Agent:
    actor: Net


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
    """A density of the action itself, so that recorded actions at the bounds have a finite
    likelihood: the mean is in [-1, 1] by tanh, the standard deviation is bounded."""
    return Normal(jnp.tanh(outputs), jnp.exp(jnp.clip(log_std, MIN_LOG_STD, MAX_LOG_STD)))


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """BC's loss and update."""
    size = actions.continuous()
    network = Actor(config.actor_hidden, size, config.activation, out_scale=0.01)

    def dist_of(params, obs: Obs) -> Normal:
        return gaussian(*network.apply(params, obs.actor))

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        return Agent(optim.net(network.init(key, obs.actor)))

    def update(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        def loss_fn(params):
            dist = dist_of(params, batch.obs)
            error = batch.mean(((dist.mean - batch.action) ** 2).mean(-1))
            nll = -batch.mean(dist.log_prob(batch.action))
            loss = nll if config.loss == "gaussian" else error
            return loss, {"actor_loss": loss, "action_error": error}

        grads, metrics = batch.grad(loss_fn, agent.actor.params)
        return Agent(agent.actor.step(grads, config.actor_lr, config.weight_decay)), metrics

    def act(params, memory, obs: Obs, key, deterministic):
        dist = dist_of(params, obs)
        if deterministic or config.loss == "mse":
            return dist.mode(), memory
        return dist.squash(dist.sample(key)), memory

    return Algorithm(init=init, update=Each(update), act=act, cut=single())


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """Behaviour cloning of a `jaxrl.data.dataset.Dataset`; see `jaxrl.loops.offline.learner`."""
    dataset = None if dataset is None else dataset.for_cloning()
    return offline.learner(env, config, algorithm, dataset)
