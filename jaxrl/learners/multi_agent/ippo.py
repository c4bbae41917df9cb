"""Independent PPO (de Witt et al. 2020, "Is Independent Learning All You Need?").

Every agent runs PPO on its own observations and rewards, and the others are part of its
environment. With `shared` parameters one network acts for all agents and sees which of them it is.
Otherwise each agent has a network of its own, and no gradient passes between agents; only
`max_grad_norm` and an adaptive learning rate look at all of them.

Agents are an axis: values, log-probabilities, advantages and rewards are [T, N, A].
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from envs.types import Env, num_agents_of
from jaxrl.config import config
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.nn.actors import Actor, Network
from jaxrl.types import Learner

NEVER = -1e9  # the logit of an action that the mask forbids


@config
class Config(ppo.Config):
    """PPO's settings. `actor_obs` and `critic_obs` name entries [A, ...]; (): "obs"."""

    shared: bool = True  # one network for all agents


def networks(env: Env, config: Config) -> tuple[Network, Actor]:
    """PPO's networks with an axis of agents after the environments'."""
    agents = num_agents_of(env)
    entry = lambda keys: keys or ("obs",)
    own = config.replace(actor_obs=entry(config.actor_obs), critic_obs=entry(config.critic_obs))
    seen = (*own.actor_obs, *own.critic_obs)
    if config.shared:
        own = own.replace(
            actor_obs=(*own.actor_obs, "agent"), critic_obs=(*own.critic_obs, "agent")
        )
    one, actor = ppo.networks(env, own)

    def each(obs: Any, reset: jax.Array) -> dict[str, jax.Array]:
        """The entries that networks see, [T, B, A, ...]."""
        identity = jnp.broadcast_to(jnp.eye(agents), (*reset.shape, agents, agents))
        return {name: obs[name] for name in seen} | {"agent": identity}

    def masked(outputs: jax.Array, obs: Any) -> jax.Array:
        return jnp.where(obs["mask"], outputs, NEVER) if "mask" in obs else outputs

    def init(key, obs, reset):
        obs, example = each(obs, reset), jax.tree.map(lambda x: x[:, :, 0], each(obs, reset))
        if config.shared:
            return one.init(key, example, reset)
        start = lambda key: one.init(key, example, reset)
        return jax.vmap(start)(jax.random.split(key, agents))

    def apply(params, carry, obs, reset):
        axes = jax.tree.map(lambda _: 2, entries := each(obs, reset))
        run = jax.vmap(
            one.apply, (None if config.shared else 0, 1, axes, None), (1, 2, 2), axis_size=agents
        )
        carry, outputs, value = run(params, carry, entries, reset)
        return carry, masked(outputs, obs), value

    def init_carry(batch: int):
        wide = lambda x: jnp.repeat(x[:, None], agents, 1)
        return jax.tree.map(wide, one.init_carry(batch))

    return Network(init, apply, init_carry), actor


def make(env: Env, config: Config) -> Learner:
    """Independent PPO on `env`.

    Args:
      env: one environment instance with agents (`envs.types.Agents`). A "mask" [A, n] forbids
        actions. "alive" is not read: an agent that is not alive has only one action left.
      config: see `Config`.

    Raises:
      ValueError: a field out of range, or an environment without an agent axis.
    """
    if num_agents_of(env) is None:
        raise ValueError("num_agents=None: the environment must have an agent axis")
    return on_policy.make(env, config, *networks(env, config), ppo.clipped, ppo.clipped_value)
