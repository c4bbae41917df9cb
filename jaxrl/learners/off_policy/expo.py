"""EXPO (Dong et al. 2025, arXiv:2507.07986): an expressive base, small edits, the best of both.

No gradient of a value goes into the base, a flow that imitates every batch. A Gaussian edit policy
sees the observation and an action, and moves the action by at most `edit_scale`. The agent draws
actions of the base, edits each, and carries out the one of all that the critics prefer. The
critics' targets choose in the same way.

The rule is that of a third party's code (Servo97/EXPO, expo_learner.py), because the authors' is
not public. It differs in five points. The base is a flow, not a diffusion model. An edited action
is clipped; theirs may exceed the bounds. The average of the base's weights acts in targets, too;
theirs acts only in the environment. A target chooses and evaluates by the same random set of
critics; theirs draws two. `target_entropy` is that of an edit in [-1, 1], as with their
`adjust_target_entropy`, which is off by default: without it, a small scale makes the target
unreachable.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Finite, NonNegative, Share, Sizes, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, split_each
from jaxrl.nn import heads, spaces
from jaxrl.nn.layers import MLP
from jaxrl.ops import optim
from jaxrl.ops.optim import Net
from jaxrl.policies import improve
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings, whose actor is the edit policy, and those of the base."""

    base_lr: NonNegative = 3e-4
    base_rate: Share = 0.001  # how far the average of the base's weights follows at each update
    edit_scale: Share = 0.05  # where an action is in [-1, 1]; 0: no edits
    target_entropy: Finite = -0.5

    num_samples: Count = 8  # actions of the base, as many are edited
    denoise_steps: Count = 10
    base_hidden: Sizes = (256, 256, 256)
    num_critics: Count = 10
    layer_norm: bool = True
    actor_q: Literal["min", "mean"] = "mean"
    backup_entropy: bool = False


@struct.dataclass
class Agent:
    base: Net  # the flow; its target is the average that acts
    actor: Net  # the edit policy
    critic: Net  # ensemble, leading axis [num_critics]
    log_alpha: Net
    edit_scale: jax.Array  # [] of the config, for acting


def base_of(config: Config, action_size: int) -> heads.Head:
    """The flow of single actions, as chunks [1, A]."""
    trunk = heads.FlatTrunk(config.base_hidden, action_size)
    return heads.denoising(heads.FLOW, trunk, 1, action_size, config.denoise_steps, False)


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """EXPO's losses and updates."""
    size = actions.continuous()
    base = base_of(config, size)
    editor = MLP(config.actor_hidden, 2 * size, config.activation, config.actor_out_scale)
    critic = sac.critics(config)

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_base, k_actor, k_critic = jax.random.split(key, 3)
        with_action = lambda x: jnp.concatenate([x, jnp.zeros((1, size))], -1)
        edits = sac.new_agent(
            editor.init(k_actor, with_action(obs.actor)),
            critic.init(k_critic, with_action(obs.critic)),
            config,
        )
        flow = optim.net(base.init(k_base, obs.actor), target=True)
        return Agent(flow, edits.actor, edits.critic, edits.log_alpha, config.edit_scale)

    def values(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
        return critic.apply(params, jnp.concatenate([obs.critic, action], -1))[..., 0]

    def edit(params: Any, obs: Obs, action: jax.Array, scale: Any, keys: jax.Array):
        """Edited actions [B, A], and the log-probability [B] of the edits in [-1, 1]."""
        dist = spaces.tanh_normal(editor.apply(params, jnp.concatenate([obs.actor, action], -1)))
        raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
        return jnp.clip(action + scale * dist.squash(raw), -1.0, 1.0), dist.log_prob(raw)

    def candidates(params: Any, obs: Obs, key: jax.Array) -> jax.Array:
        """Actions of the base, then each of them edited. [2 num_samples, A]"""
        k_base, k_edit = (jax.random.split(k, config.num_samples) for k in jax.random.split(key))
        sample = lambda key: base.sample(params["base"], obs.actor[None], key, False)[0]
        drawn = jax.vmap(sample)(k_base)
        edited, _ = edit(params["actor"], repeated(obs), drawn, params["scale"], k_edit)
        return jnp.concatenate([drawn, edited])

    def repeated(obs: Obs, times: int = config.num_samples) -> Obs:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (times, *x.shape)), obs)

    def best(params: Any, obs: Obs, key: jax.Array, chosen: Any) -> tuple[jax.Array, jax.Array]:
        """The candidate [A] of the largest value, the least of the `chosen` critics, and the value."""
        found = candidates(params, obs, key)
        seen = repeated(obs, len(found))
        value = lambda action: values(params["critic"], seen, action)[chosen].min(0)
        ranked = improve.values_of(value, found)
        return found[ranked.argmax()], ranked.max()

    def keeps(agent: Agent) -> dict[str, Any]:
        kept = {"base": agent.base.target, "actor": agent.actor.params}
        return kept | {"critic": agent.critic.target, "scale": agent.edit_scale}

    def act(params, memory, obs: Obs, key, deterministic):
        """The draws are part of the policy, also of a deterministic one."""
        k_set, key = jax.random.split(key)
        return best(params, obs, key, sac.target_set(config, k_set))[0], memory

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        keys, _ = batch.key_pair
        agent = agent.replace(edit_scale=config.edit_scale)
        params = keeps(agent)
        chosen = sac.target_set(config, batch.shared_key)
        of_one = lambda obs, key: best(params, obs, key, chosen)[1]
        target = batch.reward + batch.discount * jax.vmap(of_one)(batch.next_obs, keys)

        def loss_fn(params):
            q = values(params, batch.obs, batch.action)
            loss = 0.5 * batch.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        new = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=new), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        _, keys = batch.key_pair
        k_base, k_edit = split_each(keys)
        ones = jnp.ones(1)

        def base_loss(params):
            each = lambda obs, action, key: base.loss(params, obs[None], action[None], ones, key)
            loss = batch.mean(jax.vmap(each)(batch.obs.actor, batch.action, k_base))
            return loss, {"base_loss": loss}

        def edit_loss(params):
            action, log_prob = edit(params, batch.obs, batch.action, config.edit_scale, k_edit)
            q = values(agent.critic.params, batch.obs, action)
            alpha = jnp.exp(agent.log_alpha.params)
            loss = batch.mean(alpha * log_prob - sac.actor_value(config, q))
            return loss, (batch.mean(-log_prob), {"actor_loss": loss})

        grads, of_base = batch.grad(base_loss, agent.base.params)
        new_base = agent.base.step(grads, config.base_lr).follow(config.base_rate)
        grads, (entropy, of_edit) = batch.grad(edit_loss, agent.actor.params)
        agent, more = sac.step_actor(agent, grads, batch, entropy, size, config)
        return agent.replace(base=new_base), of_base | of_edit | more

    return Algorithm(init=init, update=Delayed(update_critic, update_actor), act=act, keeps=keeps)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """EXPO on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors.

    A base that was trained before comes by `compose.warm_start`: its parameters as
    "agent.base.params" and "agent.base.target", and the `obs_moments` that it knows.
    """
    return off_policy.online(env, config, algorithm, prior)
