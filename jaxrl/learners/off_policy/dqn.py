"""Deep Q-learning (Mnih et al. 2015) with its usual improvements as settings.

Double targets (van Hasselt et al. 2016), a dueling network (Wang et al. 2016; here value and
advantages share every hidden layer) and n-step returns (Hessel et al. 2018).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs.types import Env
from jaxrl.config import Count, NonNegative, Positive, Share, Sizes, config
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Each, Obs
from jaxrl.nn import spaces
from jaxrl.nn.layers import MLP, Activation
from jaxrl.ops import optim
from jaxrl.ops.optim import Net
from jaxrl.types import Learner, Means


@config
class Config(off_policy.Collect):
    """DQN's settings. `policy_delay` and `actor_starts` do nothing, as there is no actor."""

    learning_rate: NonNegative = 3e-4
    # The share of random actions falls linearly between these, from `learning_starts` on.
    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.05
    epsilon_steps: Positive = 50_000.0  # env steps that the fall takes
    tau: Share = 1.0  # how far the target follows, 1 copies the network
    target_every: Count = 250  # updates between which it does not follow

    double: bool = True  # the network chooses the next action, its target says what it is worth
    dueling: bool = False
    hidden: Sizes = (256, 256)
    activation: Activation = "relu"


@struct.dataclass
class Agent:
    critic: Net
    updates: jax.Array  # [] int32, how many there have been


def values(config: Config, num_actions: int):
    """The network: `init(key, obs [B, obs])`, and `apply(params, obs)` to [B, num_actions]."""
    net = MLP(config.hidden, num_actions + config.dueling, config.activation)

    def apply(params: Any, obs: jax.Array) -> jax.Array:
        out = net.apply(params, obs)
        if not config.dueling:
            return out
        value, advantage = out[..., :1], out[..., 1:]
        return value + advantage - advantage.mean(-1, keepdims=True)

    return net.init, apply


def epsilon(updates: jax.Array, config: Config) -> jax.Array:
    """Returns the share of random actions after this many updates. []"""
    steps = updates * (config.num_envs * config.unroll_length / config.updates_per_step)
    fallen = jnp.minimum(steps / config.epsilon_steps, 1.0)
    return config.epsilon_start + fallen * (config.epsilon_end - config.epsilon_start)


def taken(q: jax.Array, action: jax.Array) -> jax.Array:
    """The entries of q [..., n] at action [...]."""
    return jnp.take_along_axis(q, action[..., None], -1)[..., 0]


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """DQN's loss, and epsilon-greedy exploration."""
    network, q_values = values(config, actions.integers())

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        params = network(key, obs.critic)
        return Agent(optim.net(params, target=True), jnp.zeros((), jnp.int32))

    def td_target(agent: Agent, batch: Batch, config: Config) -> jax.Array:
        """r + gamma^n times the value of the best next action. [B]"""
        target = q_values(agent.critic.target, batch.next_obs.critic)
        chooser = target
        if config.double:
            chooser = q_values(agent.critic.params, batch.next_obs.critic)
        return batch.reward + batch.discount * taken(target, chooser.argmax(-1))

    def update(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        target = td_target(agent, batch, config)

        def loss_fn(params):
            q = taken(q_values(params, batch.obs.critic), batch.action)
            loss = batch.mean(optax.huber_loss(q, target))
            return loss, {"critic_loss": loss, "q": batch.mean(q)}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        updates = agent.updates + 1
        follows = updates % config.target_every == 0
        critic = agent.critic.step(grads, config.learning_rate)
        critic = critic.follow(jnp.where(follows, config.tau, 0.0))
        metrics |= {"epsilon": batch.constant(epsilon(updates, config))}
        return Agent(critic, updates), metrics

    def act(params: Any, memory, obs: Obs, key, deterministic):
        return q_values(params, obs.critic).argmax(-1).astype(jnp.int32), memory

    def explore(agent: Agent, memory, obs: Obs, key, config: Config):
        k_random, k_which = jax.random.split(key)
        greedy, memory = act(agent.critic.params, memory, obs, key, True)
        is_random = jax.random.bernoulli(k_random, epsilon(agent.updates, config))
        return jnp.where(is_random, actions.random(k_which), greedy), memory

    return Algorithm(
        init=init,
        update=Each(update),
        act=act,
        keeps=lambda agent: agent.critic.params,
        explore=explore,
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """DQN on `env`, which has discrete actions. The policy is greedy, deterministic or not.

    Args:
      env: one environment instance with discrete actions.
      config: see `Config`. The network sees `critic_obs`.
      prior: as for `jaxrl.learners.off_policy.sac.make`.

    Raises:
      ValueError: a field out of range, continuous actions, a prior that does not fit.
    """
    return off_policy.online(env, config, algorithm, prior)
