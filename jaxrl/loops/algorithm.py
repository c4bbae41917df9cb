"""The parts of an off-policy or offline method: its `Algorithm`, its `Batch` and its seams.

Methods plug in mathematics for ONE run. They never mention a device: `Batch.mean` and
`Batch.grad` know how a batch is shared.

| seam | default | who replaces it |
|---|---|---|
| `init` | – | every method: parameters and optimisers |
| `update` | – | every method; `Delayed(critic, actor)`, `Each(update)` |
| `act` | – | every method: one action from what the policy keeps |
| `keeps` | `agent.actor.params` | policies that also ask a critic (best-of-N, edits) |
| `explore` | `act`, sampled | action noise |
| `memory` | `()` | noise that lasts an episode, plans, options, recurrent state |
| `window` | `uniform` | hindsight goals, filters, learned rewards; `across` episodes |
| `cut` | `n_step` of the config | `chunk`s of actions, `sequence`s of whole steps |
| `observe` | none | statistics of what was collected: the scale of rewards |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
from flax import struct

from jaxrl.config import Count, Finite, Positive, Share, config
from jaxrl.data import replay
from jaxrl.data.replay import Replay
from jaxrl.loops.branch import update_if
from jaxrl.nn import spaces
from jaxrl.ops import windows
from jaxrl.ops.moments import Moments, psum_over
from jaxrl.ops.windows import Window
from jaxrl.types import Means


@config
class Batches:
    """Settings of every learner that draws batches."""

    batch_size: Count = 256
    updates_per_step: Count = 16
    normalize_obs: bool = False
    actor_obs: tuple[str, ...] = ()  # entries of a dict observation; (): every one
    critic_obs: tuple[str, ...] = ()

    def rules(self) -> None:
        """Subclasses add what their fields must satisfy together."""


@config
class Updates(Batches):
    """Settings of every learner with critics."""

    gamma: Share = 0.99  # discount
    reward_scale: Positive = 1.0
    reward_shift: Finite = 0.0  # added after scaling; -1 turns a reward of 1 for success to -1/0
    policy_delay: Count = 1  # critic updates per actor update
    n_step: Count = 1  # rewards summed before bootstrapping

    def rules(self) -> None:
        super().rules()
        if self.updates_per_step % self.policy_delay:
            raise ValueError(
                f"updates_per_step={self.updates_per_step}: must be a multiple of"
                f" policy_delay={self.policy_delay} (a longer unroll_length spreads them over more"
                " steps)"
            )


@struct.dataclass
class Obs:
    """Flat, normalised observations, float32."""

    actor: jax.Array  # [*B, actor_obs]
    critic: jax.Array  # [*B, critic_obs]


@struct.dataclass
class Batch:
    """Samples to learn from, [B, ...]. If devices share a batch, each has a part of it.

    `action` is [B, A] in [-1, 1], int32 [B] where actions are discrete, [B, h, ...] from `chunk`.
    From `sequence` every entry of a step is [B, h, ...].
    """

    obs: Obs
    action: jax.Array
    reward: jax.Array  # [B] scaled, discounted sum over the steps taken
    next_obs: Obs  # after the last of those steps
    discount: jax.Array  # [B] gamma^steps, 0 where the MDP terminated
    valid: jax.Array  # [B] bool; False: not finite; the sample counts as 0 in every mean
    taken: jax.Array  # [B, h] bool: which steps of the window belong to the episode
    signals: dict[str, jax.Array]  # each summed like the reward, not scaled
    key: jax.Array  # [B] one key per sample, for random numbers of the update
    shared_key: jax.Array  # [] the same on every device
    begins: Any = ()  # [B, h] bool: which steps of the window begin an episode (`Window.begins`)
    share: float = struct.field(pytree_node=False, default=1.0)  # of the batch, on this device
    axis_name: str | None = struct.field(pytree_node=False, default=None)

    @property
    def key_pair(self) -> tuple[jax.Array, jax.Array]:
        """Two keys [B] per sample: one for the update of the critics, one for that of the actor.

        They are the same at every call, so each may be used once.
        """
        return split_each(jax.random.clone(self.key))

    def mean(self, x: jax.Array) -> jax.Array:
        """Returns this device's share of the mean of x [..., B]; the shares add up to the mean."""
        chex.assert_axis_dimension(x, -1, self.valid.shape[0])
        return jnp.where(self.valid, x, 0.0).sum(-1) * (self.share / self.valid.shape[0])

    def total(self, shares: Any) -> Any:
        """Returns the sum of every device's `shares`. A loss must stop its gradient."""
        return psum_over(self.axis_name)(shares)

    def constant(self, x: jax.Array) -> jax.Array:
        """Returns this device's share of a metric that is equal on every device."""
        return x * self.share

    def grad(self, loss: Callable[[Any], Any], params: Any) -> tuple[Any, Any]:
        """Returns the gradient over all devices of `loss(params) -> (loss, aux)`, and `aux`."""
        grads, aux = jax.grad(loss, has_aux=True)(params)
        return psum_over(self.axis_name)(grads), aux


