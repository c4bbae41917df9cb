"""Policy-agnostic RL (PA-RL, Mark et al. 2024, arXiv:2412.06685).

The critics improve actions, and the policy imitates what they made of them. So a policy of any class
can learn: here a flow, a diffusion model or a Gaussian. At a state T(s) is made of actions of the policy:

1. draw `num_samples`, keep the `num_kept` that the critics prefer,
2. move each `ascent_steps` times by `ascent_rate` up the gradient of the critics' mean.

The agent carries out the best of T(s). Critics are Cal-QL's, with T(s) as the policy's actions.
The policy imitates one of T(s), drawn by a softmax of the values; the recorded action takes part
in place of the least of those that were kept.

The rule is that of the authors' code (jaxrl_m/agents/continuous/{action_optimization,parl_calql,
cql}.py, train.py). It differs in three points. Critics are plain numbers, not distributions over
128 bins. The regulariser sees all of T(s); theirs sees its best action, ten times. It has all
critics; theirs has a random two.

The method has three phases, which `compose.warm_start` connects by "agent" and "obs_moments":
`cloning` fits the policy to data, `pretraining` the critics with the policy frozen, and `make`
learns online.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.compose import returns_to_go
from jaxrl.config import Count, Natural, NonNegative, Share, Sizes, at_most, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy, offline
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Each, Obs, n_step, single
from jaxrl.nn import heads, spaces
from jaxrl.nn.layers import Activation, Ensemble
from jaxrl.ops import conservative, optim
from jaxrl.ops.optim import Net
from jaxrl.policies import improve
from jaxrl.types import Learner, Means


@config
class Config(off_policy.Collect):
    """Settings of PA-RL."""

    actor_lr: NonNegative = 5e-5
    critic_lr: NonNegative = 3e-4
    tau: Share = 0.005
    ascent_rate: NonNegative = 3e-4  # for values of about 100; smaller values need larger steps
    temperature: NonNegative = 1.0  # of the action that the policy imitates; 0: the best one
    conservative_coef: NonNegative = 0.005

    policy: heads.Kind = "flow"
    num_samples: Count = 32
    num_kept: Count = 10
    ascent_steps: Natural = 10
    denoise_steps: Count = 10
    num_actions: Count = 10  # uniform ones, in the regulariser
    num_critics: Count = 10
    target_critics: Count = 2  # size of the random set whose minimum is the target
    unfinished: returns_to_go.Unfinished = "forever"  # beyond the clock, see jaxrl/compose
    layer_norm: bool = True  # in the critics
    actor_hidden: Sizes = (256, 256, 256)
    critic_hidden: Sizes = (256, 256)
    activation: Activation = "relu"  # of the critics

    def rules(self) -> None:
        super().rules()
        at_most(self, "num_kept", "num_samples")
        at_most(self, "target_critics", "num_critics")


@struct.dataclass
class Agent:
    actor: Net
    critic: Net  # ensemble, leading axis [num_critics]
    ascent_rate: jax.Array  # [] of the config, for acting


@dataclass(frozen=True)
class Parts:
    """The functions of which the three phases are made."""

    init: Callable[..., Agent]
    act: Callable[..., tuple[jax.Array, Any]]
    sample: Callable[..., tuple[jax.Array, Any]]  # the policy without the critics
    refined: Callable[..., jax.Array]  # (params, obs, key, recorded): T(s) [num_kept, A]
    update_critic: Callable[..., tuple[Agent, Means]]
    update_policy: Callable[..., tuple[Agent, Means]]  # towards T(s)
    clone: Callable[..., tuple[Agent, Means]]  # towards recorded actions


def keeps(agent: Agent) -> dict[str, Any]:
    return {
        "actor": agent.actor.params,
        "critic": agent.critic.params,
        "rate": agent.ascent_rate,
    }


def parts(config: Config, actions: spaces.Actions) -> Parts:
    """PA-RL's losses and updates."""
    size = actions.continuous()
    trunk = heads.FlatTrunk(config.actor_hidden, size)
    head = heads.of_kind(config.policy, trunk, 1, size, config.denoise_steps)
    critic = Ensemble(
        config.num_critics, config.critic_hidden, 1, config.activation, config.layer_norm
    )

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, size))], -1)
        return Agent(
            actor=optim.net(head.init(k_actor, obs.actor)),
            critic=optim.net(critic.init(k_critic, critic_in), target=True),
            ascent_rate=config.ascent_rate,
        )

    def values(params: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
        return critic.apply(params, jnp.concatenate([obs, action], -1))[..., 0]  # [critics, B]

    def mean_value(params: Any, obs: Obs) -> improve.Value:
        seen = lambda count: jnp.broadcast_to(obs.critic, (count, *obs.critic.shape))
        return lambda action: values(params["critic"], seen(len(action)), action).mean(0)

    def sample(params, memory, obs: Obs, key, deterministic):
        return head.sample(params["actor"], obs.actor[None], key, deterministic)[0], memory

    def refined(params: Any, obs: Obs, key: jax.Array, recorded: Any = None) -> jax.Array:
        draw = lambda key: sample(params, (), obs, key, False)[0]
        drawn = jax.vmap(draw)(jax.random.split(key, config.num_samples))
        q = mean_value(params, obs)
        kept = improve.top_of(q, drawn, config.num_kept)
        kept = kept if recorded is None else kept.at[-1].set(recorded)
        return improve.ascend(q, kept, config.ascent_steps, params["rate"])

    def act(params, memory, obs: Obs, key, deterministic):
        """The draws are part of the policy, also of a deterministic one."""
        found = refined(params, obs, key)
        return improve.best_of(mean_value(params, obs), found), memory

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        agent = agent.replace(ascent_rate=config.ascent_rate)
        params, (keys, _) = keeps(agent), batch.key_pair
        of = lambda i: jax.vmap(jax.random.fold_in, (0, None))(batch.key, i)
        here = jax.vmap(refined, (None, 0, 0))(params, batch.obs, of(1))  # [B, num_kept, A]
        ahead = jax.vmap(refined, (None, 0, 0))(params, batch.next_obs, keys)
        best = lambda obs, found: improve.best_of(mean_value(params, obs), found)
        q = values(
            agent.critic.target, batch.next_obs.critic, jax.vmap(best)(batch.next_obs, ahead)
        )
        next_value = q[sac.target_set(config, batch.shared_key)].min(0)
        target = batch.reward + batch.discount * next_value

        # --- Actions whose values are lowered, the policy's no further than to the bound ---
        draw = lambda key: jax.random.uniform(key, (config.num_actions, size), minval=-1.0)
        sampled = jnp.concatenate([jax.vmap(draw)(of(2)), here, ahead], 1)
        sampled = jnp.moveaxis(sampled, 1, 0)  # [K, B, A]
        count = len(sampled)
        of_policy = jnp.arange(count + 1)[:, None] >= config.num_actions
        of_policy &= jnp.arange(count + 1)[:, None] < count  # the last is the recorded action
        bound = jnp.where(of_policy, batch.signals[returns_to_go.SIGNAL], -jnp.inf)
        log_density = jnp.full(bound.shape, jnp.log(count + 1.0))

        def loss_fn(params):
            q = values(params, batch.obs.critic, batch.action)
            each = jax.vmap(lambda action: values(params, batch.obs.critic, action))(sampled)
            gap = conservative.gap(jnp.concatenate([each, q[None]]), log_density, bound, q)
            td = batch.mean((q - target) ** 2).mean()
            loss = 0.5 * (td + config.conservative_coef * batch.mean(gap).mean())
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        new = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=new), metrics

    def imitate(agent: Agent, batch: Batch, action: jax.Array, keys: jax.Array, config: Config):
        ones = jnp.ones(1)

        def loss_fn(params):
            each = lambda obs, action, key: head.loss(params, obs[None], action[None], ones, key)
            loss = batch.mean(jax.vmap(each)(batch.obs.actor, action, keys))
            return loss, {"actor_loss": loss}

        grads, metrics = batch.grad(loss_fn, agent.actor.params)
        return agent.replace(actor=agent.actor.step(grads, config.actor_lr)), metrics

    def update_policy(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        params, (_, keys) = keeps(agent), batch.key_pair
        three = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        k_draw, k_choose, k_loss = (three[:, i] for i in range(3))

        def better(obs, recorded, k_draw, k_choose):
            found = refined(params, obs, k_draw, recorded)
            return improve.softmax_of(mean_value(params, obs), found, config.temperature, k_choose)

        action = jax.vmap(better)(batch.obs, batch.action, k_draw, k_choose)
        return imitate(agent, batch, action, k_loss, config)

    def clone(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        return imitate(agent, batch, batch.action, batch.key, config)

    return Parts(init, act, sample, refined, update_critic, update_policy, clone)


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """Critics and the policy learn."""
    own = parts(config, actions)
    return Algorithm(
        init=own.init,
        update=Delayed(own.update_critic, own.update_policy),
        act=own.act,
        keeps=keeps,
        window=returns_to_go.unknown,
        cut=returns_to_go.first_of(n_step(config.n_step)),
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """PA-RL on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors.

    What it collects has no bound by returns, as in `cal_ql.online`.
    """
    learner = off_policy.online(env, config, algorithm, prior)
    return returns_to_go.with_returns(learner, config.unfinished)


def pretraining(env: Env, config: Config, dataset: Any = None) -> Learner:
    """Only the critics learn, from a data set; see `jaxrl.loops.offline.learner`."""

    def build(config: Config, actions: spaces.Actions) -> Algorithm:
        update = Delayed(parts(config, actions).update_critic, lambda agent, *_: (agent, {}))
        return dataclasses.replace(algorithm(config, actions), update=update)

    learner = offline.learner(env, config, build, dataset)
    return returns_to_go.with_returns(learner, config.unfinished)


def cloning(env: Env, config: Config, dataset: Any = None) -> Learner:
    """Only the policy learns, from the actions of a data set, and acts without critics."""

    def build(config: Config, actions: spaces.Actions) -> Algorithm:
        own = parts(config, actions)
        return Algorithm(
            init=own.init, update=Each(own.clone), act=own.sample, keeps=keeps, cut=single()
        )

    dataset = None if dataset is None else dataset.for_cloning()
    return offline.learner(env, config, build, dataset)
