"""A task's own expert as a policy, with noise, bias and delay like a human demonstrator's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from envs.transforms.base import check_count
from envs.types import Env, check_instance
from jaxrl.config import Real
from jaxrl.episodes import episode_limit
from jaxrl.nn import spaces as acting
from jaxrl.types import Policy


def scripted(
    env: Env,
    noise: float = 0.0,
    bias: float = 0.0,
    delay: int = 0,
    mode: int | None = None,
) -> Policy:
    """Returns the policy `env.expert(obs, mode)` with errors added.

    Args:
      env: a task with an expert and bounded continuous actions.
      noise: standard deviation of Gaussian noise at every step, in shares of half the action
        range. None is added when acting deterministically.
      bias: standard deviation of an error that is constant within an episode, in the same unit.
      delay: control steps by which actions come late. Until then the first action is repeated.
      mode: which of the expert's `env.num_modes` strategies. None: drawn for each episode.

    Raises:
      ValueError: the task has no expert or no such mode, or a number is out of range.
    """
    check_instance(env, ("action_space",))
    if not hasattr(env, "expert"):
        raise ValueError("this task has no scripted expert")
    for name, value in (("noise", noise), ("bias", bias)):
        Real(0.0).check(name, value)
    check_count("delay", delay, 0)
    if delay > (most := episode_limit(env)):
        raise ValueError(f"delay={delay}: must be at most the {most} steps of an episode")
    if mode is not None and mode not in range(env.num_modes):
        raise ValueError(f"mode={mode}: this task has 0 .. {env.num_modes - 1}")
    to_env, from_env = acting.to_env(env.action_space), acting.from_env(env.action_space)
    size = from_env(jnp.zeros(env.action_space.shape)).size

    def init_carry():
        return {
            "begun": jnp.zeros((), bool),
            "mode": jnp.zeros((), jnp.int32),
            "bias": jnp.zeros(size),
            "late": jnp.zeros((delay, size)),
        }

    def apply(params, carry, obs, key, deterministic):
        k_mode, k_bias, k_noise = jax.random.split(key, 3)
        begun = carry["begun"]
        drawn = jax.random.randint(k_mode, (), 0, env.num_modes) if mode is None else mode
        chosen = jnp.where(begun, carry["mode"], drawn)
        error = jnp.where(begun, carry["bias"], params["bias"] * jax.random.normal(k_bias, (size,)))
        action = from_env(env.expert(obs, chosen))
        late = jnp.where(begun, carry["late"], jnp.broadcast_to(action, (delay, size)))
        line = jnp.concatenate([late, action[None]])
        action = line[0] + error
        if not deterministic:
            action += params["noise"] * jax.random.normal(k_noise, (size,))
        carry = {"begun": jnp.ones((), bool), "mode": chosen, "bias": error, "late": line[1:]}
        return to_env(jnp.clip(action, -1.0, 1.0)), carry

    faults: dict[str, Any] = {
        k: jnp.asarray(v, jnp.float32) for k, v in (("noise", noise), ("bias", bias))
    }
    return Policy(faults, init_carry, apply)
