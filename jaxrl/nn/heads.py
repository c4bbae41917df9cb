"""Gaussian, flow-matching and diffusion heads, which predict chunks of actions.

A head maps ONE observation history [To, obs] to one chunk [H, A] of normalised actions; batch it
by `vmap`. Flow and diffusion differ only in how noise is mixed in and taken out. The level of an
action says how clean it is: 0 is noise, 1 is the action. Streaming gives each action of a chunk a
level of its own (Høeg et al. 2024, "Streaming Diffusion Policy").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrl.nn.layers import MLP, Dense, Transformer

FREQUENCIES = 4  # of the sine and cosine features of a level
MIN_LOG_STD, MAX_LOG_STD = -4.0, 1.0


@dataclass(frozen=True)
class Head:
    """Pure functions on one example.

    `init(key, obs) -> params`. `loss(params, obs, chunk, mask, key) -> []`, where mask [H] says which
    actions exist. `sample(params, obs, key, deterministic) -> chunk`. Heads that denoise also have:

    - `refine(params, obs, chunk, level, next_level) -> chunk`, one network evaluation that takes
      each action from its level [H] to its next level.
    - `corrupt(chunk, noise, level)`.
    - `from_noise(params, obs, noise) -> chunk`, the map that `sample` applies to its noise [H, A].
    - `predict(params, obs, chunk, level) -> [H, A]`, the output of the network.
    """

    init: Callable[..., Any]
    loss: Callable[..., jax.Array]
    sample: Callable[..., jax.Array]
    evaluations: int  # of the network, per sample
    refine: Callable[..., jax.Array] | None = None
    corrupt: Callable[..., jax.Array] | None = None
    from_noise: Callable[..., jax.Array] | None = None
    predict: Callable[..., jax.Array] | None = None


@dataclass(frozen=True)
class Process:
    """How noise and actions are mixed. Arrays [H, A], levels [H, 1]."""

    mix: Callable[..., tuple[jax.Array, jax.Array]]  # (action, noise, level): mixed, target
    step: Callable[..., jax.Array]  # (mixed, output, level, next_level): mixed at next_level


# Rectified flow (Lipman et al. 2023; Liu et al. 2023): the network predicts the velocity of a
# straight line from noise to action.
FLOW = Process(
    mix=lambda action, noise, level: (level * action + (1 - level) * noise, action - noise),
    step=lambda mixed, speed, level, next_level: mixed + (next_level - level) * speed,
)


def _cosine(level: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the shares of action (never 0) and noise at a level (Nichol & Dhariwal 2021)."""
    angle = (1.0 - jnp.maximum(level, 0.01)) * jnp.pi / 2
    return jnp.cos(angle), jnp.sin(angle)


def _diffusion_mix(action, noise, level):
    signal, spread = _cosine(level)
    return signal * action + spread * noise, noise


def _ddim(mixed, noise, level, next_level):
    """One step of deterministic DDIM (Song et al. 2021). The predicted action is clipped."""
    signal, spread = _cosine(level)
    action = jnp.clip((mixed - spread * noise) / signal, -1.0, 1.0)
    noise = (mixed - signal * action) / jnp.maximum(spread, 1e-3)
    signal, spread = _cosine(next_level)
    return signal * action + spread * noise


# Denoising diffusion (Ho et al. 2020) with a cosine schedule: the network predicts the noise.
DIFFUSION = Process(mix=_diffusion_mix, step=_ddim)


def denoising(
    process: Process,
    trunk: nn.Module,
    horizon: int,
    action_size: int,
    steps: int,
    streaming: bool,
) -> Head:
    """Returns a head that starts from noise and refines it in `steps` evaluations of `trunk`.

    Args:
      trunk: `(obs [To, obs], tokens [H, d]) -> [H, A]`.
      streaming: train for chunks whose levels rise from the last action to the first.
    """

    def network(params, obs, chunk, level):
        rate = 2.0 ** jnp.arange(FREQUENCIES) * jnp.pi
        angle = level[:, None] * rate
        tokens = jnp.concatenate([chunk, jnp.sin(angle), jnp.cos(angle)], -1)
        return trunk.apply(params, obs, tokens)

    def init(key, obs):
        tokens = jnp.zeros((horizon, action_size + 2 * FREQUENCIES))
        return trunk.init(key, obs, tokens)

    def levels(key):
        """Draws levels [H]: one for all actions or, when streaming, mostly a stair with a random shift."""
        k_level, k_kind = jax.random.split(key)
        same = jnp.full(horizon, jax.random.uniform(k_level))
        if not streaming:
            return same
        stair = 1.0 - (jnp.arange(horizon) + jax.random.uniform(k_level)) / horizon
        return jnp.where(jax.random.bernoulli(k_kind, 0.8), stair, same)

    def loss(params, obs, chunk, mask, key):
        k_level, k_noise = jax.random.split(key)
        level = levels(k_level)
        noise = jax.random.normal(k_noise, chunk.shape)
        mixed, target = process.mix(chunk, noise, level[:, None])
        error = ((network(params, obs, mixed, level) - target) ** 2).mean(-1)
        return (error * mask).sum() / jnp.maximum(mask.sum(), 1.0)

    def refine(params, obs, chunk, level, next_level):
        output = network(params, obs, chunk, level)
        return process.step(chunk, output, level[:, None], next_level[:, None])

    def from_noise(params, obs, noise):
        return denoised(process, lambda x, level: network(params, obs, x, level), noise, steps)

    def sample(params, obs, key, deterministic):
        """Draws noise even if deterministic: the noise selects one of many modes."""
        return from_noise(params, obs, jax.random.normal(key, (horizon, action_size)))

    corrupt = lambda chunk, noise, level: process.mix(chunk, noise, level[:, None])[0]
    return Head(init, loss, sample, steps, refine, corrupt, from_noise, network)


