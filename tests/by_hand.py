"""One update of an off-policy or offline method, on samples that a test writes down."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Box
from jaxrl.loops.algorithm import Algorithm, Batch, Obs
from jaxrl.nn import spaces

KEY = jax.random.key(0)
LINE = Box((1,), -1.0, 1.0)


def batch_of(obs, action, reward, next_obs, discount, key=KEY) -> Batch:
    """Returns samples of one step, all valid.

    Args:
      obs, next_obs: [B, obs], or [B] for observations of one entry; for actor and critic.
      action: [B, A] in [-1, 1], or int [B].
      reward, discount: [B].
    """
    array = lambda x: jnp.asarray(x, jnp.float32)
    column = lambda x: x[:, None] if x.ndim == 1 else x
    action, size = jnp.asarray(action), len(reward)
    obs, next_obs = column(array(obs)), column(array(next_obs))
    return Batch(
        obs=Obs(obs, obs),
        action=action.astype(jnp.int32) if action.ndim == 1 else array(action),
        reward=array(reward),
        next_obs=Obs(next_obs, next_obs),
        discount=array(discount),
        valid=jnp.ones(size, bool),
        taken=jnp.ones((size, 1), bool),
        signals={},
        key=jax.random.split(key, size),
        shared_key=key,
    )


def built(module: ModuleType, config: Any, obs: int = 1, actions: Any = LINE):
    """Returns the method's `Algorithm`, an agent at its start, and the config as a state holds it."""
    algorithm: Algorithm = module.algorithm(config, spaces.actions(actions))
    traced = jax.tree.map(jnp.asarray, config)
    example = jnp.zeros((1, obs))
    return algorithm, algorithm.init(KEY, Obs(example, example), traced), traced


def drawn(shapes, seed=0):
    """A state with these shapes, such as `eval_shape` of `init`, without compiling `init`.

    Its numbers are drawn: weights so that layers keep the size of their inputs, vectors positive.
    """
    random = np.random.default_rng(seed)

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(1)
        value = random.normal(size=x.shape)
        if x.ndim < 2:
            return jnp.asarray(0.1 + 0.2 * np.abs(value) if x.ndim else 1, x.dtype)
        return jnp.asarray(value / np.sqrt(x.shape[0]), x.dtype)

    return jax.tree.map(one, shapes)