class Columns(NamedTuple):
    """The environments from which each sample may be drawn: `count` columns from `first` on."""

    first: jax.Array  # [B] int32
    count: int


class DrawWindow(Protocol):
    """Draws one window of `length` steps per key [B] from a replay."""

    def __call__(
        self, ring: Replay, keys: jax.Array, columns: Columns, length: int, config: Any
    ) -> Window: ...


class Cut(NamedTuple):
    """Turns a window into a sample: `make(window, config)` of windows of `length` steps."""

    length: int
    make: Callable[[Window, Any], windows.Batch]


class Init(Protocol):
    """Starts an agent from example observations, each [1, obs]."""

    def __call__(self, key: jax.Array, obs: Obs, config: Any) -> Any: ...


class Update(Protocol):
    """Makes all updates of one step. `draw(key)` returns a new batch. `learn_actor` is an unbatched
    bool, or None if the actor always learns."""

    def __call__(
        self,
        agent: Any,
        draw: Callable[[jax.Array], Batch],
        key: jax.Array,
        config: Any,
        learn_actor: jax.Array | None,
    ) -> tuple[Any, Means]: ...


class UpdateOnBatch(Protocol):
    """Makes one update on one batch."""

    def __call__(self, agent: Any, batch: Batch, config: Any) -> tuple[Any, Means]: ...


class Act(Protocol):
    """Returns the action of one environment ([A] in [-1, 1], or int32 []) and the next memory."""

    def __call__(
        self, params: Any, memory: Any, obs: Obs, key: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, Any]: ...


class Explore(Protocol):
    """Like `Act`, for collection: it may add noise."""

    def __call__(
        self, agent: Any, memory: Any, obs: Obs, key: jax.Array, config: Any
    ) -> tuple[jax.Array, Any]: ...


@struct.dataclass
class Collected:
    """What `observe` sees of the steps that were collected, [T, N]."""

    returns: jax.Array  # discounted sum of the episode's scaled rewards so far
    valid: jax.Array  # bool; False: the simulation was not finite
    # The devices that share the environments. Statistics must be the same on all of them.
    axis_name: str | None = struct.field(pytree_node=False, default=None)


class Observe(Protocol):
    """Updates an agent's statistics once per step, after collection and before the updates."""

    def __call__(self, agent: Any, seen: Collected, config: Any) -> Any: ...


def uniform(
    ring: Replay, keys: jax.Array, columns: Columns, length: int, config: Any = None
) -> Window:
    """Draws windows. Every recorded step begins one with the same probability."""
    age, column = replay.uniform(ring, keys, columns.first, columns.count)
    return replay.window(ring, age, column, length)


def across(
    ring: Replay, keys: jax.Array, columns: Columns, length: int, config: Any = None
) -> Window:
    """`uniform`, but a window goes on where an episode ends. `Batch.begins` says where."""
    age, column = replay.uniform(ring, keys, columns.first, columns.count)
    return replay.stretch(ring, age, column, length)


def n_step(steps: int) -> Cut:
    """Returns over up to `steps` steps, with scaled rewards."""

    def make(window: Window, config: Updates) -> windows.Batch:
        return windows.n_step(scaled(window, config), config.gamma)

    return Cut(steps, make)


def chunk(steps: int) -> Cut:
    """`n_step` with all `steps` actions of the window, [B, steps, ...] (Li et al. 2025)."""

    def make(window: Window, config: Updates) -> windows.Batch:
        return windows.chunk(scaled(window, config), config.gamma)[0]

    return Cut(steps, make)


def sequence(steps: int) -> Cut:
    """All `steps` steps of the window by themselves, [B, steps, ...], for memories."""

    def make(window: Window, config: Updates) -> windows.Batch:
        return windows.sequence(scaled(window, config), config.gamma)

    return Cut(steps, make)


