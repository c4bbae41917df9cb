"""On-policy mirror-descent policy optimisation (Tomar et al. 2022).

PPO's engine with a proximal term instead of clipping. The weight of the term, 1 / t_k, grows as
t_k falls linearly to 0 over `schedule_steps`. The off-policy form is
`jaxrl/learners/off_policy/mdpo.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from envs.contract import single_agent
from envs.types import Env
from jaxrl.config import config
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import Sample
from jaxrl.types import Learner, Means


@config
class Config(ppo.Config):
    """PPO's settings; `clip_ratio` has no effect on the policy."""

    @property
    def has_schedule(self) -> bool:
        return True


def make(env: Env, config: Config) -> Learner:
    """On-policy MDPO on `env`; see `jaxrl.learners.on_policy.ppo.make`."""
    env = single_agent(env)
    network, actor = ppo.networks(env, config)

    def proximal(sample: Sample, config: Config) -> tuple[jax.Array, Means]:
        """KL(policy || old policy) / t_k - ratio * advantage (eq. 8)."""
        kl = actor.kl(sample.outputs, sample.unroll.outputs)
        weighted = kl / jnp.maximum(1.0 - sample.progress, 1e-2)
        return weighted - sample.ratio * sample.advantage, {}

    return on_policy.make(env, config, network, actor, proximal, ppo.clipped_value)
