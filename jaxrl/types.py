"""The few types that every learner speaks, and the Protocols of the seams between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
from flax import struct

Means = dict[str, jax.Array]  # what an update reports: scalars by name


@struct.dataclass
class Metrics:
    """Scalars of one step of a learner, by the way in which they are averaged over steps."""

    means: Means = struct.field(default_factory=dict)  # averaged; NaN until the first update
    sums: dict[str, jax.Array] = struct.field(default_factory=dict)  # added up: counts
    # Sums over the episodes that ended in this step, to be divided by `sums["episodes"]`.
    per_episode: dict[str, jax.Array] = struct.field(default_factory=dict)

    def __getitem__(self, name: str) -> jax.Array:
        return (self.means | self.sums | self.per_episode)[name]

    def __contains__(self, name: str) -> bool:
        return name in self.means or name in self.sums or name in self.per_episode

    def with_means(self, means: Means) -> Metrics:
        """Returns these metrics with more means."""
        return self.replace(means=self.means | means)


@struct.dataclass
class Policy:
    """How to act in ONE environment instance; batch it with `vmap`, like an `Env`.

    `params` holds everything learned, normaliser statistics included, so a policy
    cannot be used with the wrong ones. The carry is whatever the policy remembers
    within an episode (a recurrent state, an action chunk). Start each episode from
    `init_carry()`.

    A policy with `sees_state` is given the environment's `State` in place of the observation:
    a planner on the true simulator, for instance.
    """

    params: Any
    init_carry: Callable[[], Any] = struct.field(pytree_node=False)
    apply: Callable[..., tuple[jax.Array, Any]] = struct.field(pytree_node=False)
    sees_state: bool = struct.field(pytree_node=False, default=False)

    def view(self, state: Any) -> Any:
        """What `act` is given of an environment's `State`: its observation, or all of it."""
        return state if self.sees_state else state.obs

    def act(
        self, carry: Any, obs: Any, key: jax.Array, deterministic: bool = True
    ) -> tuple[jax.Array, Any]:
        """Returns the action in the environment's units, and the next carry."""
        return self.apply(self.params, carry, obs, key, deterministic)


@struct.dataclass
class Transition:
    """One step of an environment, or many along leading axes (time-major: [T, N, ...])."""

    obs: Any
    action: jax.Array  # [..., A] in [-1, 1], or int32 [...] where actions are discrete
    reward: jax.Array
    next_obs: Any  # what the action led to: the final observation where the episode ended
    terminated: jax.Array  # bool: the MDP ended, no value after it
    truncated: jax.Array  # bool: the clock or a recording ended it, bootstrap from `next_obs`
    valid: jax.Array  # bool; False: not finite, or `next_obs` is unknown: learn nothing from it
    # See `envs.types.State`. `executed` is not among them, because `action` is that already.
    # `teacher` is in the units of `action`.
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)


class Init(Protocol):
    """Starts one run. `config` replaces the config that the learner was made with."""

    def __call__(self, key: jax.Array, config: Any = ...) -> Any: ...


class Step(Protocol):
    """Collects and updates once. A learner from recorded data takes them as `data`."""

    def __call__(self, state: Any, data: Any = ...) -> tuple[Any, Metrics]: ...


@dataclass(frozen=True)
class Sharing:
    """How several devices share ONE run."""

    env_axis: Callable[[Any], Any]  # state -> same tree of int: the axis of environments, or -1
    on_axis: Callable[[str], Learner]  # the same learner inside a named device axis
    parts: int  # one run can be split over `d` devices if `d` divides this


@dataclass(frozen=True)
class Learner:
    """Pure functions, and what the driver must know about them.

    `init(key, config) -> state`; `step(state) -> (state, metrics)` collects and updates once;
    `policy(state) -> Policy`. All three are written for ONE run; the driver vmaps them. The
    numbers of `config` (learning rate, gamma, ...) live in the state, so a sweep is a `vmap` of
    `init` over configs and every value shares one compiled program.

    Offline learners put their data set in `data`. `step(state, data)` receives it as an argument,
    so all runs share one copy and it is not baked into the program as a constant.
    """

    init: Init
    step: Step
    policy: Callable[[Any], Policy]
    config: Any
    env: Any  # the single-instance environment, for evaluation
    steps_per_iteration: int  # how many of `unit` one `step` takes
    sharing: Sharing | None = None  # None: devices can share whole runs only
    data: Any = None
    unit: str = "env steps"  # or "updates"
    evaluate: Callable[..., dict[str, jax.Array]] | None = None  # replaces whole episodes
    about: dict[str, Any] = field(default_factory=dict)  # what to print beside the results
