"""REPPO: relative entropy pathwise policy optimisation (Voelcker et al. 2025, arXiv 2507.11019).

A critic Q(s, a) learns from the policy's own steps by soft TD(lambda), where V is Q - alpha log pi:

    G_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda (G_{t+1} - alpha log pi(a_{t+1} | s_{t+1})))

It is a distribution that regresses on the histogram of G (HL-Gauss). Its latent predicts the next
latent and the reward. The policy climbs Q through the action that it draws, with an entropy bonus
alpha. Where its KL from the policy that collected reaches `kl_bound`, the loss is multiplier * KL
instead. alpha keeps the entropy at `target_entropy`, and the multiplier the KL at its bound.

Rule and numbers are those of the authors' code (cvoelcker/reppo: src/jaxrl/reppo.py and
config/reppo.yaml). The differences:
- V_{t+1} is of the action executed next; the code draws another one. Its later file
  (src/reppo_mj_playground.py) takes the entropy of the executed one and the mean Q of 64 others.
- No entropy is earned after a terminal step; the code adds one there. The last step before a time
  limit is learned from; the code leaves it out of both of the critic's losses.
- The KL has a closed form; the code estimates it from 16 clipped actions.
- The deviation is a softplus plus 1e-3, not an exponential plus 0.1 (what its actor adds, whatever
  `actor_min_std` is).
- Networks have LayerNorm, as in the later file, not RMSNorm. Adam's epsilon is 1e-5, not 1e-8.
- Actor and critic step together. The code's actor sees the critic after its step.
- The grid is -100 .. 100; the code's is 0 .. 150, for rewards that are not negative.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from envs.contract import single_agent
from envs.types import Env
from jaxrl.config import Count, Finite, Fixed, NonNegative, Positive, Real, Sizes, at_most, config
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import OnPolicy, Sample, Unroll
from jaxrl.nn import spaces
from jaxrl.nn.actors import distribution_actor
from jaxrl.nn.layers import MLP, Activation
from jaxrl.nn.pathwise import LatentCritic, Value, actor_and_critic
from jaxrl.ops.categorical import histogram
from jaxrl.ops.optim import clip_apart
from jaxrl.ops.returns import gae
from jaxrl.types import Learner, Means


@config
class Config(OnPolicy):
    """Settings of REPPO. `max_grad_norm` is for actor and critic each."""

    value_coef: NonNegative = 1.0
    prediction_coef: NonNegative = 1.0
    kl_bound: Positive = 0.1
    target_entropy: Finite = -0.5  # per action dimension

    init_alpha: Fixed = 0.01
    init_multiplier: Fixed = 0.01
    min_return: Fixed = -100.0  # returns beyond the grid count as its ends
    max_return: Fixed = 100.0
    num_atoms: Count = 151
    unroll_length: Count = 128
    num_minibatches: Count = 128
    actor_hidden: Sizes = (512, 512)
    critic_hidden: Sizes = (512, 512)  # the last is the width of the latent and of the heads
    activation: Activation = "swish"
    actor_out_scale: Fixed = 1.0
    actor_obs: tuple[str, ...] = ()  # entries of a dict observation; (): every one
    critic_obs: tuple[str, ...] = ()

    def rules(self) -> None:
        super().rules()
        for name in ("init_alpha", "init_multiplier"):
            Real(0.0, above=True).check(name, getattr(self, name))
        at_most(self, "min_return", "max_return", strictly=True)
        if self.num_atoms < 2:
            raise ValueError(f"num_atoms={self.num_atoms}: must be at least 2")
        if not self.critic_hidden:
            raise ValueError("critic_hidden=(): must have at least one width, the latent's")


def targets(unroll: Unroll, following: Value, extra: Any, config: Config):
    """G - Q [T, N], and what the critic regresses on.

    That is G [T, N], and the next latent and the reward [T, N, h + 1].
    """
    ahead = gae(  # whose TD errors are r + gamma V_{t+1} - Q
        reward=unroll.reward,
        value=unroll.value.q,
        next_value=following.soft,
        terminated=unroll.terminated,
        done=unroll.done,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        valid=unroll.valid,
    )
    after = jnp.concatenate([following.latent, unroll.reward[..., None]], -1)
    return ahead, (ahead + unroll.value.q, after)


def objective(log: Any, q, entropy, kl, target_entropy, kl_bound) -> jax.Array:
    """The loss [...] of the actor and of both multipliers' logarithms, "alpha" and "kl".

    `entropy` is -log pi of the action that has the value `q`; `kl` is KL(old || new). All [...].
    """
    chex.assert_equal_shape([q, entropy, kl])
    still, alpha, multiplier = jax.lax.stop_gradient, jnp.exp(log["alpha"]), jnp.exp(log["kl"])
    loss = jnp.where(kl < kl_bound, -still(alpha) * entropy - q, still(multiplier) * kl)
    return loss + alpha * still(entropy - target_entropy) - multiplier * still(kl - kl_bound)


def make(env: Env, config: Config) -> Learner:
    """REPPO on `env`, which has bounded continuous actions.

    Raises:
      ValueError: a field out of range, or actions that are discrete or without bounds.
    """
    env, grid = single_agent(env), (config.num_atoms, config.min_return, config.max_return)
    size = spaces.actions(env.action_space).continuous()
    actor = distribution_actor(env.action_space, "tanh_normal")
    policy = MLP(config.actor_hidden, 2 * size, config.activation, config.actor_out_scale, True)
    critic = LatentCritic(config.critic_hidden, *grid, config.activation)
    starts = {"alpha": config.init_alpha, "kl": config.init_multiplier}
    network, judge = actor_and_critic(policy, critic, starts, config.actor_obs, config.critic_obs)

    def climb(sample: Sample, config: Config) -> tuple[jax.Array, Means]:
        dist, log = spaces.tanh_normal(sample.outputs), sample.params["actor"]["log"]
        raw = jax.vmap(lambda d, key: d.sample(key), (1, 0), 1)(dist, sample.keys)
        frozen = jax.lax.stop_gradient(sample.params)
        q = critic.mean(judge(frozen, sample.unroll.obs, dist.squash(raw))[0])
        kl = actor.kl(sample.unroll.outputs, sample.outputs)
        numbers = {"alpha": jnp.exp(log["alpha"]), "multiplier": jnp.exp(log["kl"])}
        told = jax.tree.map(lambda x: jnp.broadcast_to(x, q.shape), numbers)
        bounds = size * config.target_entropy, config.kl_bound
        losses = objective(log, q, -dist.log_prob(raw), kl, *bounds)
        return losses, told | {"q": q, "kl_held": kl >= config.kl_bound}

    def regress(sample: Sample, config: Config) -> tuple[jax.Array, Means]:
        unroll, (returns, after) = sample.unroll, sample.target
        logits, _, prediction = judge(sample.params, unroll.obs, jnp.tanh(unroll.raw))
        losses = -(histogram(returns, critic.atoms) * jax.nn.log_softmax(logits)).sum(-1)
        error = ~unroll.terminated * ((prediction - after) ** 2).mean(-1)
        return losses + config.prediction_coef * error, {"prediction_loss": error}

    return on_policy.make(env, config, network, actor, climb, regress, targets, clip=clip_apart)
