"""Recurrent soft actor-critic: actor and critics remember the episode, for partial observations.

Actor and critics have separate memories, each followed by an MLP that also sees the present
observation (Ni et al. 2022, "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs").
Updates are on windows of the replay. A window starts with an empty memory at any step. Its first
`burn_in` steps only fill the memory, without a gradient (Kapturowski et al. 2019, R2D2, section 3),
and the next `trained` steps are the samples. A window goes on where an episode ends, and the memory
is emptied there, so that the first steps of episodes are samples, too.

R2D2 stores the memory of the actor beside burn-in. Here it starts empty ("zero state" with burn-in).
Ni et al. also show the last action and reward: `envs.transforms.history(env, 1, actions=True)` puts
the action into the observation.
"""

from __future__ import annotations

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, Natural, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import (
    Algorithm,
    Batch,
    Delayed,
    Obs,
    UpdateOnBatch,
    across,
    sequence,
)
from jaxrl.nn import distributions, spaces
from jaxrl.nn.layers import GRU, MLP, Context
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings, and the memory's. `batch_size` counts windows, and `n_step` stays 1."""

    batch_size: Count = 32
    burn_in: Natural = 8  # steps of a window that only fill the memory
    trained: Count = 16  # steps of a window after them, which are the samples
    memory: Literal["gru", "transformer"] = "gru"
    memory_width: Count = 64
    context: Count = 16  # of a transformer: steps that it looks at, the present one included
    layers: Count = 1  # of a transformer
    attention_heads: Count = 2  # of a transformer

    def rules(self) -> None:
        super().rules()
        if self.n_step != 1:
            raise ValueError(f"n_step={self.n_step}: must be 1, a window has targets of one step")
        if self.prior_ratio:
            raise ValueError(f"prior_ratio={self.prior_ratio}: must be 0, prior data are not taken")
        if self.memory == "transformer" and self.memory_width % self.attention_heads:
            raise ValueError(
                f"memory_width={self.memory_width}: must be a multiple of"
                f" attention_heads={self.attention_heads}"
            )


@struct.dataclass
class Windows:
    """Windows of observations. The steps after `burn_in` are samples, flat [B * trained]."""

    obs: Obs  # [B, L, ...]
    begins: jax.Array  # [B, L] bool
    after: (
        Obs | None
    )  # [B, L, ...] what followed each step, which is the sample then; None: `obs` is
    burn_in: int = struct.field(pytree_node=False)


def memory_of(config: Config) -> GRU | Context:
    """The module of a memory."""
    if config.memory == "gru":
        return GRU(config.memory_width)
    return Context(config.context, config.memory_width, config.layers, config.attention_heads)


def remembered(memory: GRU | Context, params: Any, windows: Windows, who: str) -> jax.Array:
    """What is known at each sample: its observation and the memory's output. [B * trained, ...]

    Args:
      who: "actor" or "critic", whose observations are seen.
    """
    first = windows.burn_in
    time_major = lambda x: jnp.moveaxis(x, 1, 0)
    x, reset = time_major(getattr(windows.obs, who)), time_major(windows.begins)
    chex.assert_equal_shape_prefix([x, reset], 2)
    carry = memory.start(x.shape[1])
    if first:
        carry = jax.lax.stop_gradient(memory.apply(params, carry, x[:first], reset[:first])[0])
    if windows.after is None:
        seen = x[first:]
        _, out = memory.apply(params, carry, seen, reset[first:])
    else:
        seen = time_major(getattr(windows.after, who))[first:]

        def one_step(carry, inputs):
            x, reset, after = (x[None] for x in inputs)
            carry, _ = memory.apply(params, carry, x, reset)
            return carry, memory.apply(params, carry, after, jnp.zeros_like(reset))[1][0]

        _, out = jax.lax.scan(one_step, carry, (x[first:], reset[first:], seen))
    known = jnp.moveaxis(jnp.concatenate([seen, out], -1), 0, 1)
    return known.reshape(-1, known.shape[-1])


def networks(config: Config, action_size: int) -> sac.Networks:
    """SAC's networks on `Windows`, with a memory before each. Parameters are {"memory", "body"}."""
    memory = memory_of(config)
    actor = MLP(config.actor_hidden, 2 * action_size, config.activation, config.actor_out_scale)
    critic = sac.critics(config)

    def init(key: jax.Array, obs: Obs, config: Config) -> sac.Agent:
        def one(key, body, obs, *action):
            k_memory, k_body = jax.random.split(key)
            x, no = obs[None], jnp.zeros((1, 1), bool)
            params = memory.init(k_memory, memory.start(1), x, no)
            _, out = memory.apply(params, memory.start(1), x, no)
            known = jnp.concatenate([obs, out[0], *action], -1)
            return {"memory": params, "body": body.init(k_body, known)}

        k_actor, k_critic = jax.random.split(key)
        action = jnp.zeros((1, action_size))
        return sac.new_agent(
            one(k_actor, actor, obs.actor), one(k_critic, critic, obs.critic, action), config
        )

    def distribution(params: Any, windows: Windows):
        known = remembered(memory, params["memory"], windows, "actor")
        return spaces.tanh_normal(actor.apply(params["body"], known))

    def sample(params: Any, windows: Windows, keys: jax.Array):
        return distributions.draw(distribution(params, windows), keys)

    def values(params: Any, windows: Windows, action: jax.Array) -> jax.Array:
        known = remembered(memory, params["memory"], windows, "critic")
        return critic.apply(params["body"], jnp.concatenate([known, action], -1))

    def act(params, carry, obs: Obs, key, deterministic):
        carry, out = memory.apply(params["memory"], carry, obs.actor[None], jnp.zeros(1, bool))
        known = jnp.concatenate([obs.actor, out[0]])
        dist = spaces.tanh_normal(actor.apply(params["body"], known))
        return distributions.act(dist, key, deterministic), carry

    return sac.Networks(init, distribution, sample, values, act)


def on_samples(update: UpdateOnBatch) -> UpdateOnBatch:
    """An update on the single samples of windows: `update` sees `Windows` as observations, and
    everything else flat, [B * trained, ...]."""

    def update_windows(agent: Any, batch: Batch, config: Config) -> tuple[Any, Means]:
        first = config.burn_in
        flat = lambda x: x[:, first:].reshape(-1, *x.shape[2:])
        each = jnp.arange(config.trained)
        keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, each))(batch.key)
        taken = flat(batch.taken)
        samples = batch.replace(
            obs=Windows(batch.obs, batch.begins, None, first),
            action=flat(batch.action),
            reward=flat(batch.reward),
            next_obs=Windows(batch.obs, batch.begins, batch.next_obs, first),
            discount=flat(batch.discount),
            valid=taken,
            taken=taken[:, None],
            signals=jax.tree.map(flat, batch.signals),
            key=keys.ravel(),
        )
        return update(agent, samples, config)

    return update_windows


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """SAC's losses and updates on windows."""
    size = actions.continuous()
    nets = networks(config, size)
    critic, actor = sac.critic_update(nets), sac.actor_update(nets, size)
    memory = memory_of(config)
    return Algorithm(
        init=nets.init,
        update=Delayed(on_samples(critic), on_samples(actor)),
        act=nets.act,
        memory=lambda key, config: memory.start(),
        window=across,
        cut=sequence(config.burn_in + config.trained),
    )


def make(env: Env, config: Config) -> Learner:
    """Recurrent SAC on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors."""
    return off_policy.online(env, config, algorithm)
