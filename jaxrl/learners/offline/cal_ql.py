"""Cal-QL (Nakamoto et al. 2023, arXiv:2303.05479): conservative Q-learning, calibrated by returns.

CQL (Kumar et al. 2020) lowers the values of actions that the data lack. Cal-QL lowers those of the
policy's actions no further than to the return that the data reached from there, so that online
learning need not first unlearn them. `calibrate=False` is CQL.

The rule is that of the authors' code (JaxCQL/conservative_sac.py), whose settings for AntMaze are
the defaults: the bound is on actions of the policy alone, not on uniform ones. It differs in three
points. The weight is fixed, without a Lagrange multiplier. Rows of the data share one policy update
per `policy_delay` critic updates. The critics are SAC's, with its initialisation.

`online` goes on with steps that it collects itself. Their returns are not known while an episode
lasts, so they have no bound; those of the prior data keep theirs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from envs.types import Env
from jaxrl.compose import returns_to_go
from jaxrl.config import Count, NonNegative, Sizes, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy, offline
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, UpdateOnBatch, n_step
from jaxrl.nn import spaces
from jaxrl.ops import conservative
from jaxrl.types import Learner, Means


@config
class Config(sac.Losses):
    """SAC's settings with those of the regulariser."""

    actor_lr: NonNegative = 1e-4
    conservative_coef: NonNegative = 5.0  # 5 for sparse -1/0 rewards, 1 for dense ones

    num_actions: Count = (
        10  # of each kind per state: uniform, the policy's, the policy's one step on
    )
    calibrate: bool = True
    max_target_backup: bool = True  # the best of `num_actions` next actions, else one
    unfinished: returns_to_go.Unfinished = "forever"  # beyond the clock, see jaxrl/compose

    normalize_obs: bool = True
    updates_per_step: Count = 100
    backup_entropy: bool = False
    critic_hidden: Sizes = (256, 256, 256, 256)


@config
class Online(Config, off_policy.Collect):
    """Settings of a learner that collects, too."""


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SAC's actor, and critics that are conservative."""
    size = actions.continuous()
    nets = sac.networks(config, size)
    return Algorithm(
        init=nets.init,
        update=Delayed(critic_update(nets, size), sac.actor_update(nets, size)),
        act=nets.act,
        window=returns_to_go.unknown,
        cut=returns_to_go.first_of(n_step(config.n_step)),
    )


def critic_update(nets: sac.Networks, action_size: int) -> UpdateOnBatch:
    """The critics regress on their targets, and lower the values of sampled actions."""

    def several(agent: sac.Agent, obs: Obs, keys: jax.Array, count: int):
        """Actions [count, B, A] of the policy, and their log-probabilities [count, B]."""
        many = jax.vmap(lambda key: jax.random.split(key, count))(keys)
        return jax.vmap(nets.sample, (None, None, 1))(agent.actor.params, obs, many)

    def best_target(agent: sac.Agent, batch: Batch, config: Config) -> jax.Array:
        """The TD target of the best of several next actions. [B]"""
        keys, _ = batch.key_pair
        actions, log_prob = several(agent, batch.next_obs, keys, config.num_actions)
        each = lambda action: nets.values(agent.critic.target, batch.next_obs, action)[..., 0]
        q = jax.vmap(each)(actions)[:, sac.target_set(config, batch.shared_key)].min(1)
        best = q.argmax(0)[None]
        value = jnp.take_along_axis(q, best, 0)[0]
        if config.backup_entropy:
            alpha = jnp.exp(agent.log_alpha.params)
            value -= alpha * jnp.take_along_axis(log_prob, best, 0)[0]
        return batch.reward + batch.discount * value

    def update_critic(agent: sac.Agent, batch: Batch, config: Config) -> tuple[sac.Agent, Means]:
        if config.max_target_backup:
            target = best_target(agent, batch, config)
        else:
            target = sac.td_target(nets, agent, batch, config)

        # --- Actions whose values are lowered ---
        count, size = config.num_actions, len(batch.valid)
        of = lambda i: jax.vmap(jax.random.fold_in, (0, None))(batch.key, i)
        draw = lambda key: jax.random.uniform(key, (count, action_size), minval=-1.0)
        uniform = jax.vmap(draw, out_axes=1)(of(1))
        here, log_here = several(agent, batch.obs, of(2), count)
        ahead, log_ahead = several(agent, batch.next_obs, of(3), count)
        sampled = jnp.concatenate([uniform, here, ahead])  # [3 count, B, A]
        log_uniform = jnp.full((count, size), -action_size * jnp.log(2.0))
        log_density = jnp.concatenate([log_uniform, log_here, log_ahead])
        floor = batch.signals[returns_to_go.SIGNAL] if config.calibrate else -jnp.inf
        of_policy = jnp.arange(3 * count)[:, None] >= count
        bound = jnp.where(of_policy, jnp.broadcast_to(floor, (1, size)), -jnp.inf)

        def loss_fn(params):
            q = nets.values(params, batch.obs, batch.action)[..., 0]
            each = lambda action: nets.values(params, batch.obs, action)[..., 0]
            gap = conservative.gap(jax.vmap(each)(sampled), log_density, bound, q)
            td = batch.mean((q - target) ** 2).mean()
            loss = 0.5 * (td + config.conservative_coef * batch.mean(gap).mean())
            metrics = {"q": batch.mean(q).mean(), "conservative_gap": batch.mean(gap).mean()}
            return loss, {"critic_loss": loss} | metrics

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=critic), metrics

    return update_critic


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """Cal-QL on a `jaxrl.data.dataset.Dataset`; see `jaxrl.loops.offline.learner`."""
    learner = offline.learner(env, config, algorithm, dataset)
    return returns_to_go.with_returns(learner, config.unfinished)


def online(env: Env, config: Online, prior: Any = None) -> Learner:
    """Cal-QL that collects, and draws `config.prior_ratio` of its batches from `prior`.

    `compose.warm_start` gives it the `agent` and the `obs_moments` of an offline run. See
    `jaxrl.learners.off_policy.sac.make` for arguments and errors.
    """
    learner = off_policy.online(env, config, algorithm, prior)
    return returns_to_go.with_returns(learner, config.unfinished)
