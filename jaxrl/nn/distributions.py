"""Action distributions.

`sample` returns a raw action, before squashing, and `log_prob` takes one. Inverting tanh near its
ends would lose all digits.
"""

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
from flax import struct

from envs.xla import not_inlined

LOG_2PI = 1.8378770664093453


@struct.dataclass
class Normal:
    """Diagonal Gaussian over [..., A]."""

    mean: jax.Array
    std: jax.Array
    bounds: tuple[float, ...] = struct.field(pytree_node=False, default=(1.0,))  # [A] or [1]

    def sample(self, key: jax.Array) -> jax.Array:
        shape = self.mean.shape
        noise = not_inlined(lambda key: jax.random.normal(key, shape), key)  # costly
        return self.mean + self.std * noise

    def mode(self) -> jax.Array:
        return self.mean

    def log_prob(self, raw: jax.Array) -> jax.Array:
        z = (raw - self.mean) / self.std
        return -0.5 * jnp.sum(z**2 + LOG_2PI, -1) - jnp.sum(jnp.log(self.std), -1)

    def entropy(self, key: jax.Array) -> jax.Array:
        return jnp.sum(0.5 * (1.0 + LOG_2PI) + jnp.log(self.std), -1)

    def kl(self, other: Normal) -> jax.Array:
        """KL(self || other). [...]"""
        ratio = (self.std / other.std) ** 2
        shift = ((self.mean - other.mean) / other.std) ** 2
        return 0.5 * jnp.sum(ratio + shift - 1.0 - jnp.log(ratio), -1)

    def squash(self, raw: jax.Array) -> jax.Array:
        """Returns the action clipped to [-bounds, bounds]; a bound of inf leaves it unchanged."""
        bounds = jnp.asarray(self.bounds)
        return jnp.clip(raw, -bounds, bounds)


@struct.dataclass
class TanhNormal(Normal):
    """tanh of a diagonal Gaussian. Log-probabilities include the change of variables."""

    def log_prob(self, raw: jax.Array) -> jax.Array:
        return Normal.log_prob(self, raw) - jnp.sum(tanh_log_det(raw), -1)

    def entropy(self, key: jax.Array) -> jax.Array:
        """One-sample estimate: the Gaussian's entropy + E[log|det|]."""
        return Normal.entropy(self, key) + jnp.sum(tanh_log_det(self.sample(key)), -1)

    def squash(self, raw: jax.Array) -> jax.Array:
        return jnp.tanh(raw)


@struct.dataclass
class Categorical:
    """Over 0 .. n-1, from unnormalised `logits` [..., n]."""

    logits: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def log_prob(self, raw: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(logp, raw[..., None], -1)[..., 0]

    def entropy(self, key: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(logp) * logp, -1)

    def kl(self, other: Categorical) -> jax.Array:
        logp, logq = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return jnp.sum(jnp.exp(logp) * (logp - logq), -1)

    def squash(self, raw: jax.Array) -> jax.Array:
        return raw


@struct.dataclass
class MultiCategorical:
    """K independent categoricals, entry i over 0 .. nvec[i]-1; raw actions are int32 [..., K].

    `logits` [..., sum(nvec)] holds the unnormalised logits of one after the other. A
    log-probability, an entropy and a divergence are the sums of the K.
    """

    logits: jax.Array
    nvec: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def parts(self) -> list[Categorical]:
        ends = list(itertools.accumulate(self.nvec))[:-1]
        return [Categorical(x) for x in jnp.split(self.logits, ends, -1)]

    def sample(self, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(self.nvec))
        return jnp.stack([p.sample(k) for p, k in zip(self.parts, keys, strict=True)], -1)

    def mode(self) -> jax.Array:
        return jnp.stack([p.mode() for p in self.parts], -1)

    def log_prob(self, raw: jax.Array) -> jax.Array:
        chex.assert_axis_dimension(raw, -1, len(self.nvec))
        return sum(p.log_prob(raw[..., i]) for i, p in enumerate(self.parts))

    def entropy(self, key: jax.Array) -> jax.Array:
        return sum(p.entropy(key) for p in self.parts)

    def kl(self, other: MultiCategorical) -> jax.Array:
        """KL(self || other). [...]"""
        return sum(p.kl(q) for p, q in zip(self.parts, other.parts, strict=True))

    def squash(self, raw: jax.Array) -> jax.Array:
        return raw


def draw(dist: Normal, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws an action of each of `dist` [B, A] by its key [B].

    Returns:
      actions, squashed [B, A], and their log-probabilities [B].
    """
    raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
    return dist.squash(raw), dist.log_prob(raw)


def act(dist: Normal, key: jax.Array, deterministic: bool) -> jax.Array:
    """The action of one `dist` [A], squashed: its mode or a sample. [A]"""
    return dist.squash(dist.mode() if deterministic else dist.sample(key))


def tanh_log_det(raw: jax.Array) -> jax.Array:
    """log |d tanh(x) / dx|, stable for large |x|. Elementwise."""
    return 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
