"""The policies of on-policy learners: a `Network`, and an `Actor` that reads its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from envs.types import Box, Discrete, MultiDiscrete
from jaxrl.nn import spaces
from jaxrl.nn.layers import ActorCritic
from jaxrl.types import Policy


class Apply(Protocol):
    """Runs a network over time.

    `obs` are the normalised observations, leaves [T, B, ...]; `reset` [T, B] says which of them
    begin an episode. Returns the next carry, the outputs that the actor reads (leaves
    [T, B, ...]) and the value [T, B] or, with several heads or agents, [T, B, K].
    """

    def __call__(
        self, params: Any, carry: Any, obs: Any, reset: jax.Array
    ) -> tuple[Any, Any, jax.Array]: ...


class Critic(Protocol):
    """Returns the value of actions that the actor drew, in place of the value of `Apply`.

    `obs` are the normalised observations and `raw` the raw actions, leaves [*B, ...], where *B is
    N or T, N; `log_prob` is [*B]. Returns an array or a tree, leaves [*B, ...]. The metric "value"
    shows the first leaf.
    """

    def __call__(self, params: Any, obs: Any, raw: Any, log_prob: jax.Array) -> Any: ...


@dataclass(frozen=True)
class Network:
    """The body of actor and critic. Its parameters hold the actor's, too."""

    init: Callable[[jax.Array, Any, jax.Array], Any]  # (key, obs [1, 1, ...], reset [1, 1])
    apply: Apply
    init_carry: Callable[[int], Any] = lambda batch: ()  # of a batch of environments
    critic: Critic | None = None  # None: `apply` gives the values


@dataclass(frozen=True)
class Actor:
    """A distribution over raw actions, given a network's outputs.

    A raw action is a pytree: what was drawn, before squashing. For a chain of denoising steps it
    is the whole chain. A log-probability may be a vector, [..., K], of factors with a ratio each.
    """

    sample: Callable[..., tuple[Any, jax.Array]]  # (params, outputs [B], keys [B]): raw, log_prob
    # (params, outputs [T, B], raw [T, B], keys [B]): log_prob and entropy, [T, B] or [T, B, K]
    evaluate: Callable[..., tuple[jax.Array, jax.Array]]
    mode: Callable[..., Any]  # (params, outputs [B], keys [B]): raw
    to_env: Callable[[Any], jax.Array]  # raw to the environment's units
    kl: Callable[[Any, Any], jax.Array] | None = None  # KL(a || b) of two outputs; None: estimated


def distribution_actor(space: Box | Discrete | MultiDiscrete, kind: str) -> Actor:
    """Returns the actor of one distribution of `jaxrl/nn/distributions.py`; see `spaces.distribution`."""
    distribution = spaces.distribution(space, kind)
    to_env, squash = spaces.to_env(space), spaces.squash(space, kind)

    def sample(params, outputs, keys):
        dist = distribution(outputs)
        raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
        return raw, dist.log_prob(raw)

    def evaluate(params, outputs, raw, keys):
        dist = distribution(outputs)
        # One key per environment, so that the draws do not depend on the number of devices.
        entropy = jax.vmap(lambda d, k: d.entropy(k), (1, 0), 1)(dist, keys)
        return dist.log_prob(raw), entropy

    def mode(params, outputs, keys):
        return distribution(outputs).mode()

    return Actor(
        sample=sample,
        evaluate=evaluate,
        mode=mode,
        to_env=lambda raw: to_env(squash(raw)),
        kl=lambda a, b: distribution(a).kl(distribution(b)),
    )


def actor_critic(
    module: ActorCritic, actor_obs: tuple[str, ...], critic_obs: tuple[str, ...]
) -> Network:
    """Returns separate MLPs (or GRUs) for actor and critic, each on its entries of the observation."""

    def seen(obs: Any, reset: jax.Array) -> tuple[jax.Array, jax.Array]:
        select = lambda keys: spaces.select(obs, keys, reset.ndim)
        return select(actor_obs), select(critic_obs)

    def init(key, obs, reset):
        return module.init(key, module.init_carry(1), *seen(obs, reset), reset)

    def apply(params, carry, obs, reset):
        return module.apply(params, carry, *seen(obs, reset), reset)

    return Network(init, apply, module.init_carry)


def policy_of(
    forward: Callable[..., Any], start: Callable[[int], Any], actor: Actor
) -> Callable[[Any], Policy]:
    """Returns `Learner.policy`, of a state with `params` and `obs_moments`.

    Args:
      forward: (params, moments, carry, obs [1, ...], reset [1]) to the next carry, the outputs that
        the actor reads, and the value.
      start: the carry of a batch of that size.
      actor: reads the outputs.
    """

    # Defined once: functions are static fields of a Policy, and a new function causes a retrace.
    def init_carry():
        return start(1)

    def apply(params, carry, obs, key, deterministic):
        weights, moments = params
        obs, keys = jax.tree.map(lambda x: x[None], obs), key[None]
        carry, outputs, _ = forward(weights, moments, carry, obs, jnp.zeros(1, bool))
        draw = actor.mode if deterministic else lambda *args: actor.sample(*args)[0]
        raw = draw(weights, outputs, keys)
        return actor.to_env(jax.tree.map(lambda x: x[0], raw)), carry

    return lambda state: Policy((state.params, state.obs_moments), init_carry, apply)
