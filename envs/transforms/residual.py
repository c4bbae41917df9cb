"""A frozen policy acts inside the environment, and the agent outside corrects it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.transforms.base import Transform
from envs.types import (
    ACTION_SIGNALS,
    Box,
    Env,
    Space,
    State,
    acting_key,
    check_instance,
    check_single_agent,
)


@struct.dataclass
class Residual(Transform):
    """Its slot holds {"carry": the base's memory, "action": its next action, "key", "time"}."""

    base: Any
    scale: Any
    deterministic: bool = struct.field(pytree_node=False, default=True, kw_only=True)

    def __getattr__(self, name: str) -> Any:
        if name == "expert":  # an expert's actions are not corrections
            raise AttributeError(name)
        return super().__getattr__(name)

    @property
    def policies(self) -> int:
        """The number of frozen policies inside."""
        return 1 + getattr(self.env, "policies", 0)

    @property
    def entry(self) -> str:
        """The name of the base's action in observations: base_action, base_action_1, ..."""
        return self.slot.replace("residual", "base_action")

    @property
    def observation_space(self) -> Space:
        space = self.env.observation_space
        entries = space if isinstance(space, dict) else {"obs": space}
        return entries | {self.entry: self.env.action_space}

    @property
    def action_space(self) -> Box:
        return Box(self.env.action_space.shape, -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        state = self.env.reset(key)
        own = {"key": acting_key(self.env, key), "time": jnp.zeros((), jnp.int32)}
        return self._ask_base(state, own, self.base.init_carry())

    def step(self, state: State, action: jax.Array) -> State:
        own = state.info[self.slot]
        action = self.combine(own["action"], action)
        state = self.env.step(state, action)
        signals = {
            k: self.correction(own["action"], x) if k in ACTION_SIGNALS else x
            for k, x in state.signals.items()
        }
        state = state.replace(signals=signals)
        return self._ask_base(state, own | {"time": own["time"] + 1}, own["carry"])

    def combine(self, base_action: jax.Array, correction: jax.Array) -> jax.Array:
        """Returns the executed action, in the environment's units."""
        space = self.env.action_space
        moved = base_action + self.scale * _half_range(space) * jnp.clip(correction, -1.0, 1.0)
        return jnp.clip(moved, space.lows, space.highs)

    def correction(self, base_action: Any, action: Any) -> Any:
        """Returns the inverse of `combine`, not clipped: outside [-1, 1] if `scale` is too small."""
        return (action - base_action) / (self.scale * _half_range(self.env.action_space))

    def _ask_base(self, state: State, own: dict[str, Any], carry: Any) -> State:
        key = jax.random.fold_in(own["key"], own["time"])
        action, carry = self.base.act(carry, _seen(self.base, state), key, self.deterministic)
        obs = state.obs if isinstance(state.obs, dict) else {"obs": state.obs}
        own = own | {"action": action, "carry": carry}
        return state.replace(obs=obs | {self.entry: action}, info=state.info | {self.slot: own})


def residual(env: Env, base: Any, scale: float = 0.1, deterministic: bool = True) -> Residual:
    """Puts a frozen policy under the agent (residual RL, Silver et al. 2018; Johannink et al. 2019).

    An action of 0 leaves the base's action unchanged. An action of +-1 moves it by `scale` times
    half the action range. The observation becomes a dict with an entry "base_action", the base's
    next action. The base's memory, such as a chunk of actions, starts anew with each episode. The
    task's `expert` is hidden, because its actions are not corrections.

    Args:
      env: bounded continuous actions.
      base: a policy for `env` with its parameters and normaliser: `init_carry()` and
        `act(carry, obs, key, deterministic) -> (action, carry)`. If its `sees_state` is true,
        it takes the `State` in place of `obs`.
      scale: size of corrections, above 0.
      deterministic: how the base acts. (A policy that samples by denoising always samples.)

    Raises:
      ValueError: `scale` <= 0, unbounded actions, or a base that does not fit the environment.
    """
    check_instance(env)
    check_single_agent(env)
    space = env.action_space
    if (
        not isinstance(space, Box)
        or not np.isfinite([*space.lows.ravel(), *space.highs.ravel()]).all()
    ):
        raise ValueError(f"residual: the action space is {space}: must be a bounded Box")
    if not 0 < scale <= np.finfo(np.float32).max:
        raise ValueError(f"scale={scale}: must be above 0, and finite")
    state = jax.eval_shape(env.reset, jax.random.key(0))
    try:
        action = jax.eval_shape(
            lambda seen: base.act(base.init_carry(), seen, jax.random.key(0), deterministic)[0],
            _seen(base, state),
        )
    except Exception as error:
        shapes = jax.tree.map(lambda x: x.shape, state.obs)
        raise ValueError(
            f"residual: the base policy cannot act on observations of shape {shapes}"
        ) from error
    if action.shape != space.shape:
        raise ValueError(
            f"residual: the base policy's actions have shape {action.shape}, not {space.shape}"
        )
    return Residual(env, base, jnp.asarray(scale, jnp.float32), deterministic=deterministic)


def _seen(base: Any, state: State) -> Any:
    """Returns the input of `base`: the observation, or the whole state if it `sees_state` (a planner)."""
    return state if getattr(base, "sees_state", False) else state.obs


def _half_range(space: Box) -> np.ndarray:
    return (space.highs - space.lows) / 2
