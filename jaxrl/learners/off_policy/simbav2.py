"""SimbaV2 (Lee et al. 2025, arXiv 2502.15280): SAC with networks on a hypersphere.

Features and the weights of every unit have length 1. Learned vectors scale features, a residual
block moves its input towards an MLP's output by a learned share, and critics are categorical. The
rewards are divided by the running spread of discounted returns, and by their largest size so far
where that is necessary to keep values on the critics' grid.

The authors' code (DAVIAN-Robotics/SimbaV2) differs in four points. Its weights start orthogonal;
here they are random directions. Its learning rate falls linearly to half; here it is constant. Its
running return restarts at the last step of an episode; here at the first step of the next. It
clips the target's values to the grid before the projection; `project` clips places on the grid,
which is the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Finite, NonNegative, Positive, Share, Sizes, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Collected, Delayed, Obs
from jaxrl.nn import distributions, spaces
from jaxrl.nn.hypersphere import Actor, Critic, on_sphere
from jaxrl.nn.layers import of_each
from jaxrl.ops.categorical import project
from jaxrl.ops.moments import Moments
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings with the authors' numbers.

    A network has one block for every entry of `actor_hidden` or `critic_hidden`, all of one width.
    `activation`, `layer_norm` and `actor_out_scale` have no effect.
    """

    actor_lr: NonNegative = 1e-4
    critic_lr: NonNegative = 1e-4
    alpha_lr: NonNegative = 1e-4
    init_alpha: Positive = 0.01
    target_entropy: Finite = -0.5
    gamma: Share = 0.995  # the authors': 1 - 5 / steps of an episode, within 0.95 .. 0.995
    max_return: Positive = 5.0  # the critics' grid is [-max_return, max_return]

    num_atoms: Count = 101
    normalize_obs: bool = True
    actor_hidden: Sizes = (128,)
    critic_hidden: Sizes = (512, 512)

    def rules(self) -> None:
        super().rules()
        if self.num_atoms < 2:
            raise ValueError(f"num_atoms={self.num_atoms}: must be at least 2")
        for name in ("actor_hidden", "critic_hidden"):
            widths = getattr(self, name)
            if len(set(widths)) != 1:
                raise ValueError(f"{name}={widths}: must be one width, once for every block")


# --- Rewards ---


@struct.dataclass
class Agent(sac.Agent):
    returns: Moments  # of discounted returns
    largest: jax.Array  # [] the largest size of one


def observe(agent: Agent, seen: Collected, config: Config) -> Agent:
    """The statistics of returns, with those of newly collected steps."""
    weight = seen.valid.astype(jnp.float32)
    returns = agent.returns.update(seen.returns, weight, seen.axis_name, robust=False)
    size = jnp.where(seen.valid, jnp.abs(seen.returns), 0.0).max()
    if seen.axis_name is not None:
        size = jax.lax.pmax(size, seen.axis_name)
    return agent.replace(returns=returns, largest=jnp.maximum(agent.largest, size))


def reward_divisor(agent: Agent, config: Config) -> jax.Array:
    """max(std of the returns, largest return / max_return). []"""
    return jnp.maximum(jnp.sqrt(agent.returns.var + 1e-8), agent.largest / config.max_return)


# --- Updates ---


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SimbaV2's losses and updates."""
    size = actions.continuous()
    actor = Actor(config.actor_hidden[0], len(config.actor_hidden), size)
    critic = Critic(config.critic_hidden[0], len(config.critic_hidden), config.num_atoms)

    def atoms(config: Config) -> jax.Array:
        return config.max_return * jnp.linspace(-1.0, 1.0, config.num_atoms)

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, size))], -1)
        keys = jax.random.split(k_critic, config.num_critics)
        critics = jax.vmap(lambda key: critic.init(key, critic_in))(keys)
        return Agent(
            **vars(sac.new_agent(actor.init(k_actor, obs.actor), critics, config)),
            returns=Moments.zeros(jnp.zeros(())),
            largest=jnp.zeros(()),
        )

    def sample(params: Any, obs: Obs, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return distributions.draw(actor.apply(params, obs.actor), keys)

    def logits(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
        """[num_critics, B, atoms]"""
        return of_each(critic, params, jnp.concatenate([obs.critic, action], -1))

    def td_target(agent: Agent, batch: Batch, config: Config) -> jax.Array:
        """The soft return's distribution by the target critic with the lowest mean. [B, atoms]"""
        keys, _ = batch.key_pair
        action, log_prob = sample(agent.actor.params, batch.next_obs, keys)
        probs = jax.nn.softmax(logits(agent.critic.target, batch.next_obs, action))
        probs = probs[sac.target_set(config, batch.shared_key)]
        grid = atoms(config)
        lowest = jnp.argmin((probs * grid).sum(-1), 0)  # [B]
        probs = jnp.take_along_axis(probs, lowest[None, :, None], 0)[0]
        soft = jnp.exp(agent.log_alpha.params) * log_prob if config.backup_entropy else 0.0
        later = grid - jnp.reshape(soft, (-1, 1))  # [B, atoms]
        reward = batch.reward / reward_divisor(agent, config)
        return project(probs, reward[:, None] + batch.discount[:, None] * later, grid)

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        target, grid = td_target(agent, batch, config), atoms(config)

        def loss_fn(params):
            out = logits(params, batch.obs, batch.action)
            losses = -(target * jax.nn.log_softmax(out)).sum(-1)  # [num_critics, B]
            q = (jax.nn.softmax(out) * grid).sum(-1)
            loss = batch.mean(losses).sum()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr)
        critic = critic.replace(params=on_sphere(critic.params)).follow(config.tau)
        metrics["reward_divisor"] = batch.constant(reward_divisor(agent, config))
        return agent.replace(critic=critic), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        _, keys = batch.key_pair
        alpha, grid = jnp.exp(agent.log_alpha.params), atoms(config)

        def loss_fn(params):
            action, log_prob = sample(params, batch.obs, keys)
            q = (jax.nn.softmax(logits(agent.critic.params, batch.obs, action)) * grid).sum(-1)
            loss = batch.mean(alpha * log_prob - sac.actor_value(config, q))
            return loss, (batch.mean(-log_prob), {"actor_loss": loss})

        grads, (entropy, metrics) = batch.grad(loss_fn, agent.actor.params)
        agent, more = sac.step_actor(agent, grads, batch, entropy, size, config)
        actor = agent.actor.replace(params=on_sphere(agent.actor.params))
        return agent.replace(actor=actor), metrics | more

    def act(params, memory, obs: Obs, key, deterministic):
        return distributions.act(actor.apply(params, obs.actor), key, deterministic), memory

    update = Delayed(update_critic, update_actor)
    return Algorithm(init=init, update=update, act=act, observe=observe)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """SimbaV2 on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