def denoised(
    process: Process,
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    noise: jax.Array,
    steps: int,
) -> jax.Array:
    """Returns the chunk [H, A] that `steps` steps of equal size make of `noise` [H, A], clipped.

    `predict(chunk, level [H]) -> [H, A]` is the output of a network, or of several.
    """

    def one(i, chunk):
        level = jnp.full(len(noise), i / steps)
        next_level = level + 1.0 / steps
        return process.step(chunk, predict(chunk, level), level[:, None], next_level[:, None])

    return jnp.clip(jax.lax.fori_loop(0, steps, one, noise), -1.0, 1.0)


Kind = Literal["gaussian", "flow", "diffusion"]
PROCESSES = {"flow": FLOW, "diffusion": DIFFUSION}


def of_kind(
    kind: Kind,
    trunk: nn.Module,
    horizon: int,
    action_size: int,
    steps: int,
    streaming: bool = False,
) -> Head:
    """Returns the head of this kind; see `gaussian` and `denoising`."""
    if kind == "gaussian":
        return gaussian(trunk, horizon, action_size)
    return denoising(PROCESSES[kind], trunk, horizon, action_size, steps, streaming)


def gaussian(trunk: nn.Module, horizon: int, action_size: int) -> Head:
    """Independent normal distributions with means [H, A] from `trunk`. Deterministic: the mean.

    The deviations [H, A] are parameters and do not depend on the observation. A deviation that
    depends on it grows where rare actions were recorded. Their weight in the gradient of the mean
    falls with its square, and the mean never learns them (Seitzer et al. 2022).
    """
    no_tokens = jnp.zeros((horizon, 1))

    def init(key, obs):
        return {
            "trunk": trunk.init(key, obs, no_tokens),
            "log_std": jnp.zeros((horizon, action_size)),
        }

    def outputs(params, obs):
        mean = trunk.apply(params["trunk"], obs, no_tokens)
        return mean, jnp.clip(params["log_std"], MIN_LOG_STD, MAX_LOG_STD)

    def loss(params, obs, chunk, mask, key):
        mean, log_std = outputs(params, obs)
        nll = (0.5 * ((chunk - mean) * jnp.exp(-log_std)) ** 2 + log_std).mean(-1)
        return (nll * mask).sum() / jnp.maximum(mask.sum(), 1.0)

    def sample(params, obs, key, deterministic):
        mean, log_std = outputs(params, obs)
        noise = jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        return jnp.clip(jnp.where(deterministic, mean, mean + noise), -1.0, 1.0)

    return Head(init, loss, sample, 1)


class FlatTrunk(nn.Module):
    """An MLP on the concatenation of all inputs."""

    hidden: tuple[int, ...]
    out: int  # per action

    @nn.compact
    def __call__(self, obs: jax.Array, tokens: jax.Array) -> jax.Array:
        x = jnp.concatenate([obs.ravel(), tokens.ravel()])
        return MLP(self.hidden, tokens.shape[0] * self.out, "gelu")(x).reshape(-1, self.out)


class TokenTrunk(nn.Module):
    """A transformer with one token per past observation and one per action."""

    width: int
    layers: int
    heads: int
    out: int  # per action

    @nn.compact
    def __call__(self, obs: jax.Array, tokens: jax.Array) -> jax.Array:
        x = jnp.concatenate([Dense(self.width)(obs), Dense(self.width)(tokens)])
        place = self.param("place", nn.initializers.normal(0.02), x.shape)
        x = Transformer(self.width, self.layers, self.heads)(x + place)
        return Dense(self.out)(x[obs.shape[0] :])


class SeeingTrunk(nn.Module):
    """A trunk that sees the images of its observations through `Eyes` (`jaxrl/nn/pixels.py`).

    A head that denoises encodes the images again at every evaluation of the network.
    """

    trunk: nn.Module
    eyes: Callable[[], tuple[nn.Module, ...]]  # makes one module

    @nn.compact
    def __call__(self, obs: jax.Array, tokens: jax.Array) -> jax.Array:
        (eyes,) = self.eyes()
        return self.trunk(eyes(obs), tokens)
