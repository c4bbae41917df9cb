"""A frozen flow or diffusion policy as a map from its noise to an action, and DSRL.

DSRL (Wagenmaker et al. 2025, arXiv:2506.15799) steers a frozen policy by choosing the noise that it
starts from, with reinforcement learning. Its variant DSRL-SAC is SAC on the environment with the
policy inside:

    env = steered(env, imitation_config, policy, magnitude=1.5)
    learner = sac.make(env, sac.Config(target_entropy=0.0))

The authors' code (ajwagen/dsrl) takes chunks of several actions per decision; here a policy has a
horizon of 1. Its other variant, DSRL-NA, which also learns from actions without known noise, is not
here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.latent import Latent, latent
from envs.types import Env
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.nn import spaces
from jaxrl.types import Policy


@struct.dataclass
class Decoder:
    """`decode(obs, noise [size]) -> action` in the environment's units, for one environment."""

    params: Any
    apply: Callable[[Any, Any, jax.Array], jax.Array] = struct.field(pytree_node=False)
    size: int = struct.field(pytree_node=False)

    def decode(self, obs: Any, noise: jax.Array) -> jax.Array:
        return self.apply(self.params, obs, noise)


def noise_decoder(env: Env, config: imitation.Config, policy: Policy) -> Decoder:
    """Returns the deterministic map of a policy of `jaxrl.learners.imitation.chunks`.

    Noise drawn from a standard normal gives the policy's own actions.

    Args:
      env: of the policy.
      config: of its learner: head "flow" or "diffusion", `horizon` and `history` 1.
      policy: frozen. No gradient is taken through it.

    Raises:
      ValueError: a config of another kind.
    """
    for name in ("horizon", "history"):
        if getattr(config, name) != 1:
            raise ValueError(f"{name}={getattr(config, name)}: must be 1 for a decoder of noise")
    if config.head == "gaussian" or config.mode != "open_loop":
        raise ValueError(
            f"head={config.head!r}, mode={config.mode!r}: a decoder of noise needs head='flow' or"
            " 'diffusion' and mode='open_loop'"
        )
    size = spaces.actions(env.action_space).continuous()
    head = imitation.head_of(config, size)
    to_env = spaces.to_env(env.action_space)

    def apply(params, obs, noise):
        seen = spaces.select(params["obs"].normalize(obs), config.obs_keys, 0)
        action = head.from_noise(params["net"], seen[None], noise[None])[0]
        return to_env(jnp.clip(params["action"].restore(action), -1.0, 1.0))

    return Decoder(policy.params, apply, size)


def steered(env: Env, config: imitation.Config, policy: Policy, magnitude: float = 1.5) -> Latent:
    """Returns `env` with `policy` inside. An action in [-1, 1] is its noise over `magnitude`.

    See `noise_decoder` and `envs.transforms.latent`.
    """
    return latent(env, noise_decoder(env, config, policy), magnitude)
