"""The parts of an on-policy method: settings, the unroll, the sample that losses see, its seams.

| seam | default | who replaces it |
|---|---|---|
| `network` | – | every method: bodies of MLPs, GRUs, graphs, agents (`jaxrl/nn/actors.py`) |
| `network.critic` | the value that the network gives | values of the actions drawn |
| `actor` | – | every method: what is drawn, its log-probability and entropy |
| `rewards` | the environment's | learned rewards, shaping |
| `advantage` | `generalised` | several value heads, costs, groups |
| `policy_loss` | – | clipping, proximal terms, learned objectives |
| `value_loss` | `squared` | clipped or distributional values |
| `terms` | none | more losses by name, each times the config's number `NAME_coef` |
| `extra`, `after` | `()` | numbers that learn beside the networks: multipliers, statistics |
| `clip` | all gradients together | networks that do not share a norm |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from envs.vector import VecState
from jaxrl.config import (
    Count,
    Duration,
    Limit,
    NonNegative,
    Positive,
    Real,
    Share,
    config,
)
from jaxrl.loops.collect import num_blocks
from jaxrl.ops import schedules
from jaxrl.ops.moments import Moments
from jaxrl.ops.returns import gae
from jaxrl.types import Means, Metrics


@config
class OnPolicy:
    """Settings of every on-policy learner."""

    learning_rate: NonNegative = 3e-4  # Adam's rate at the start; `lr_schedule` may change it
    gamma: Share = 0.99  # discount
    gae_lambda: Share = 0.95
    value_coef: NonNegative = 0.5
    entropy_coef: NonNegative = 0.0
    max_grad_norm: Limit = 0.5  # global norm; inf: off
    reward_scale: Positive = 1.0
    target_kl: Limit = 0.01  # the KL per update that `lr_schedule="adaptive"` aims at
    schedule_steps: Duration = 0.0  # env steps until a linear or cosine schedule ends

    num_envs: Count = 1024
    unroll_length: Count = 16
    num_minibatches: Count = 8  # must divide num_envs * unroll_length, or num_envs for "unrolls"
    num_epochs: Count = 4
    lr_schedule: Literal[schedules.KINDS] = "constant"
    normalize_obs: bool = True
    normalize_reward: bool = False
    resets: Literal["pool", "fresh", "cached"] = "pool"
    stagger: bool = False

    # What a minibatch is drawn from: single steps of all environments, or whole unrolls. A
    # recurrent network always takes whole unrolls.
    shuffle: Literal["steps", "unrolls"] = "steps"

    # When advantages and value targets are estimated: once, or before every epoch, with the values
    # that the critic has by then. Final observations of truncated episodes keep their first value.
    advantages: Literal["once", "epoch"] = "once"
    # To mean 0 and variance 1 in every minibatch. Where a task is solved, that makes large what
    # differs by chance alone.
    normalize_advantages: bool = True

    def rules(self) -> None:
        """Subclasses add what their fields must satisfy together."""
        if self.num_envs * self.steps_shuffled % self.num_minibatches:
            batch = f"num_envs={self.num_envs}"
            if self.whole_unrolls:
                batch += " (a minibatch is a set of whole unrolls)"
            else:
                batch += f" times unroll_length={self.unroll_length}"
            raise ValueError(f"num_minibatches={self.num_minibatches}: must divide {batch}")
        if self.has_schedule:
            Real(0.0, above=True, finite=False).check("schedule_steps", self.schedule_steps)

    @property
    def recurrent(self) -> bool:
        """Whether the network remembers earlier steps, so that it must see whole unrolls."""
        return False

    @property
    def whole_unrolls(self) -> bool:
        """Whether a minibatch is a set of whole unrolls."""
        return self.shuffle == "unrolls" or self.recurrent

    @property
    def steps_shuffled(self) -> int:
        """How many items of each environment are shuffled: its steps, or its one unroll."""
        return 1 if self.whole_unrolls else self.unroll_length

    @property
    def num_blocks(self) -> int:
        """How many blocks of environments are shuffled, each by itself."""
        return num_blocks(self.num_envs, self.num_minibatches, self.steps_shuffled)

    @property
    def has_schedule(self) -> bool:
        """Whether `schedule_steps` is used."""
        return self.lr_schedule in ("linear", "cosine")

    def scheduled(self, total_steps: float) -> OnPolicy:
        """Returns these settings. A schedule without a length gets `total_steps`."""
        if self.has_schedule and not self.schedule_steps:
            return self.replace(schedule_steps=float(total_steps))
        return self


@struct.dataclass
class Unroll:
    """What collection stores, [T, N, ...]."""

    obs: Any  # as the environment gives it; normalised where losses see it
    reset: jax.Array  # bool: this observation begins an episode
    raw: Any  # the actor's raw action
    log_prob: jax.Array
    outputs: Any  # of the network, for the actor
    value: Any  # an array, or the tree that `network.critic` returns
    final_value: Any  # value of the final observation where truncated, else 0
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array  # bool; False: the simulation was not finite, and the step has weight 0
    discounted: jax.Array  # running discounted reward
    signals: dict[str, jax.Array]

    @property
    def done(self) -> jax.Array:
        return self.terminated | self.truncated


@struct.dataclass
class Sample:
    """A minibatch as losses see it, [T, B, ...]. Of shuffled steps, T is 1."""

    params: Any  # of the network: a loss may evaluate parts of it by itself
    unroll: Unroll
    # Normalised over the minibatch, of every agent or factor by itself; or as estimated.
    advantage: jax.Array
    target: Any  # of the value
    value: Any  # as the network gives it
    outputs: Any
    log_prob: jax.Array
    ratio: jax.Array  # exp(log_prob - unroll.log_prob)
    entropy: jax.Array
    progress: jax.Array  # [] share of `schedule_steps` done
    keys: jax.Array  # [B] for what losses draw; nothing else uses them
    extra: Any


class Loss(Protocol):
    """Returns a loss [T, B] or [T, B, K], and metrics of the same shape; the engine takes means."""

    def __call__(self, sample: Sample, config: Any) -> tuple[jax.Array, Means]: ...


class Advantage(Protocol):
    """Returns advantages [T, N] or [T, N, K] and targets shaped like the values.

    `next_value` [T, N, ...] is the value of the observation after each action. At the end of an
    episode by its clock that is the final observation, not the next episode's first. Where
    `terminated` it has no meaning. With `network.critic` the targets may be any tree [T, N, ...].
    """

    def __call__(
        self, unroll: Unroll, next_value: Any, extra: Any, config: Any
    ) -> tuple[jax.Array, Any]: ...


class Rewards(Protocol):
    """Returns the rewards [T, N] to learn from."""

    def __call__(self, unroll: Unroll, extra: Any, config: Any) -> jax.Array: ...


class After(Protocol):
    """Updates `extra` once per step, after the networks.

    `metrics` holds the episodes that ended and the means of the update, such as "kl". `mean` takes
    means over all devices.
    """

    def __call__(
        self,
        extra: Any,
        unroll: Unroll,
        metrics: Metrics,
        mean: Callable[[jax.Array], jax.Array],
        config: Any,
    ) -> tuple[Any, Means]: ...


class Clip(Protocol):
    """Returns gradients no longer than `max_norm`, and their norm [] before."""

    def __call__(self, grads: Any, max_norm: jax.Array) -> tuple[Any, jax.Array]: ...


@struct.dataclass
class OnPolicyState:
    params: Any
    opt: Any
    learning_rate: jax.Array  # [] the current rate of the adaptive schedule
    obs_moments: Moments
    return_moments: Moments  # of discounted returns, for `normalize_reward`
    env: VecState  # [N]
    carry: Any  # recurrent state [N, ...]
    discounted: jax.Array  # [N] running discounted reward
    iteration: jax.Array  # [] int32
    key: jax.Array
    extra: Any
    config: OnPolicy


def generalised(
    unroll: Unroll, next_value: jax.Array, extra: Any, config: OnPolicy
) -> tuple[jax.Array, jax.Array]:
    """GAE(lambda), and TD(lambda) targets."""
    like_value = lambda x: x.reshape(x.shape + (1,) * (unroll.value.ndim - x.ndim))
    advantage = gae(
        reward=like_value(unroll.reward),
        value=unroll.value,
        next_value=next_value,
        terminated=like_value(unroll.terminated),
        done=like_value(unroll.done),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        valid=like_value(unroll.valid),
    )
    return advantage, advantage + unroll.value


def squared(sample: Sample, config: Any) -> tuple[jax.Array, Means]:
    """Half the squared error of the value."""
    return 0.5 * (sample.value - sample.target) ** 2, {}


def mean_over(valid: jax.Array, psum: Callable[[Any], Any]) -> Callable[[jax.Array], jax.Array]:
    """A function that takes means over the valid [T, N] steps of all devices."""
    total = jnp.maximum(psum(valid.astype(jnp.float32).sum()), 1.0)
    return lambda x: psum(jnp.where(valid, x, 0.0).sum()) / total


def over_minibatch(
    advantage: jax.Array, valid: jax.Array, psum: Callable[[Any], Any]
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """How a minibatch is averaged, and its advantages with mean 0 and variance 1 per agent.

    Args:
      advantage: [T, B] or [T, B, K].
      valid: [T, B] bool; other steps count as 0.
      psum: sums over the devices that share the minibatch.

    Returns:
      `mean(x)` of x [T, B, ...], this device's share of it; and the normalised advantages.
    """
    per_step = lambda x: x.mean(range(2, x.ndim)) if x.ndim > 2 else x
    wide = valid.reshape(valid.shape + (1,) * (advantage.ndim - 2))
    each = lambda x: jnp.where(wide, x, 0.0).sum((0, 1))  # [...], of every agent by itself
    total, center = psum((valid.astype(jnp.float32).sum(), each(advantage)))
    total = jnp.maximum(total, 1.0)
    center = center / total
    spread = jnp.sqrt(psum(each((advantage - center) ** 2) / total))
    mean = lambda x: jnp.where(valid, per_step(x), 0.0).sum() / total
    return mean, (advantage - center) / (spread + 1e-8)


def total_loss(
    sample: Sample,
    policy_loss: Loss,
    value_loss: Loss,
    terms: Mapping[str, Loss],
    mean: Callable[[jax.Array], jax.Array],
    config: OnPolicy,
) -> tuple[jax.Array, Means]:
    """The weighted sum of all losses, and the means of losses and metrics by name.

    Raises:
      ValueError: a loss or a metric without a number per sample.
    """
    seen = lambda seam, loss: per_sample(seam, loss(sample, config), sample.unroll.valid)
    losses, means = seen("policy_loss", policy_loss)
    value_losses, more = seen("value_loss", value_loss)
    policy, value, entropy = mean(losses), mean(value_losses), mean(sample.entropy)
    loss = policy + config.value_coef * value - config.entropy_coef * entropy
    metrics = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
    means = means | more
    for name, term in terms.items():
        losses, more = seen(f"terms[{name!r}]", term)
        metrics[f"{name}_loss"] = mean(losses)
        loss += getattr(config, f"{name}_coef") * metrics[f"{name}_loss"]
        means = means | more
    return loss, metrics | jax.tree.map(mean, means)


def check_terms(terms: Mapping[str, Loss], config: OnPolicy) -> None:
    """Raises ValueError if a term has no weight among the settings."""
    for name in terms:
        if not hasattr(config, f"{name}_coef"):
            raise ValueError(f"terms[{name!r}]: {type(config).__name__} must have {name}_coef")


def per_sample(seam: str, returned: Any, valid: jax.Array) -> tuple[jax.Array, Means]:
    """Returns the loss and the metrics that a `Loss` returned for steps `valid` [T, B].

    Raises:
      ValueError: it returned something else. A scalar would be averaged over invalid steps, too.
    """
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        raise ValueError(f"{seam}: must return a loss and a dict of metrics")
    for name, x in ({"the loss": returned[0]} | returned[1]).items():
        if jnp.shape(x)[:2] != valid.shape:
            raise ValueError(
                f"{seam}: {name} has the shape {jnp.shape(x)}, must be [T, B] = {valid.shape} or"
                " [T, B, K]; the engine takes the mean"
            )
    return returned
