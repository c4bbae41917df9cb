"""TD3 (Fujimoto et al. 2018), and FastTD3 (Seo et al. 2025), its massively parallel form.

FastTD3 is TD3 with many environments, each with an exploration noise of its own scale, large
batches, and categorical critics (C51, Bellemare et al. 2017) that share, per transition, the
target distribution of the lower mean. All of it is settings here: `FAST` below.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl import checks
from jaxrl.loops import off_policy
from jaxrl.loops.off_policy import Algorithm, Batch
from jaxrl.nn.layers import ACTIVATIONS, MLP, Ensemble
from jaxrl.ops import optim
from jaxrl.types import Learner, Metrics


@struct.dataclass
class Config(off_policy.Config):
    """TD3's settings: plain numbers can be swept in one program, the others shape it."""

    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    weight_decay: float = 0.0
    tau: float = 0.005  # how far the targets follow at each critic update (TD3's: at the actor's)
    noise_min: float = 0.1  # exploration: an environment's standard deviation is drawn
    noise_max: float = 0.1  # between these at every episode
    target_noise: float = 0.2  # smoothing of the target action: standard deviation
    target_noise_clip: float = 0.5
    v_min: float = -10.0  # range of the categorical critics; must hold every discounted return
    v_max: float = 10.0
    q_coef: float = 2.5  # weight of the normalised value beside `clone` (alpha of TD3+BC)

    policy_delay: int = struct.field(pytree_node=False, default=2)
    clone: bool = struct.field(pytree_node=False, default=False)  # imitate the batch: TD3+BC
    target_actor: bool = struct.field(pytree_node=False, default=True)
    num_atoms: int = struct.field(pytree_node=False, default=0)  # 0: critics are plain numbers
    layer_norm: bool = struct.field(pytree_node=False, default=False)  # in the critics
    actor_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    critic_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    actor_out_scale: float = struct.field(pytree_node=False, default=0.01)  # 0: starts at no action
    activation: str = struct.field(pytree_node=False, default="relu")


FAST = Config(
    num_envs=1024,
    updates_per_step=2,
    batch_size=32_768,
    replay_size=1024 * 10_000,
    learning_starts=1024 * 10,
    gamma=0.97,
    tau=0.1,
    weight_decay=0.1,
    noise_min=0.001,
    noise_max=0.4,
    target_noise=0.001,
    target_actor=False,
    num_atoms=101,
    normalize_obs=True,
    actor_hidden=(512, 256, 128),
    critic_hidden=(1024, 512, 256),
)


@struct.dataclass
class Agent:
    actor: Any
    target_actor: Any
    critic: Any  # two, leading axis [2]
    target_critic: Any
    actor_opt: Any
    critic_opt: Any


