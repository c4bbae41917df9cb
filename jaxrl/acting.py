"""Between networks and environments: observations in, actions out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Box, Discrete
from jaxrl.distributions import Categorical, Normal, TanhNormal

MIN_STD = 1e-3


def select(obs: Any, keys: tuple[str, ...], batch_ndim: int) -> jax.Array:
    """One flat vector per observation: the named entries of a dict (all if none named).

    Leaves [*B, ...] with `batch_ndim` batch axes; returns [*B, obs] float32.
    """
    if isinstance(obs, dict):
        missing = set(keys) - set(obs)
        if missing:
            raise ValueError(f"observation has no entry {sorted(missing)}; it has {sorted(obs)}")
        leaves = [obs[k] for k in (keys or sorted(obs))]
    elif keys:
        raise ValueError(f"observation keys {keys} given, but the observation is a plain array")
    else:
        leaves = [obs]
    flat = [x.reshape(*x.shape[:batch_ndim], -1).astype(jnp.float32) for x in leaves]
    return jnp.concatenate(flat, -1)


def distribution(space: Box | Discrete, kind: str) -> Callable[[jax.Array], Any]:
    """From network outputs to an action distribution.

    `kind`, for continuous actions: "tanh_normal" (second half of the outputs: standard
    deviation by softplus, 1 at 0) or "normal" (second half: log standard deviation).
    """
    if isinstance(space, Discrete):
        return Categorical

    def continuous(outputs: jax.Array):
        if kind == "normal":
            mean, spread = jnp.split(outputs, 2, -1)
            return Normal(mean, jnp.exp(spread))
        return tanh_normal(outputs)

    return continuous


def tanh_normal(outputs: jax.Array) -> TanhNormal:
    """Outputs [..., 2A]: means, then what softplus makes standard deviations (1 at 0)."""
    mean, spread = jnp.split(outputs, 2, -1)
    return TanhNormal(mean, jax.nn.softplus(spread + 0.5413) + MIN_STD)


def to_env(space: Box | Discrete) -> Callable[[jax.Array], jax.Array]:
    """Maps squashed actions in [-1, 1] (flat, [..., A]) to the space's bounds and shape."""
    if isinstance(space, Discrete):
        return lambda action: action
    lows, highs = space.lows.ravel(), space.highs.ravel()
    bounded = np.isfinite(lows) & np.isfinite(highs)
    center = np.where(bounded, (np.where(bounded, highs, 0) + np.where(bounded, lows, 0)) / 2, 0.0)
    half = np.where(bounded, (np.where(bounded, highs, 1) - np.where(bounded, lows, -1)) / 2, 1.0)
    center, half = center.astype(np.float32), half.astype(np.float32)
    return lambda action: (center + half * action).reshape(*action.shape[:-1], *space.shape)


def from_env(space: Box) -> Callable[[jax.Array], jax.Array]:
    """The inverse of `to_env` for a bounded space: flat actions [..., A] in [-1, 1]."""
    lows, highs = space.lows.ravel(), space.highs.ravel()
    center, half = (highs + lows) / 2, (highs - lows) / 2
    return lambda action: (action.reshape(*action.shape[: -len(space.shape)], -1) - center) / half
