"""Plays a policy in Gymnasium's own MuJoCo tasks: the scores that the field publishes.

A policy is trained on a port, perhaps with "fast" physics. Here it acts in the original, which C
MuJoCo simulates in float64, with everything that it learned, the normaliser included.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.adapters.originals import make_original
from jaxrl.episodes import DEFAULT_MAX_STEPS
from jaxrl.types import Policy

EPISODES = 32  # by default, of every policy


def evaluate_on_original(
    name: str,
    policy: Policy,
    episodes: int = EPISODES,
    seed: int = 0,
    deterministic: bool = True,
    **overrides: Any,
) -> dict[str, np.ndarray]:
    """Runs whole episodes in the original of our task `name`, all at once, and measures them.

    Episode i starts from `reset(seed=seed + i)`. It depends on that seed and on the policy only.

    Args:
      name: of our task, such as "half_cheetah".
      policy: for one instance.
      episodes: how many, at least 1.
      seed: of the first episode, at least 0.
      deterministic: act by the mode of the policy.
      **overrides: of the environment; see `make_original`. Without a time limit an episode is cut
        after 1000 steps.

    Returns:
      arrays [episodes]: `return`, `length`, `terminated`, and `nonfinite` (the simulation broke;
      the return is undefined then: NaN), as `jaxrl.episodes.evaluate` returns them.

    Raises:
      ValueError: no such task or option, `episodes` or `seed` out of range, or a policy that needs
        the simulator's state.
    """
    for what, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{what}={value}: must be at least {least}")
    if policy.sees_state:
        raise ValueError(
            "policy: plans on MJX's state, which Gymnasium's environment does not have"
        )
    worlds = [make_original(name, **overrides) for _ in range(episodes)]
    try:
        return play_each(worlds, policy, seed, deterministic)
    finally:
        for world in worlds:
            world.close()


def play_each(
    worlds: list[gymnasium.Env], policy: Policy, seed: int = 0, deterministic: bool = True
) -> dict[str, np.ndarray]:
    """Runs one episode in each of `worlds`; see `evaluate_on_original`.

    A world stands still once its episode has ended. It is not reset, so its final observation and
    the next episode's first cannot be mistaken for one another.
    """
    count = len(worlds)
    obs = np.stack([world.reset(seed=seed + i)[0] for i, world in enumerate(worlds)])
    keys = jax.vmap(jax.random.key)(((seed + np.arange(count)) % 2**32).astype(np.uint32))
    carry = jax.vmap(lambda _: policy.init_carry())(jnp.arange(count))
    totals = {
        "return": np.zeros(count),
        "length": np.zeros(count, int),
        "terminated": np.zeros(count, bool),
        "nonfinite": np.zeros(count, bool),
    }
    alive = np.ones(count, bool)
    for t in range(worlds[0].spec.max_episode_steps or DEFAULT_MAX_STEPS):
        action, carry = _act(policy, carry, obs.astype(np.float32), keys, t, deterministic)
        action = np.asarray(action)
        for i in np.flatnonzero(alive):
            obs[i], reward, terminated, truncated, _ = worlds[i].step(action[i])
            totals["length"][i] += 1
            finite = map(np.all, map(np.isfinite, (action[i], reward, obs[i])))
            if not all(finite):
                obs[i], reward, terminated = 0.0, np.nan, False
                totals["nonfinite"][i] = True
            totals["return"][i] += reward
            totals["terminated"][i] = terminated
            alive[i] = not (terminated or truncated or totals["nonfinite"][i])
        if not alive.any():
            break
    return totals


@partial(jax.jit, static_argnames="deterministic")
def _act(policy, carry, obs, keys, time, deterministic):
    """The actions [episodes, A] of step `time`, and the next carries."""

    def one(carry, obs, key):
        return policy.act(carry, obs, jax.random.fold_in(key, time), deterministic)

    return jax.vmap(one)(carry, obs, keys)