def algorithm(c: Config, action_size: int, psum=lambda x: x) -> Algorithm:
    """TD3's networks, losses and updates; `psum` sums over devices."""
    actor = MLP(c.actor_hidden, action_size, c.activation, c.actor_out_scale)
    critic = Ensemble(2, c.critic_hidden, max(c.num_atoms, 1), c.activation, c.layer_norm)

    def act_on(params, obs):
        return jnp.tanh(actor.apply(params, obs))

    def outputs(params, obs, action):
        """[2, B, 1], or logits [2, B, num_atoms]."""
        return critic.apply(params, jnp.concatenate([obs, action], -1))

    def atoms(hp: Config) -> jax.Array:
        return jnp.linspace(hp.v_min, hp.v_max, c.num_atoms)

    def mean_value(out, hp: Config) -> jax.Array:
        """[2, B] from the critics' outputs."""
        return (jax.nn.softmax(out) * atoms(hp)).sum(-1) if c.num_atoms else out[..., 0]

    def init(key, actor_obs, critic_obs, hp: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        actor_params = actor.init(k_actor, actor_obs)
        critic_in = jnp.concatenate([critic_obs, jnp.zeros((1, action_size))], -1)
        critic_params = critic.init(k_critic, critic_in)
        return Agent(
            actor=actor_params,
            target_actor=actor_params if c.target_actor else (),
            critic=critic_params,
            target_critic=critic_params,
            actor_opt=optim.init(actor_params),
            critic_opt=optim.init(critic_params),
        )

    def target_outputs(agent: Agent, batch: Batch, hp: Config) -> jax.Array:
        """The target critics at the smoothed target action. [2, B, .]"""
        params = agent.target_actor if c.target_actor else agent.actor
        noise = jax.vmap(lambda k: jax.random.normal(k, (action_size,)))(batch.key)
        limit = hp.target_noise_clip
        noise = jnp.clip(hp.target_noise * noise, -limit, limit)
        action = jnp.clip(act_on(params, batch.next_actor_obs) + noise, -1.0, 1.0)
        return outputs(agent.target_critic, batch.next_critic_obs, action)

    def update_critic(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        out = target_outputs(agent, batch, hp)
        if c.num_atoms:
            moved = batch.reward[:, None] + batch.discount[:, None] * atoms(hp)  # [B, atoms]
            each = jax.vmap(project, (0, None, None))
            probs = each(jax.nn.softmax(out), moved, atoms(hp))
            value = (probs * atoms(hp)).sum(-1)  # [2, B], of what was projected: ends may clip it
            target = jnp.where((value[0] < value[1])[:, None], probs[0], probs[1])
        else:
            target = batch.reward + batch.discount * mean_value(out, hp).min(0)

        def loss_fn(params):
            out = outputs(params, batch.critic_obs, batch.action)
            if c.num_atoms:
                losses = -(target * jax.nn.log_softmax(out)).sum(-1)
            else:
                losses = 0.5 * (out[..., 0] - target) ** 2
            loss = batch.mean(losses).sum()
            return loss, {"critic_loss": loss / 2, "q": batch.mean(mean_value(out, hp)).mean()}

        grads, metrics = jax.grad(loss_fn, has_aux=True)(agent.critic)
        params, opt = optim.adam(
            agent.critic, psum(grads), agent.critic_opt, hp.critic_lr, hp.weight_decay
        )
        return agent.replace(
            critic=params,
            critic_opt=opt,
            target_critic=optim.polyak(agent.target_critic, params, hp.tau),
            target_actor=optim.polyak(agent.target_actor, agent.actor, hp.tau)
            if c.target_actor
            else (),
        ), metrics

    def update_actor(agent: Agent, batch: Batch, hp: Config) -> tuple[Agent, Metrics]:
        def loss_fn(params):
            action = act_on(params, batch.actor_obs)
            q = mean_value(outputs(agent.critic, batch.critic_obs, action), hp)
            q = q.min(0) if c.num_atoms else q[0]  # FastTD3: min; TD3: the first
            value = batch.mean(q)
            if not c.clone:
                return -value, {"actor_loss": -value}
            size = jax.lax.stop_gradient(psum(batch.mean(jnp.abs(q))))
            bc = batch.mean(((action - batch.action) ** 2).mean(-1))
            loss = bc - hp.q_coef * value / jnp.maximum(size, 1e-6)
            return loss, {"actor_loss": loss, "bc_loss": bc}

        grads, metrics = jax.grad(loss_fn, has_aux=True)(agent.actor)
        params, opt = optim.adam(
            agent.actor, psum(grads), agent.actor_opt, hp.actor_lr, hp.weight_decay
        )
        return agent.replace(actor=params, actor_opt=opt), metrics

    def explore(agent: Agent, obs, noise, key, hp: Config):
        drawn = noise * jax.random.normal(key, (action_size,))
        return jnp.clip(act_on(agent.actor, obs) + drawn, -1.0, 1.0)

    return Algorithm(
        init=init,
        update_critic=update_critic,
        update_actor=update_actor,
        act=lambda params, obs, key, deterministic: act_on(params, obs),
        explore=explore,
        new_noise=lambda key, hp: jax.random.uniform(
            key, (), minval=hp.noise_min, maxval=hp.noise_max
        ),
    )


def project(probs: jax.Array, moved: jax.Array, atoms: jax.Array) -> jax.Array:
    """Distributions on `moved` [B, n] brought back to the grid `atoms` [n]; each keeps its mean
    where it lies within the grid (C51, algorithm 1). probs [B, n]."""
    step = atoms[1] - atoms[0]
    place = jnp.clip((moved - atoms[0]) / step, 0.0, atoms.shape[0] - 1.0)  # [B, n]
    low = jnp.floor(place).astype(jnp.int32)
    share = place - low  # 0 where `place` is whole: all of the mass stays at `low`
    rows = jnp.arange(probs.shape[0])[:, None]
    high = jnp.minimum(low + 1, atoms.shape[0] - 1)
    onto = jnp.zeros_like(probs).at[rows, low].add(probs * (1.0 - share))
    return onto.at[rows, high].add(probs * share)


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """TD3 on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm, validate, prior)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    off_policy.validate(c)
    checks.in_range(
        c,
        0.0,
        math.inf,
        *("actor_lr", "critic_lr", "weight_decay", "noise_min", "noise_max"),
        *("target_noise", "target_noise_clip", "q_coef"),
    )
    checks.in_range(c, 0.0, 1.0, "tau")
    checks.finite(c, "actor_lr", "critic_lr", "weight_decay", "q_coef", "actor_out_scale")
    checks.sizes(c, "actor_hidden", "critic_hidden")
    checks.one_of(c, "activation", ACTIVATIONS)
    checks.ordered(c, "noise_min", "noise_max")
    checks.whole(c, 0, "num_atoms")
    if c.num_atoms:
        checks.finite(c, "v_min", "v_max")
        checks.ordered(c, "v_min", "v_max", strictly=True)
    if c.num_atoms == 1:
        raise ValueError(f"num_atoms={c.num_atoms}: must be 0 (off) or at least 2")
