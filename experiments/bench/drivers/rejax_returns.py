"""What rejax's PPO and SAC share: how a state of theirs is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import rejax


def mean_return(algorithm: Any, episodes: int) -> Callable[[Any], jax.Array]:
    """A compiled function from a training state to the mean return of that many episodes."""
    env, params = algorithm.env, algorithm.env_params
    key, limit = jax.random.PRNGKey(0), params.max_steps_in_episode

    @jax.jit
    def returns(state):
        act = algorithm.make_act(state)
        return rejax.evaluate.evaluate(act, key, env, params, episodes, limit)[1].mean()

    return returns
