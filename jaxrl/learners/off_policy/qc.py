"""Q-chunking (Li et al. 2025, arXiv:2507.07969): Q-learning over chunks of actions, near the data.

A flow model imitates the chunks of the replay and of prior data. The agent draws several chunks
from it and executes all actions of the one with the highest value, then draws again.
The critic's targets choose in the same way, after `horizon` steps: an unbiased n-step return.

The authors' code leaves out every chunk that an episode's end cuts short. Here a chunk that a
termination cuts short counts, because its return is known.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.config import Count, NonNegative, Share, Sizes, config
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Delayed, Obs, chunk
from jaxrl.nn import heads, spaces
from jaxrl.nn.layers import Activation, Ensemble
from jaxrl.ops import optim
from jaxrl.ops.optim import Net
from jaxrl.policies import improve
from jaxrl.types import Learner, Means


@config
class Config(off_policy.Collect):
    """Q-chunking's settings. `n_step` stays 1: returns are over `horizon` steps."""

    actor_lr: NonNegative = 3e-4
    critic_lr: NonNegative = 3e-4
    tau: Share = 0.005  # how far the target critics follow at each update

    horizon: Count = 5  # actions of a chunk
    num_samples: Count = 32  # chunks of which the critics choose one
    denoise_steps: Count = 10  # evaluations of the flow per chunk
    num_critics: Count = 2
    critic_q: Literal["mean", "min"] = "mean"  # of all critics
    layer_norm: bool = True  # in the critics
    actor_hidden: Sizes = (256, 256)
    critic_hidden: Sizes = (256, 256)
    activation: Activation = "gelu"  # of the critics

    def rules(self) -> None:
        super().rules()
        if self.n_step != 1:
            raise ValueError(f"n_step={self.n_step}: must be 1, as horizon={self.horizon} is it")


@struct.dataclass
class Agent:
    actor: Net  # the flow
    critic: Net  # ensemble, leading axis [num_critics]


@struct.dataclass
class Plan:
    """What acting remembers."""

    actions: jax.Array  # [horizon, A]
    age: jax.Array  # [] int32, how many of them were carried out


def flow(config: Config, action_size: int) -> heads.Head:
    """The model of the data's chunks [horizon, A]."""
    trunk = heads.FlatTrunk(config.actor_hidden, action_size)
    steps = config.denoise_steps
    return heads.denoising(heads.FLOW, trunk, config.horizon, action_size, steps, False)


def algorithm(config: Config, actions: spaces.Actions) -> Algorithm:
    """Q-chunking's losses, best-of-N choice and plans."""
    horizon, size = config.horizon, actions.continuous()
    actor = flow(config, size)
    critic = Ensemble(
        config.num_critics, config.critic_hidden, 1, config.activation, config.layer_norm
    )
    pool = jnp.mean if config.critic_q == "mean" else jnp.min

    def init(key: jax.Array, obs: Obs, config: Config) -> Agent:
        k_actor, k_critic = jax.random.split(key)
        critic_in = jnp.concatenate([obs.critic, jnp.zeros((1, horizon * size))], -1)
        return Agent(
            actor=optim.net(actor.init(k_actor, obs.actor)),
            critic=optim.net(critic.init(k_critic, critic_in), target=True),
        )

    def values(params: Any, obs: jax.Array, chunks: jax.Array) -> jax.Array:
        """The critics' values of chunks [B, horizon, A] at obs [B, obs]: [num_critics, B]."""
        flat = chunks.reshape(len(chunks), -1)
        return critic.apply(params, jnp.concatenate([obs, flat], -1))[..., 0]

    def best_of(params: Any, obs: Obs, key: jax.Array) -> jax.Array:
        """Of `num_samples` chunks of the flow, the one that the critics prefer. [horizon, A]"""
        sample = lambda key: actor.sample(params["actor"], obs.actor[None], key, False)
        chunks = jax.vmap(sample)(jax.random.split(key, config.num_samples))
        seen = jnp.broadcast_to(obs.critic, (len(chunks), *obs.critic.shape))
        value = lambda chunks: pool(values(params["critic"], seen, chunks), 0)
        return improve.best_of(value, chunks)

    def keeps(agent: Agent) -> dict[str, Any]:
        return {"actor": agent.actor.params, "critic": agent.critic.params}

    def act(params: Any, plan: Plan, obs: Obs, key: jax.Array, deterministic: bool):
        """The noise of the flow is part of the policy, also of a deterministic one."""
        over = plan.age >= horizon
        planned = jnp.where(over, best_of(params, obs, key), plan.actions)
        age = jnp.where(over, 0, plan.age)
        return planned[age], Plan(planned, age + 1)

    def no_plan(key: jax.Array, config: Config) -> Plan:
        return Plan(jnp.zeros((horizon, size)), jnp.asarray(horizon, jnp.int32))

    def update_critic(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        chosen = jax.vmap(best_of, (None, 0, 0))(keeps(agent), batch.next_obs, batch.key)
        next_value = pool(values(agent.critic.target, batch.next_obs.critic, chosen), 0)
        target = batch.reward + batch.discount * next_value
        whole = batch.taken.all(-1) | (batch.discount == 0.0)
        known = batch.replace(valid=batch.valid & whole)

        def loss_fn(params):
            q = values(params, batch.obs.critic, batch.action)
            loss = 0.5 * known.mean((q - target) ** 2).mean()
            return loss, {"critic_loss": loss, "q": batch.mean(q).mean()}

        grads, metrics = batch.grad(loss_fn, agent.critic.params)
        new = agent.critic.step(grads, config.critic_lr).follow(config.tau)
        return agent.replace(critic=new), metrics

    def update_actor(agent: Agent, batch: Batch, config: Config) -> tuple[Agent, Means]:
        """The flow imitates the actions that were taken."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(batch.key, 1)

        def loss_fn(params):
            losses = jax.vmap(actor.loss, (None, 0, 0, 0, 0))(
                params, batch.obs.actor[:, None], batch.action, batch.taken, keys
            )
            loss = batch.mean(losses)
            return loss, {"actor_loss": loss}

        grads, metrics = batch.grad(loss_fn, agent.actor.params)
        return agent.replace(actor=agent.actor.step(grads, config.actor_lr)), metrics

    return Algorithm(
        init=init,
        update=Delayed(update_critic, update_actor),
        act=act,
        keeps=keeps,
        memory=no_plan,
        cut=chunk(horizon),
    )


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """Q-chunking on `env`; see `jaxrl.learners.off_policy.sac.make` for arguments and errors.

    It is made for prior data: without any, it imitates its own random first steps.
    """
    return off_policy.online(env, config, algorithm, prior)
