"""BRO (Nauman et al. 2024, arXiv 2405.16158): SAC with large, regularised critics.

Actor and critics are residual networks with a layer norm after every layer (BroNet), AdamW decays
their weights, and everything that was learned starts again after given numbers of updates. Each
critic predicts quantiles of the return. Targets and the actor's values are means over the critics:
there is no pessimism.

The authors' code (naumix/BiggerRegularizedOptimistic) differs in four points. It explores with a
second, optimistic actor under a limit on the KL, which is left out here as in its own `bro_minimal`.
It starts again from the weights of the first start; here new ones are drawn. Its Adam on alpha has a
first decay rate of 0.5; here 0.9. It starts again at given environment steps; here after given numbers
of critic updates, so that the number of environments does not matter.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Finite, NonNegative, Sizes, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs
from jaxrl.loops.branch import same_in_runs, update_if
from jaxrl.nn import distributions, spaces
from jaxrl.nn.distributions import TanhNormal
from jaxrl.nn.layers import Dense, kernel_init, of_each
from jaxrl.ops import optim
from jaxrl.types import Learner, Means

LOG_STD = (-10.0, 2.0)


@config
class Config(sac.Config):
    """SAC's settings with the authors' numbers.

    A network has one block for every entry of `actor_hidden` or `critic_hidden`, all of one width.
    `activation`, `layer_norm`, `actor_out_scale` and `actor_q` have no effect.
    """

    target_entropy: Finite = -0.5
    weight_decay: NonNegative = 1e-4  # of AdamW, for actor and critics

    batch_size: Count = 128
    num_quantiles: Count = 100
    # Numbers of critic updates. The authors' with two updates a step, 12,500 steps after the first;
    # with ten they are 125_000, 475_000, 2_475_000, 4_975_000, ...
    reset_after: Sizes = (25_000,)
    actor_hidden: Sizes = (256,)
    critic_hidden: Sizes = (512, 512)

    def rules(self) -> None:
        super().rules()
        for name in ("actor_hidden", "critic_hidden"):
            widths = getattr(self, name)
            if len(set(widths)) != 1:
                raise ValueError(f"{name}={widths}: must be one width, once for every block")


@struct.dataclass
class Agent(sac.Agent):
    updates: jax.Array  # [] int32, of the critics


# --- Networks ---


class BroNet(nn.Module):
    """Maps x [*B, in] to features [*B, width]: a layer, then `blocks` residual blocks of two."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = lambda x: nn.LayerNorm()(Dense(self.width, kernel_init("orthogonal"))(x))
        x = nn.relu(layer(x))
        for _ in range(self.blocks):
            x = x + layer(nn.relu(layer(x)))
        return x


class Actor(nn.Module):
    """A squashed Gaussian over actions, from obs [*B, obs]."""

    width: int
    blocks: int
    action_size: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> TanhNormal:
        features = BroNet(self.width, self.blocks)(obs)
        mean = Dense(self.action_size, kernel_init("orthogonal"))(features)
        spread = Dense(self.action_size, kernel_init("orthogonal", 1.0))(features)
        low, high = LOG_STD
        return TanhNormal(mean, jnp.exp(low + (high - low) * 0.5 * (1.0 + jnp.tanh(spread))))


class Critic(nn.Module):
    """Quantiles of the return [*B, quantiles], from (obs, action) [*B, in]."""

    width: int
    blocks: int
    quantiles: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = BroNet(self.width, self.blocks)(x)
        return Dense(self.quantiles, kernel_init("orthogonal"))(features)


# --- Losses ---


def quantile_loss(quantiles: jax.Array, target: jax.Array) -> jax.Array:
    """Quantile regression with Huber's loss (QR-DQN, Dabney et al. 2018, arXiv 1710.10044, eq. 10).

    Args:
      quantiles: [*B, n], of the levels (i + 1/2) / n.
      target: [*B, m], samples of the return.

    Returns:
      The sum over quantiles of the mean over samples. [*B]
    """
    chex.assert_equal_shape_prefix([quantiles, target], quantiles.ndim - 1)
    n = quantiles.shape[-1]
    levels = (jnp.arange(n) + 0.5) / n
    error = target[..., None, :] - quantiles[..., :, None]  # [*B, n, m]
    size = jnp.abs(error)
    huber = jnp.where(size <= 1.0, 0.5 * error**2, size - 0.5)
    return (jnp.abs(levels[:, None] - (error < 0)) * huber).mean(-1).sum(-1)


