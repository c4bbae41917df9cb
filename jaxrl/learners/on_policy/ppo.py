"""Proximal policy optimisation (Schulman et al. 2017) on vectorised environments.

Collection, epochs and minibatches are the on-policy engine's, `jaxrl/loops/on_policy.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from envs.contract import single_agent
from envs.types import Box, Env
from jaxrl.config import Fixed, Limit, Natural, Sizes, config
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import OnPolicy, Sample
from jaxrl.nn import pixels, spaces
from jaxrl.nn.actors import Actor, Network, actor_critic, distribution_actor
from jaxrl.nn.layers import Activation, ActorCritic, Start
from jaxrl.types import Learner, Means


@config
class Config(OnPolicy):
    """PPO's settings."""

    clip_ratio: Limit = 0.2
    value_clip: Limit = math.inf  # PPO2's clipping of the value loss; inf: off

    actor_hidden: Sizes = (64, 64)
    critic_hidden: Sizes = (128, 128)
    activation: Activation = "swish"
    start: Start = "lecun"  # of the weights; "orthogonal" is the usual choice of PPO
    actor_out_scale: Fixed = 0.01  # 0: starts at no action
    init_log_std: Fixed = 0.0  # distribution="normal"
    gru_width: Natural = 0  # 0: no recurrence
    distribution: Literal["tanh_normal", "normal"] = "tanh_normal"
    actor_obs: tuple[str, ...] = ()  # entries of a dict observation; (): every one
    critic_obs: tuple[str, ...] = ()

    @property
    def recurrent(self) -> bool:
        return self.gru_width > 0


def networks(
    env: Env, config: Config, values: int = 1, memory: Callable[[], nn.Module] | None = None
) -> tuple[Network, Actor]:
    """Separate MLPs or GRUs for actor and critic, and a Gaussian actor or one of one or several categoricals.

    The critic has `values` outputs. `memory` replaces the GRU, see `ActorCritic`. Images in the
    observation are seen through an encoder each, of actor and critic (`jaxrl/nn/pixels.py`).
    """
    space = env.action_space
    discrete = not isinstance(space, Box)
    free_log_std = not discrete and config.distribution == "normal"
    size = spaces.num_logits(space) if discrete else math.prod(space.shape)
    module = ActorCritic(
        config.actor_hidden,
        config.critic_hidden,
        size if discrete or free_log_std else 2 * size,
        config.activation,
        free_log_std,
        config.gru_width,
        config.actor_out_scale,
        config.init_log_std,
        values,
        config.start,
        memory,
        pixels.eyes(env.observation_space, config.actor_obs, config.critic_obs),
    )
    network = actor_critic(module, config.actor_obs, config.critic_obs)
    return network, distribution_actor(space, config.distribution)


def clipped(sample: Sample, config: Config) -> tuple[jax.Array, Means]:
    """The clipped surrogate objective (Schulman et al. 2017, eq. 7), negated."""
    low, high = 1.0 - config.clip_ratio, 1.0 + config.clip_ratio
    inside = jnp.clip(sample.ratio, low, high)
    losses = -jnp.minimum(sample.ratio * sample.advantage, inside * sample.advantage)
    return losses, {"clip_fraction": jnp.abs(sample.ratio - 1.0) > config.clip_ratio}


def clipped_value(sample: Sample, config: Config) -> tuple[jax.Array, Means]:
    """Half the squared error, of the value or of the value near the old one if that is larger."""
    old, target = sample.unroll.value, sample.target
    near = old + jnp.clip(sample.value - old, -config.value_clip, config.value_clip)
    return 0.5 * jnp.maximum((sample.value - target) ** 2, (near - target) ** 2), {}


def make(env: Env, config: Config) -> Learner:
    """PPO on `env`.

    Args:
      env: one environment instance; actions continuous (bounded or, as "normal", not) or
        discrete (also MultiDiscrete), observations an array [obs] or a dict of arrays.
      config: see `Config`.

    Raises:
      ValueError: a field out of range, or actions that `config.distribution` does not fit.
    """
    env = single_agent(env)
    return on_policy.make(env, config, *networks(env, config), clipped, clipped_value)
