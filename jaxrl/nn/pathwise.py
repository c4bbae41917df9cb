"""A policy that climbs a critic of actions, for the on-policy engine (REPPO, arXiv 2507.11019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxrl.nn import spaces
from jaxrl.nn.actors import Network
from jaxrl.nn.layers import ACTIVATIONS, MLP
from jaxrl.ops.categorical import histogram

PEAK = 40.0  # logits of this times a histogram have nearly all of their mass at one atom


class LatentCritic(nn.Module):
    """Maps (obs, action) [*B, in] to logits [*B, num_atoms], a latent [*B, h] and a prediction [*B, h + 1].

    The logits are those of a distribution over returns, on a grid from `low` to `high`. An MLP of
    widths `hidden` ends in the latent, where it has no activation. Two heads of one hidden layer of
    width h read the latent. One gives the logits. The other predicts the next step's latent and, as
    its last entry, the reward. Every hidden layer has a LayerNorm. A learned vector is added to the
    logits, so that the return starts near 0.
    """

    hidden: Sequence[int]  # h is the last
    num_atoms: int
    low: float
    high: float
    activation: str = "swish"

    @property
    def atoms(self) -> jax.Array:
        """The grid of returns. [num_atoms]"""
        return jnp.linspace(self.low, self.high, self.num_atoms)

    def mean(self, logits: jax.Array) -> jax.Array:
        """The mean return [*B] of logits [*B, num_atoms]."""
        return (jax.nn.softmax(logits) * self.atoms).sum(-1)

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        *widths, width = self.hidden
        layers = lambda widths, out, name: MLP(widths, out, self.activation, 1.0, True, name=name)
        latent = layers(widths, width, "encoder")(x)
        active = ACTIVATIONS[self.activation](latent)
        logits = layers((width,), self.num_atoms, "returns")(active)
        start = self.param("start", lambda key: histogram(jnp.zeros(()), self.atoms))
        return logits + PEAK * start, latent, layers((width,), width + 1, "predictor")(active)


@struct.dataclass
class Value:
    """What a critic says of the actions drawn, [...]."""

    q: jax.Array
    soft: jax.Array  # q - alpha log pi
    latent: jax.Array  # [..., h]


def actor_and_critic(
    policy: MLP,
    critic: LatentCritic,
    multipliers: Mapping[str, float],
    actor_obs: tuple[str, ...],
    critic_obs: tuple[str, ...],
) -> tuple[Network, Callable[[Any, Any, jax.Array], Any]]:
    """Returns a `Network` whose critic takes the squashed action, and `judge`.

    Args:
      policy: gives means and spreads, 2A outputs; see `spaces.tanh_normal`.
      critic: of (obs, action).
      multipliers: positive numbers to learn, by name, and where they start. "alpha" is that of the
        entropy.
      actor_obs: entries of a dict observation; (): every one.
      critic_obs: likewise.

    The parameters are `{"actor": {"policy": ..., "log": {name: []}}, "critic": ...}`.
    `judge(params, obs, action)` returns the critic's outputs for actions [..., A] in [-1, 1].
    """

    def init(key, obs, reset):
        k_policy, k_critic = jax.random.split(key)
        seen = lambda names: spaces.select(obs, names, reset.ndim)
        action = jnp.zeros((*reset.shape, policy.out // 2))
        own = policy.init(k_policy, seen(actor_obs))
        logs = {name: jnp.log(jnp.float32(x)) for name, x in multipliers.items()}
        both = jnp.concatenate([seen(critic_obs), action], -1)
        return {"actor": {"policy": own, "log": logs}, "critic": critic.init(k_critic, both)}

    def flat(apply, params, x):
        """One flat batch: XLA on a CPU is far slower on [T, B, d] @ [d, h]."""
        out = apply(params, x.reshape(-1, x.shape[-1]))
        return jax.tree.map(lambda y: y.reshape(*x.shape[:-1], -1), out)

    def apply(params, carry, obs, reset):
        seen = spaces.select(obs, actor_obs, reset.ndim)
        return carry, flat(policy.apply, params["actor"]["policy"], seen), ()

    def judge(params, obs, action):
        seen = spaces.select(obs, critic_obs, action.ndim - 1)
        return flat(critic.apply, params["critic"], jnp.concatenate([seen, action], -1))

    def value(params, obs, raw, log_prob):
        logits, latent, _ = judge(params, obs, jnp.tanh(raw))
        q = critic.mean(logits)
        return Value(q, q - jnp.exp(params["actor"]["log"]["alpha"]) * log_prob, latent)

    return Network(init, apply, critic=value), judge
