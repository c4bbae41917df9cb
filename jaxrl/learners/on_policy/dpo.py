"""Discovered policy optimisation (Lu et al. 2022, arXiv 2210.05639).

PPO's engine with a drift function instead of clipping. The drift is the closed form of one that
meta-learning found, by the authors' code. It is flat around a ratio of 1, so the first gradient is
the policy gradient. It grows smoothly, and differently for good and for bad actions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from envs.contract import single_agent
from envs.types import Env
from jaxrl.config import Positive, config
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import Sample
from jaxrl.types import Learner, Means


@config
class Config(ppo.Config):
    """PPO's settings; `clip_ratio` has no effect on the policy."""

    drift_good: Positive = 2.0  # alpha: how far the ratio of a good action goes before it is held
    drift_bad: Positive = 0.6  # beta: how far the log-ratio of a bad action goes


def drift(ratio: jax.Array, advantage: jax.Array, config: Config) -> jax.Array:
    """The penalty on leaving the old policy, elementwise and at least 0."""
    # Where x <= 0 the difference is at most 0. `relu` would keep what rounding makes positive, and
    # at a ratio of 1, where everything is rounding, its gradient.
    excess = lambda x, scale: jnp.where(x > 0.0, x - scale * jnp.tanh(x / scale), 0.0)
    good = excess((ratio - 1.0) * advantage, config.drift_good)
    bad = excess(jnp.log(ratio) * advantage, config.drift_bad)
    return jnp.where(advantage >= 0.0, good, bad)


def drifting(sample: Sample, config: Config) -> tuple[jax.Array, Means]:
    """drift - ratio * advantage."""
    penalty = drift(sample.ratio, sample.advantage, config)
    return penalty - sample.ratio * sample.advantage, {"drift": penalty}


def make(env: Env, config: Config) -> Learner:
    """DPO on `env`; see `jaxrl.learners.on_policy.ppo.make`."""
    env = single_agent(env)
    return on_policy.make(env, config, *ppo.networks(env, config), drifting, ppo.clipped_value)