def adamw(config: Config) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), before the learning rate."""
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay))


# --- Updates ---


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """BRO's losses, updates and resets."""
    size = actions.continuous()
    actor = Actor(config.actor_hidden[0], len(config.actor_hidden), size)
    critic = Critic(config.critic_hidden[0], len(config.critic_hidden), config.num_quantiles)

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, size))], -1)
        keys = jax.random.split(k_critic, config.num_critics)
        critics = jax.vmap(lambda key: critic.init(key, critic_in))(keys)
        return Agent(
            actor=optim.net(actor.init(k_actor, obs.actor), tx=adamw(config)),
            critic=optim.net(critics, target=True, tx=adamw(config)),
            log_alpha=optim.net(jnp.log(config.init_alpha)),
            updates=jnp.zeros((), jnp.int32),
        )

    def sample(params: Any, obs: Obs, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return distributions.draw(actor.apply(params, obs.actor), keys)

    def quantiles(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
        """[num_critics, B, quantiles]"""
        return of_each(critic, params, jnp.concatenate([obs.critic, action], -1))

    def td_target(agent: Agent, batch: Batch, config: Config) -> jax.Array:
        """r + gamma (mean of the target critics' quantiles - alpha log pi). [B, quantiles]"""
        keys, _ = batch.key_pair
        action, log_prob = sample(agent.actor.params, batch.next_obs, keys)
        later = quantiles(agent.critic.target, batch.next_obs, action)
        later = later[sac.target_set(config, batch.shared_key)].mean(0)
        if config.backup_entropy:
            later -= jnp.exp(agent.log_alpha.params) * log_prob[:, None]
        return batch.reward[:, None] + batch.discount[:, None] * later

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        target = td_target(agent, batch, config)

        def loss_fn(params):
            q = quantiles(params, batch.obs, batch.action)
            losses = quantile_loss(q, jnp.broadcast_to(target, q.shape))  # [num_critics, B]
            loss = batch.mean(losses).sum()
            return loss, {"critic_loss": loss, "q": batch.mean(q.mean(-1)).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        critic = agent.critic.step(grads, config.critic_lr, tx=adamw(config)).follow(config.tau)
        return agent.replace(critic=critic), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        _, keys = batch.key_pair
        alpha = jnp.exp(agent.log_alpha.params)

        def loss_fn(params):
            action, log_prob = sample(params, batch.obs, keys)
            q = quantiles(agent.critic.params, batch.obs, action).mean((0, -1))
            loss = batch.mean(alpha * log_prob - q)
            return loss, (batch.mean(-log_prob), {"actor_loss": loss})

        grads, (entropy, metrics) = batch.grad(loss_fn, agent.actor.params)
        agent, more = sac.step_actor(agent, grads, batch, entropy, size, config, adamw(config))
        return agent, metrics | more

    delayed = Delayed(update_critic, update_actor)

    def update(agent: Agent, draw, key: jax.Array, config: Config, learn_actor=None):
        k_reset, key = jax.random.split(key)
        obs = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:])), jax.eval_shape(draw, key).obs)

        def reset(old: Agent) -> tuple[Agent, Means]:
            new = init(jax.random.clone(k_reset), obs, config)  # `update_if` is a loop
            counted = lambda name: getattr(new, name).replace(skipped=getattr(old, name).skipped)
            nets = {name: counted(name) for name in ("actor", "critic", "log_alpha")}
            return new.replace(**nets, updates=old.updates), {}

        if config.reset_after:
            made, limits = same_in_runs(agent.updates), jnp.array(config.reset_after)
            due = ((limits <= made) & (limits > made - config.updates_per_step)).any()
            agent, _ = update_if(due, reset, agent)
        agent, metrics = delayed(agent, draw, key, config, learn_actor)
        return agent.replace(updates=agent.updates + config.updates_per_step), metrics

    def act(params, memory, obs: Obs, key, deterministic):
        return distributions.act(actor.apply(params, obs.actor), key, deterministic), memory

    return Algorithm(init=init, update=update, act=act)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """BRO on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, prior)
