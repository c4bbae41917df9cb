"""The few types every learner speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import struct

# Fixed-size reductions over one step of a learner, never per-sample arrays. Plain names are
# means, NaN before there is an update to speak of. `episodes` counts the episodes that ended,
# and every name that begins with `episode_` is a SUM over those; `train` divides. `*_count` are
# counts.
Metrics = dict[str, jax.Array]


@struct.dataclass
class Policy:
    """How to act in ONE environment instance; batch it with `vmap`, as one does `Env`.

    `params` holds everything learned, normaliser statistics included, so a policy
    cannot be used with the wrong ones. The carry is whatever the policy remembers
    within an episode (a recurrent state, an action chunk); start each episode from
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
        """The action in the environment's units, and the next carry."""
        return self.apply(self.params, carry, obs, key, deterministic)


@struct.dataclass
class Transition:
    """One step of an environment, or many along leading axes (time-major: [T, N, ...])."""

    obs: Any
    action: jax.Array  # [..., A] in [-1, 1], or in the environment's units in a `Dataset`
    reward: jax.Array
    next_obs: Any  # what the action led to: the final observation where the episode ended
    terminated: jax.Array  # bool: the MDP ended, no value after it
    truncated: jax.Array  # bool: the clock or a recording ended it, bootstrap from `next_obs`
    valid: jax.Array  # bool; False: not finite, or `next_obs` is unknown: learn nothing from it
    # See `envs.types.State`. `executed` is not among them, because `action` is that already.
    # `teacher` is in the units of `action`.
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)


@dataclass(frozen=True)
class Learner:
    """Pure functions, and what the driver must know about them.

    `init(key, config) -> state`; `step(state) -> (state, metrics)` collects and
    updates once; `policy(state) -> Policy`. The numbers of `config` (learning rate,
    gamma, ...) live in the state, so a sweep is a `vmap` of `init` over configs and
    every value shares one compiled program.

    A learner from recorded data has it in `data`, and `step` takes it as an optional second
    argument (`data` itself by default): so it is one copy for all runs, not a constant
    compiled into the program.
    """

    init: Callable[[jax.Array, Any], Any]
    step: Callable[..., tuple[Any, Metrics]]
    policy: Callable[[Any], Policy]
    config: Any
    env: Any  # the single-instance environment, for evaluation
    steps_per_iteration: int  # environment steps (offline: updates) that one `step` takes
    env_axis: Callable[[Any], Any]  # state -> same tree of int: the axis of environments, or -1
    validate: Callable[[Any], None]  # raises ValueError where a config is out of range
    on_axis: Callable[[str], Learner] | None = None  # the same learner in a named device axis
    parts: int = 1  # what devices that share a run must divide
    data: Any = None
