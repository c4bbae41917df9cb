"""PPO-Lagrangian (Ray et al. 2019, "Benchmarking Safe Exploration in Deep RL").

PPO under a limit on the mean cost of an episode. The cost is the environment's signal "cost". The
critic has a second value, of the cost. The policy follows (A_reward - m * A_cost) / (1 + m), with
a multiplier m >= 0 that rises while episodes cost more than the limit and falls otherwise.

The authors keep m positive by a softplus and update it by Adam. Here m is projected onto m >= 0
after a plain gradient step. The engine normalises the combined advantage over each minibatch,
while the authors normalise that of the reward alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from envs.contract import single_agent
from envs.types import Env
from jaxrl.config import NonNegative, Share, config
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import Unroll
from jaxrl.ops.returns import gae
from jaxrl.types import Learner, Means, Metrics


@config
class Config(ppo.Config):
    """PPO's settings and those of the constraint."""

    cost_limit: NonNegative = 25.0  # of the sum of the costs of an episode, on average
    cost_gamma: Share = 0.99
    cost_gae_lambda: Share = 0.97
    multiplier_rate: NonNegative = 0.05  # per iteration and unit of cost
    init_multiplier: NonNegative = 1.0


def combined(
    unroll: Unroll, next_value: jax.Array, multiplier: jax.Array, config: Config
) -> tuple[jax.Array, jax.Array]:
    """Advantages [T, N] of reward and cost together, and targets [T, N, 2] of their values."""
    advantages = gae(
        reward=jnp.stack([unroll.reward, unroll.signals["cost"]], -1),
        value=unroll.value,
        next_value=next_value,
        terminated=unroll.terminated[..., None],
        done=unroll.done[..., None],
        gamma=jnp.stack([config.gamma, config.cost_gamma]),
        gae_lambda=jnp.stack([config.gae_lambda, config.cost_gae_lambda]),
        valid=unroll.valid[..., None],
    )
    reward, cost = advantages[..., 0], advantages[..., 1]
    return (reward - multiplier * cost) / (1.0 + multiplier), advantages + unroll.value


def ascend(
    multiplier: jax.Array, unroll: Unroll, episodes: Metrics, mean, config: Config
) -> tuple[jax.Array, Means]:
    """One step of dual ascent on the mean cost of the episodes that ended, if any did."""
    count = episodes.sums["episodes"]
    cost = episodes.per_episode["episode_signal_cost"] / jnp.maximum(count, 1.0)
    excess = jnp.where(count > 0, cost - config.cost_limit, 0.0)
    multiplier = jnp.maximum(multiplier + config.multiplier_rate * excess, 0.0)
    return multiplier, {"multiplier": multiplier}


def make(env: Env, config: Config) -> Learner:
    """PPO-Lagrangian on `env`.

    Args:
      env: as for `jaxrl.learners.on_policy.ppo.make`, with a signal "cost".
      config: see `Config`.

    Raises:
      ValueError: a field out of range, or an environment without costs.
    """
    env = single_agent(env)
    signals = sorted(jax.eval_shape(env.reset, jax.random.key(0)).signals)
    if "cost" not in signals:
        raise ValueError(f"signals={signals}: the environment must give a signal 'cost'")
    return on_policy.make(
        env,
        config,
        *ppo.networks(env, config, values=2),
        ppo.clipped,
        ppo.clipped_value,
        advantage=combined,
        extra=lambda config: jnp.asarray(config.init_multiplier, jnp.float32),
        after=ascend,
    )
