"""An on-policy learner whose policy begins as a clone of demonstrations.

Behaviour cloning before policy gradients: Rajeswaran et al. 2018 (DAPG), section IV-A.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from envs.types import Box
from jaxrl.data.dataset import Dataset
from jaxrl.nn import spaces
from jaxrl.types import Learner

BATCH = 256


def cloned(learner: Learner, demos: Dataset, updates: int, learning_rate: float = 1e-3) -> Learner:
    """Returns `learner`. Every run first fits its most likely actions to those of `demos`.

    Args:
      learner: its state has `params` and `obs_moments`, like PPO's, and its actions are continuous.
        It normalises observations by the moments of `demos`.
      demos: of the learner's environment.
      updates: steps of Adam on the mean squared error, each on 256 rows.
      learning_rate: Adam's.

    Raises:
      ValueError: `demos` do not fit the environment, or its actions are discrete.
    """
    if not isinstance(learner.env.action_space, Box):
        raise ValueError(f"action_space={learner.env.action_space}: must be continuous (a Box)")
    env, moments = learner.env, jax.tree.map(jnp.asarray, demos.obs_moments())
    steps = demos.steps_for(env)
    seen = jax.tree.map(lambda x: jnp.asarray(x[:, 0]), steps.obs)
    done = spaces.to_env(env.action_space)(jnp.asarray(steps.action[:, 0]))

    def init(key: jax.Array, config: Any = learner.config) -> Any:
        k_init, k_rows = jax.random.split(key)
        state = learner.init(k_init, config).replace(obs_moments=moments)
        optimizer = optax.adam(learning_rate)

        def loss(params: Any, rows: jax.Array) -> jax.Array:
            policy = learner.policy(state.replace(params=params))
            act = lambda obs: policy.act(policy.init_carry(), obs, k_rows)[0]
            chosen = jax.tree.map(lambda x: x[rows], seen)
            return ((jax.vmap(act)(chosen) - done[rows]) ** 2).mean()

        def update(loop: Any, key: jax.Array) -> tuple[Any, None]:
            params, opt_state = loop
            rows = jax.random.randint(key, (BATCH,), 0, len(done))
            updates, opt_state = optimizer.update(jax.grad(loss)(params, rows), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        loop = (state.params, optimizer.init(state.params))
        loop, _ = jax.lax.scan(update, loop, jax.random.split(k_rows, updates))
        return state.replace(params=loop[0])

    return dataclasses.replace(learner, init=init)