def single() -> Cut:
    """One step, for methods that use no reward."""
    return Cut(1, lambda window, config: windows.n_step(window, 1.0))


def scaled(window: Window, config: Updates) -> Window:
    """The window with `reward * reward_scale + reward_shift`."""
    reward = window.steps.reward * config.reward_scale + config.reward_shift
    return window.replace(steps=window.steps.replace(reward=reward))


@dataclass(frozen=True)
class Algorithm:
    """The functions of a method. The module's table says what each is for."""

    init: Init
    update: Update
    act: Act
    keeps: Callable[[Any], Any] = lambda agent: agent.actor.params
    explore: Explore | None = None
    memory: Callable[[jax.Array, Any], Any] = lambda key, config: ()  # at an episode's start
    window: DrawWindow = uniform
    cut: Cut | None = None  # None: `n_step(config.n_step)`
    observe: Observe | None = None


class Build(Protocol):
    """Makes a method for the shapes in `config` and the action space."""

    def __call__(self, config: Any, actions: spaces.Actions) -> Algorithm: ...


@dataclass(frozen=True)
class Delayed:
    """`updates_per_step` critic updates, each on a new batch, with an actor update on the last of
    every `policy_delay` of them (Fujimoto et al. 2018). Metrics are means over the updates."""

    critic: UpdateOnBatch
    actor: UpdateOnBatch

    def __call__(self, agent, draw, key, config, learn_actor=None):
        def critic_update(agent, key):
            return self.critic(agent, draw(key), config)

        def one_round(agent, key):
            keys = jax.random.split(key, config.policy_delay)
            earlier: Means = {}
            if config.policy_delay > 1:
                agent, earlier = jax.lax.scan(critic_update, agent, keys[:-1])
            batch = draw(keys[-1])
            agent, metrics = self.critic(agent, batch, config)
            for name, x in earlier.items():
                metrics[name] = (x.sum(0) + metrics[name]) / config.policy_delay
            improve = lambda agent: self.actor(agent, batch, config)
            agent, more = (
                improve(agent) if learn_actor is None else update_if(learn_actor, improve, agent)
            )
            return agent, metrics | more

        keys = jax.random.split(key, config.updates_per_step // config.policy_delay)
        agent, metrics = jax.lax.scan(one_round, agent, keys)
        return agent, jax.tree.map(lambda x: x.mean(0), metrics)


@dataclass(frozen=True)
class Each:
    """`updates_per_step` updates, each on a new batch. Metrics are means over them."""

    update: UpdateOnBatch

    def __call__(self, agent, draw, key, config, learn_actor=None):
        def one(agent, key):
            return self.update(agent, draw(jax.random.split(key, 1)[0]), config)

        agent, metrics = jax.lax.scan(one, agent, jax.random.split(key, config.updates_per_step))
        return agent, jax.tree.map(lambda x: x.mean(0), metrics)


def split_each(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns two independent keys [B] from each of keys [B]."""
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def flatten(config: Batches, moments: Moments, obs: Any, batch_ndim: int) -> Obs:
    """Returns raw observations, leaves [*B, ...] with `batch_ndim` batch axes, as `Obs`."""
    obs = moments.normalize(obs) if config.normalize_obs else obs
    return Obs(
        spaces.select(obs, config.actor_obs, batch_ndim),
        spaces.select(obs, config.critic_obs, batch_ndim),
    )


def to_batch(
    config: Batches,
    cut: Cut,
    window: Window,
    keys: jax.Array,
    key: jax.Array,
    moments: Moments,
    axis_name: str | None = None,
) -> Batch:
    """Returns the batch that an update sees, made of `window` and one of `keys` [B] per sample."""
    sample = cut.make(window, config)
    size, axes = sample.weight.shape[0], sample.reward.ndim
    return Batch(
        obs=flatten(config, moments, sample.obs, axes),
        action=sample.action,
        reward=sample.reward,
        next_obs=flatten(config, moments, sample.next_obs, axes),
        discount=sample.discount,
        valid=sample.weight > 0,
        taken=window.alive.T,
        begins=window.begins.T,
        signals=sample.signals,
        key=keys,
        shared_key=jax.random.fold_in(key, 2 * config.batch_size),
        share=size / config.batch_size,
        axis_name=axis_name,
    )
