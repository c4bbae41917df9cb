"""ReinFlow (Zhang et al. 2025, arXiv 2505.22094): PPO on a flow policy whose steps are noisy.

A flow makes an action from Gaussian noise a_0 in K steps. ReinFlow adds noise of a learned
deviation to every step, so that the whole chain has a likelihood:

    a_{k+1} ~ N(a_k + v(a_k, s, k / K) / K, sigma(s, k / K)^2)

The raw action of PPO is the chain. Its log-probability is the sum over the steps, and that of a_0
is left out, because it does not depend on the parameters.

The rule is that of the authors' code (model/flow/ft_ppo/ppoflow.py). It differs in four points.
The time of step k is k / K for sampling and likelihood; the code uses k / (K - 1), unlike the flow
that it fine-tunes. Means are not clipped between steps, and log-probabilities are not clipped,
because clipping stops their gradients; only the executed action is. The log-probability is not
divided by K + 1 and the size of the action, so `clip_ratio` is larger. The bounds of the deviation
do not decay.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from envs.contract import single_agent
from envs.types import Env
from jaxrl.config import Count, Fixed, Limit, Real, Sizes, at_most, check, config
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import OnPolicy
from jaxrl.nn import spaces
from jaxrl.nn.actors import Actor, Network
from jaxrl.nn.distributions import Normal
from jaxrl.nn.heads import FREQUENCIES, FlatTrunk
from jaxrl.nn.layers import MLP, Activation
from jaxrl.types import Learner


@config
class Config(OnPolicy):
    """Settings of ReinFlow."""

    clip_ratio: Limit = 0.1

    num_steps: Count = 4  # K, evaluations of the flow per action
    min_std: Fixed = 0.08  # of the noise of a step, where an action is in [-1, 1]
    max_std: Fixed = 0.2
    flow_hidden: Sizes = (128, 128)
    noise_hidden: Sizes = (16,)
    critic_hidden: Sizes = (128, 128)
    activation: Activation = "swish"  # of the critic
    actor_obs: tuple[str, ...] = ()  # entries of a dict observation; (): every one
    critic_obs: tuple[str, ...] = ()

    def rules(self) -> None:
        super().rules()
        Real(0.0, above=True).check("min_std", self.min_std)
        at_most(self, "min_std", "max_std")


def networks(env: Env, config: Config, flow: Any = None) -> tuple[Network, Actor]:
    """A network that gives the observation [..., o], and an actor that draws chains [K + 1, A].

    `flow`: parameters to begin with; see `make`.
    """
    size, steps = spaces.actions(env.action_space).continuous(), config.num_steps
    trunk, noise = FlatTrunk(config.flow_hidden, size), MLP(config.noise_hidden, size, "tanh")
    critic = MLP(config.critic_hidden, 1, config.activation)
    levels = jnp.arange(steps) / steps
    to_env = spaces.to_env(env.action_space)
    low, high = math.log(config.min_std), math.log(config.max_std)

    def waves(level: jax.Array) -> jax.Array:
        """[...] to [..., 2 * FREQUENCIES], as the flow heads of imitation see a level."""
        angle = level[..., None] * 2.0 ** jnp.arange(FREQUENCIES) * jnp.pi
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)

    def transition(params, obs, action, level) -> Normal:
        """The step from `action` [..., A] at `level` [...], where `obs` [..., o] is seen."""
        seen = waves(level)
        flat = lambda x: x.reshape(-1, 1, x.shape[-1])
        speed = jax.vmap(lambda o, x: trunk.apply(params["flow"], o, x))(
            flat(obs), flat(jnp.concatenate([action, seen], -1))
        )
        spread = jnp.tanh(noise.apply(params["noise"], jnp.concatenate([obs, seen], -1)))
        std = jnp.exp(low + (high - low) * (spread + 1.0) / 2.0)
        return Normal(action + speed.reshape(action.shape) / steps, std)

    def draw(params, obs, keys, deterministic: bool):
        """Chains [B, K + 1, A], and the log-probability [B] summed while they are drawn."""
        shape = (steps + 1, size)
        noises = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(keys)

        def one(action, inputs):
            level, noise = inputs
            dist = transition(params, obs, action, jnp.broadcast_to(level, obs.shape[:-1]))
            action = dist.mean if deterministic else dist.mean + dist.std * noise
            return action, (action, dist.log_prob(action))

        _, (chain, log_prob) = jax.lax.scan(one, noises[0], (levels, noises[1:]))
        chain = jnp.concatenate([noises[:1], chain])
        return jnp.moveaxis(chain, 0, -2), log_prob.sum(0)

    def evaluate(params, obs, chain, keys):
        """Log-probability and entropy of the steps, [T, B]."""
        before, after = chain[..., :-1, :], chain[..., 1:, :]
        wide = jnp.broadcast_to(obs[..., None, :], (*before.shape[:-1], obs.shape[-1]))
        dist = transition(params, wide, before, jnp.broadcast_to(levels, before.shape[:-1]))
        return dist.log_prob(after).sum(-1), dist.entropy(keys).sum(-1)

    def init(key, obs, reset):
        k_flow, k_noise, k_critic = jax.random.split(key, 3)
        select = lambda keys: spaces.select(obs, keys, reset.ndim)
        seen = select(config.actor_obs)
        tokens = jnp.zeros((1, size + 2 * FREQUENCIES))
        with_level = jnp.zeros((1, seen.shape[-1] + 2 * FREQUENCIES))
        own = trunk.init(k_flow, seen[0], tokens)
        return {
            "flow": own if flow is None else jax.tree.map(jnp.asarray, flow),
            "noise": noise.init(k_noise, with_level),
            "critic": critic.init(k_critic, select(config.critic_obs)[0]),
        }

    def apply(params, carry, obs, reset):
        seen = spaces.select(obs, config.critic_obs, reset.ndim)
        value = critic.apply(params["critic"], seen.reshape(-1, seen.shape[-1]))
        return carry, spaces.select(obs, config.actor_obs, reset.ndim), value.reshape(reset.shape)

    actor = Actor(
        sample=lambda params, obs, keys: draw(params, obs, keys, False),
        evaluate=evaluate,
        mode=lambda params, obs, keys: draw(params, obs, keys, True)[0],
        to_env=lambda chain: to_env(jnp.clip(chain[..., -1, :], -1.0, 1.0)),
    )
    return Network(init, apply), actor


def make(env: Env, config: Config, flow: Any = None) -> Learner:
    """ReinFlow on `env`. The policy is deterministic but for a_0: its steps have no noise.

    Args:
      env: one environment instance with bounded continuous actions.
      config: see `Config`.
      flow: parameters of a trained flow to begin with; None: random ones. They are those of the
        head `jaxrl.nn.heads.denoising(FLOW, FlatTrunk(flow_hidden, A), 1, A, ...)`, for one
        observation and one action. The flow must know observations as `normalize_obs` shows them.

    Raises:
      ValueError: a field out of range, or actions that are discrete or without bounds.
    """
    check(config)
    env = single_agent(env)
    return on_policy.make(env, config, *networks(env, config, flow), ppo.clipped)
