"""The offline engine: updates an `Algorithm` from recorded data alone.

The seams are documented in `jaxrl/loops/algorithm.py`; `explore` and `window` are not used.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.contract import single_agent
from envs.types import Env
from envs.vector import fold_keys
from jaxrl.config import check
from jaxrl.data import replay
from jaxrl.loops.algorithm import Batches, Build, n_step, split_each, to_batch
from jaxrl.loops.off_policy import example_transition, flatten_one, policy_of, skipped_share
from jaxrl.nn import spaces
from jaxrl.ops.moments import Moments
from jaxrl.types import Learner, Metrics


@struct.dataclass
class OfflineState:
    agent: Any
    obs_moments: Moments
    key: jax.Array
    config: Batches


def learner(env: Env, config: Batches, build: Build, dataset: Any) -> Learner:
    """Returns a learner from recorded data alone. `env` gives spaces and evaluation.

    One `step` is `config.updates_per_step` updates, and steps are counted in updates.

    Args:
      env, config, build: as for `jaxrl.loops.off_policy.online`.
      dataset: a `jaxrl.data.dataset.Dataset`. Its `trajectories`, if weighted, give the
        probability of each episode. None: the learner can only act.

    Raises:
      ValueError: a field out of range, unbounded actions, data that do not fit.
    """
    check(config)
    env = single_agent(env)
    shapes = config
    actions = spaces.actions(env.action_space)
    algorithm = build(config, actions)
    cut = algorithm.cut or n_step(shapes.n_step)
    data = None if dataset is None else dataset.source_for(env)
    obs = example_transition(env, actions).obs

    def init(key: jax.Array, config: Batches = config) -> OfflineState:
        k_agent, key = jax.random.split(key)
        moments = Moments.zeros(obs)
        if dataset is not None and shapes.normalize_obs:
            moments = jax.tree.map(jnp.asarray, dataset.obs_moments())
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        return OfflineState(
            agent=algorithm.init(k_agent, flatten_one(shapes, moments, obs), config),
            obs_moments=moments,
            key=key,
            config=config,
        )

    def step(state: OfflineState, data: Any = data) -> tuple[OfflineState, Metrics]:
        if data is None:
            raise ValueError("this learner was made without a data set: it can only act")

        def draw(key):
            k_start, keys = split_each(fold_keys(key, jnp.arange(shapes.batch_size)))
            window = replay.draw_recorded(data, k_start, cut.length)
            return to_batch(state.config, cut, window, keys, key, state.obs_moments)

        key, k_update = jax.random.split(state.key)
        agent, metrics = algorithm.update(state.agent, draw, k_update, state.config, None)
        metrics["skipped"] = skipped_share(state.agent, agent, shapes)
        return state.replace(agent=agent, key=key), Metrics(means=metrics)

    return Learner(
        init=init,
        step=step,
        policy=policy_of(config, algorithm, actions),
        config=config,
        env=env,
        steps_per_iteration=shapes.updates_per_step,
        data=data,
        unit="updates",
    )
