"""IDQL (Hansen-Estruch et al. 2023, arXiv:2304.10573): IQL's critics choose among samples of a clone.

A diffusion model imitates the data without weights. The agent draws several actions and carries out
the one of the highest value, the least of two target critics. This is best-of-N with the clone
trained beside the critics.

The rule is that of the authors' code (jaxrl5/agents/ddpm_iql/ddpm_iql_learner.py). It differs in two
points. The noise schedule and the network are those of `jaxrl.nn.heads`. Their implicit policy,
which draws by expectile weights while it evaluates, is not here: they act greedily on D4RL.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Share, Sizes, config
from jaxrl.learners.offline import iql
from jaxrl.loops import offline
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs
from jaxrl.nn import heads, spaces
from jaxrl.nn.layers import Ensemble
from jaxrl.ops import optim, schedules
from jaxrl.ops.optim import Net
from jaxrl.policies import improve
from jaxrl.types import Learner, Means


@config
class Config(iql.Config):
    """IQL's settings, and those of the clone. `beta` is not used."""

    actor_rate: Share = 0.001  # how far the average of the clone's weights, which acts, follows

    clone: heads.Kind = "diffusion"
    num_samples: Count = 64
    denoise_steps: Count = 5
    actor_hidden: Sizes = (256, 256, 256)


@struct.dataclass
class Agent:
    actor: Net  # the clone; its target is the average that acts
    value: Net
    critic: Net  # two, leading axis [2]


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """IQL's critics, the clone's loss, the choice."""
    size = actions.continuous()
    critics = iql.algorithm(config, actions)
    trunk = heads.FlatTrunk(config.actor_hidden, size)
    clone = heads.of_kind(config.clone, trunk, 1, size, config.denoise_steps)
    critic = Ensemble(2, config.critic_hidden, 1, config.activation, config.layer_norm)

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_iql, k_clone = jax.random.split(key)
        own = critics.init(k_iql, obs, config)
        actor = optim.net(clone.init(k_clone, obs.actor), target=True)
        return Agent(actor, own.value, own.critic)

    def keeps(agent: Agent) -> dict[str, Any]:
        return {"actor": agent.actor.target, "critic": agent.critic.target}

    def act(params, memory, obs: Obs, key, deterministic):
        """The draws are part of the policy, also of a deterministic one."""
        draw = lambda key: clone.sample(params["actor"], obs.actor[None], key, False)[0]
        found = jax.vmap(draw)(jax.random.split(key, config.num_samples))
        seen = jnp.broadcast_to(obs.critic, (len(found), *obs.critic.shape))
        joined = lambda action: jnp.concatenate([seen, action], -1)
        q = lambda action: critic.apply(params["critic"], joined(action))[..., 0].min(0)
        return improve.best_of(q, found), memory

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        ones = jnp.ones(1)

        def loss_fn(params):
            each = lambda obs, action, key: clone.loss(params, obs[None], action[None], ones, key)
            loss = batch.mean(jax.vmap(each)(batch.obs.actor, batch.action, batch.key))
            return loss, {"actor_loss": loss}

        grads, metrics = batch.grad(loss_fn, agent.actor.params)
        updates = agent.actor.opt.count * config.policy_delay
        rate = schedules.cosine(config.actor_lr, schedules.progress(updates, config.schedule_steps))
        actor = agent.actor.step(grads, rate).follow(config.actor_rate)
        return agent.replace(actor=actor), metrics

    update = Delayed(critics.update.critic, update_actor)
    return dataclasses.replace(critics, init=init, update=update, act=act, keeps=keeps)


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """IDQL on a `jaxrl.data.dataset.Dataset`; see `jaxrl.loops.offline.learner`."""
    return offline.learner(env, config, algorithm, dataset)
