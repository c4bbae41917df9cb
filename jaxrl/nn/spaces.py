"""Maps observations to network inputs and network outputs to actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Box, Discrete, MultiDiscrete
from jaxrl.nn.distributions import Categorical, MultiCategorical, Normal, TanhNormal
from jaxrl.ops.moments import is_image

MIN_STD = 1e-3


@dataclass(frozen=True)
class Actions:
    """A space of actions as off-policy learners see it: vectors in [-1, 1], or integers."""

    size: int  # entries of the vector, or how many integers
    discrete: bool
    to_env: Callable[[jax.Array], jax.Array]  # [..., size] or int32 [...] to the space's units
    from_env: Callable[[jax.Array], jax.Array]  # the inverse

    @property
    def example(self) -> np.ndarray:
        """Zeros shaped like one action: float32 [size], or int32 []."""
        return np.zeros((), np.int32) if self.discrete else np.zeros(self.size, np.float32)

    def random(self, key: jax.Array) -> jax.Array:
        """One uniform action."""
        if self.discrete:
            return jax.random.randint(key, (), 0, self.size, jnp.int32)
        return jax.random.uniform(key, (self.size,), minval=-1.0)

    def continuous(self) -> int:
        """Returns the size of the action vector.

        Raises:
          ValueError: the actions are discrete.
        """
        if self.discrete:
            raise ValueError(f"action_space=Discrete({self.size}): must be continuous (a Box)")
        return self.size

    def integers(self) -> int:
        """Returns how many actions there are.

        Raises:
          ValueError: the actions are continuous.
        """
        if not self.discrete:
            raise ValueError(f"action_space: has {self.size} real entries, must be Discrete")
        return self.size


def actions(space: Box | Discrete | MultiDiscrete) -> Actions:
    """The `Actions` of a space.

    Raises:
      ValueError: a Box without bounds, or a MultiDiscrete.
    """
    if isinstance(space, MultiDiscrete):
        raise ValueError(
            f"action_space={space}: must be a Box or Discrete (PPO, DPO, MDPO, PPO-Lagrangian and"
            " IPPO take a MultiDiscrete)"
        )
    if isinstance(space, Discrete):
        return Actions(space.n, True, lambda x: x, lambda x: x)
    if not (np.isfinite(space.lows).all() and np.isfinite(space.highs).all()):
        raise ValueError("action_space has no bounds: off-policy learners need bounded actions")
    return Actions(math.prod(space.shape), False, to_env(space), from_env(space))


def select(obs: Any, keys: tuple[str, ...], batch_ndim: int) -> jax.Array:
    """Returns one flat vector per observation: the named entries of a dict (all if none is named).

    Leaves [*B, ...] with `batch_ndim` batch axes; returns [*B, obs] float32. Images (bytes
    [*B, H, W, C]) become numbers in 0 .. 1.
    """
    if isinstance(obs, dict):
        missing = set(keys) - set(obs)
        if missing:
            raise ValueError(
                f"actor_obs, critic_obs or obs_keys={keys}: the observation has no entry"
                f" {sorted(missing)}; it has {sorted(obs)}"
            )
        leaves = [obs[k] for k in (keys or sorted(obs))]
    elif keys:
        raise ValueError(
            f"actor_obs, critic_obs or obs_keys={keys}: must be empty, as the observation is a"
            " plain array"
        )
    else:
        leaves = [obs]
    images = [is_image(x, batch_ndim) for x in leaves]
    flat = [x.reshape(*x.shape[:batch_ndim], -1).astype(jnp.float32) for x in leaves]
    flat = [x / 255.0 if image else x for x, image in zip(flat, images, strict=True)]
    return jnp.concatenate(flat, -1)


def num_logits(space: Discrete | MultiDiscrete) -> int:
    """How many logits `distribution(space, ...)` reads."""
    return space.n if isinstance(space, Discrete) else sum(space.nvec)


def distribution(space: Box | Discrete | MultiDiscrete, kind: str) -> Callable[[jax.Array], Any]:
    """Returns the function from network outputs to an action distribution.

    `kind` matters for continuous actions only. "tanh_normal": softplus of the second half of the
    outputs is the standard deviation, 1 at output 0. "normal": the second half is the log of the
    standard deviation, and directions without bounds are not clipped.

    Raises:
      ValueError: directions with a bound on one side only, or without bounds for "tanh_normal".
    """
    if isinstance(space, Discrete):
        return Categorical
    if isinstance(space, MultiDiscrete):
        return lambda logits: MultiCategorical(logits, space.nvec)
    bounded = _bounded(space)
    if kind == "tanh_normal" and not bounded.all():
        raise ValueError("distribution='tanh_normal': actions without bounds need 'normal'")
    bounds = tuple(np.where(bounded, 1.0, np.inf).tolist())

    def continuous(outputs: jax.Array):
        if kind == "normal":
            mean, spread = jnp.split(outputs, 2, -1)
            return Normal(mean, jnp.exp(spread), bounds)
        return tanh_normal(outputs)

    return continuous


def squash(space: Box | Discrete | MultiDiscrete, kind: str) -> Callable[[jax.Array], jax.Array]:
    """From a raw action of `distribution(space, kind)` to [-1, 1], or to the integers that it is."""
    if not isinstance(space, Box):
        return lambda raw: raw
    if kind == "tanh_normal":
        return jnp.tanh
    bounds = jnp.asarray(np.where(_bounded(space), 1.0, np.inf), jnp.float32)
    return lambda raw: jnp.clip(raw, -bounds, bounds)


def tanh_normal(outputs: jax.Array) -> TanhNormal:
    """From outputs [..., 2A]: means, and standard deviations by softplus (1 at output 0)."""
    mean, spread = jnp.split(outputs, 2, -1)
    return TanhNormal(mean, jax.nn.softplus(spread + 0.5413) + MIN_STD)


def to_env(space: Box | Discrete | MultiDiscrete) -> Callable[[jax.Array], jax.Array]:
    """Maps squashed actions in [-1, 1] (flat, [..., A]) to the space's bounds and shape.

    Directions without bounds are unchanged, and integers, too.

    Raises:
      ValueError: directions with a bound on one side only.
    """
    if not isinstance(space, Box):
        return lambda action: action
    center, half = _center_and_half(space)
    return lambda action: (center + half * action).reshape(*action.shape[:-1], *space.shape)


def from_env(space: Box) -> Callable[[jax.Array], jax.Array]:
    """Returns the inverse of `to_env`: flat actions [..., A], 0 in a direction with a single value.

    Raises:
      ValueError: the space is not a Box.
    """
    if not isinstance(space, Box):
        raise ValueError(f"action_space={space}: must be a Box")
    center, half = _center_and_half(space)
    half = np.where(half > 0, half, 1.0)
    batch = lambda action: action.shape[: action.ndim - len(space.shape)]
    return lambda action: (action.reshape(*batch(action), -1) - center) / half


def _center_and_half(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centre and half the width of every direction's range [A]; 0 and 1 without bounds."""
    bounded = _bounded(space)
    low = np.where(bounded, space.lows.ravel(), -1.0).astype(np.float32)
    high = np.where(bounded, space.highs.ravel(), 1.0).astype(np.float32)
    return (high + low) / 2, (high - low) / 2


def _bounded(space: Box) -> np.ndarray:
    """Which directions [A] have bounds."""
    low, high = (np.isfinite(x.ravel()) for x in (space.lows, space.highs))
    if (low != high).any():
        raise ValueError("action_space: a direction has a bound on one side only")
    return low
