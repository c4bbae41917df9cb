"""The types that all learners share: `Learner`, `Policy`, `Transition`, `Metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
from flax import struct

Means = dict[str, jax.Array]  # what an update reports: scalars by name


@struct.dataclass
class Metrics:
    """Scalars of one step of a learner, grouped by how they are averaged over steps."""

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

    `params` holds everything learned. That includes the normaliser's statistics, so a policy
    cannot be used with the wrong ones. The carry is the policy's memory within an episode: a
    recurrent state, a chunk of actions. Start each episode from `init_carry()`.

    If `sees_state`, `act` takes the environment's `State` in place of the observation. A planner
    on the true simulator needs that.
    """

    params: Any
    init_carry: Callable[[], Any] = struct.field(pytree_node=False)
    apply: Callable[..., tuple[jax.Array, Any]] = struct.field(pytree_node=False)
    sees_state: bool = struct.field(pytree_node=False, default=False)

    def view(self, state: Any) -> Any:
        """Returns what `act` takes of an environment's `State`: the observation, or all of it."""
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
    next_obs: Any  # after the action; the final observation if the episode ended
    terminated: jax.Array  # bool: the MDP ended, no value after it
    truncated: jax.Array  # bool: the clock or a recording ended it, bootstrap from `next_obs`
    valid: jax.Array  # bool; False: not finite, or `next_obs` is unknown: learn nothing from it
    # See `envs.types.State`. `executed` is left out, because `action` is the executed action.
    # `teacher` is in the units of `action`.
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)


class Init(Protocol):
    """Starts one run. `config` replaces the config that the learner was made with."""

    def __call__(self, key: jax.Array, config: Any = ...) -> Any: ...


class Step(Protocol):
    """Collects and updates once. Offline learners take their data set as `data`."""

    def __call__(self, state: Any, data: Any = ...) -> tuple[Any, Metrics]: ...


@dataclass(frozen=True)
class Sharing:
    """How several devices share ONE run."""

    env_axis: Callable[[Any], Any]  # state -> same tree of int: the axis of environments, or -1
    on_axis: Callable[[str], Learner]  # the same learner inside a named device axis
    parts: int  # one run can be split over `d` devices if `d` divides this


@dataclass(frozen=True)
class Learner:
    """Three pure functions, and what the driver needs to know about them.

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
    # Replaces the evaluation by whole episodes; see `train(evaluate=)`.
    evaluate: Callable[..., dict[str, jax.Array]] | None = None
    about: dict[str, Any] = field(default_factory=dict)  # what to print beside the results
