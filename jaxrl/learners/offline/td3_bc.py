"""TD3+BC (Fujimoto & Gu 2021): TD3 from data alone, whose actor also imitates the data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from envs.types import Env
from jaxrl.config import Count, NonNegative, config
from jaxrl.learners.off_policy import td3
from jaxrl.loops import offline
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, UpdateOnBatch
from jaxrl.nn import spaces
from jaxrl.types import Learner, Means


@config
class Config(td3.Losses):
    """TD3's settings with the paper's defaults.

    Observations are divided by sqrt(var + 1e-8), as in every learner here, and entries that do not
    vary in the data are only centred. The authors divide by std + 1e-3, which amplifies entries
    that hardly vary less.
    """

    q_coef: NonNegative = 2.5  # weight of the normalised value (alpha of the paper)

    normalize_obs: bool = True
    updates_per_step: Count = 100


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """TD3's critics, and an actor that also imitates."""
    nets = td3.networks(config, actions.continuous())
    return Algorithm(
        init=nets.init,
        update=Delayed(td3.critic_update(nets), actor_update(nets)),
        act=lambda params, memory, obs, key, deterministic: (nets.act_on(params, obs), memory),
    )


def actor_update(nets: td3.Networks) -> UpdateOnBatch:
    """Least squares on the recorded actions, minus `q_coef` times the value over its mean size."""

    def update_actor(agent: td3.Agent, batch: Batch, config: Config) -> tuple[td3.Agent, Means]:
        def loss_fn(params):
            action = nets.act_on(params, batch.obs)
            q = td3.actor_value(nets, agent, batch, action, config)
            size = jax.lax.stop_gradient(batch.total(batch.mean(jnp.abs(q))))
            bc = batch.mean(((action - batch.action) ** 2).mean(-1))
            loss = bc - config.q_coef * batch.mean(q) / jnp.maximum(size, 1e-6)
            return loss, {"actor_loss": loss, "bc_loss": bc}

        grads, metrics = batch.grad(loss_fn, agent.actor.params)
        actor = agent.actor.step(grads, config.actor_lr, config.weight_decay)
        return agent.replace(actor=actor), metrics

    return update_actor


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """TD3+BC on a `jaxrl.data.dataset.Dataset`; see `jaxrl.loops.offline.learner`."""
    return offline.learner(env, config, algorithm, dataset)
