"""The agent chooses the input of a frozen decoder, which makes the action."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.transforms.base import Transform
from envs.types import ACTION_SIGNALS, Box, Env, State, check_instance, check_single_agent


@struct.dataclass
class Latent(Transform):
    """Its slot holds {"obs": what the decoder sees next}."""

    decoder: Any
    magnitude: Any

    def __getattr__(self, name: str) -> Any:
        if name == "expert":  # an expert's actions are not inputs of the decoder
            raise AttributeError(name)
        return super().__getattr__(name)

    @property
    def action_space(self) -> Box:
        return Box((self.decoder.size,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        return self._seen(self.env.reset(key))

    def step(self, state: State, action: jax.Array) -> State:
        latent = self.magnitude * jnp.clip(action, -1.0, 1.0)
        action = self.decoder.decode(state.info[self.slot]["obs"], latent)
        return self._seen(self.env.step(state, action))

    def _seen(self, state: State) -> State:
        signals = {k: x for k, x in state.signals.items() if k not in ACTION_SIGNALS}
        return state.replace(signals=signals, info=state.info | {self.slot: {"obs": state.obs}})


def latent(env: Env, decoder: Any, magnitude: float = 1.0) -> Latent:
    """Puts a frozen decoder between the agent and the environment.

    An action z in [-1, 1] is decoded from `magnitude * z`. Signals that are actions ("executed",
    "teacher") are left out, because they are not inputs of the decoder, and so is the task's
    `expert`.

    Args:
      env: bounded continuous actions.
      decoder: a frozen pytree with `size` and `decode(obs, latent [size]) -> action` in the units
        of `env`, such as `jaxrl.policies.decoder.noise_decoder`. Its numbers are data, so other
        parameters need no new program.
      magnitude: above 0.

    Raises:
      ValueError: a magnitude that is not above 0, actions that are not continuous, or a decoder
        that does not fit the environment.
    """
    check_instance(env)
    check_single_agent(env)
    space = env.action_space
    if not isinstance(space, Box):
        raise ValueError(f"latent: the action space is {space}: must be a Box")
    if not 0 < magnitude <= np.finfo(np.float32).max:
        raise ValueError(f"magnitude={magnitude}: must be above 0, and finite")
    obs = jax.eval_shape(env.reset, jax.random.key(0)).obs
    try:
        action = jax.eval_shape(
            decoder.decode, obs, jax.ShapeDtypeStruct((decoder.size,), np.float32)
        )
    except Exception as error:
        shapes = jax.tree.map(lambda x: x.shape, obs)
        raise ValueError(
            f"latent: the decoder cannot decode with observations of shape {shapes}"
        ) from error
    if action.shape != space.shape:
        raise ValueError(
            f"latent: the decoder's actions have shape {action.shape}, not {space.shape}"
        )
    return Latent(env, decoder, jnp.asarray(magnitude, jnp.float32))
