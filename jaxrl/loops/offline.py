"""Learning from recorded data alone: the algorithms of `jaxrl/loops/off_policy.py` without environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from envs.vector import fold_keys
from jaxrl.data import replay
from jaxrl.loops import off_policy
from jaxrl.ops.moments import Moments
from jaxrl.types import Learner, Metrics


@struct.dataclass
class OfflineState:
    agent: Any
    obs_moments: Moments
    key: jax.Array
    config: off_policy.Config


def learner(
    env: Env,
    config: off_policy.Config,
    build: Callable[..., off_policy.Algorithm],
    check: Callable[[off_policy.Config], None],
    dataset: Any,
) -> Learner:
    """A learner from recorded data alone; `env` is for spaces and evaluation.

    One `step` is `config.updates_per_step` updates, and steps are counted in updates.

    Args:
      env, config, build, check: as for `off_policy.online`; what is about collecting
        (environments, unrolls, the replay, when learning starts) has no effect.
      dataset: a `jaxrl.data.Dataset`, whose `trajectories` (if weighted) say how likely
        each episode is drawn; None for a learner that can only act.

    Raises:
      ValueError: a field out of range, discrete actions, data that do not fit.
    """
    check(config)
    c = config
    algorithm = build(c, off_policy.action_size_of(env), lambda x: x)
    to_batch = off_policy.batcher(c)
    data = None if dataset is None else dataset.source_for(env)
    obs = off_policy.example_obs(env)

    def init(key: jax.Array, config: off_policy.Config = config) -> OfflineState:
        k_agent, key = jax.random.split(key)
        moments = Moments.zeros(obs)
        if dataset is not None and c.normalize_obs:
            moments = jax.tree.map(jnp.asarray, dataset.obs_moments())
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        return OfflineState(
            agent=algorithm.init(k_agent, *off_policy.flatten_one(c, moments, obs), config),
            obs_moments=moments,
            key=key,
            config=config,
        )

    def step(state: OfflineState, data: Any = data) -> tuple[OfflineState, Metrics]:
        if data is None:
            raise ValueError("this learner was made without a data set: it can only act")

        def draw(key):
            k_start, keys = off_policy.split_each(fold_keys(key, jnp.arange(c.batch_size)))
            window = replay.draw_recorded(data, k_start, c.n_step)
            return to_batch(window, keys, key, state.obs_moments, state.config)

        key, k_update = jax.random.split(state.key)
        agent, metrics = off_policy.update_loop(
            algorithm, state.agent, draw, k_update, c, state.config
        )
        return state.replace(agent=agent, key=key), metrics

    return Learner(
        init=init,
        step=step,
        policy=off_policy.policy_of(env, c, algorithm),
        config=config,
        env=env,
        steps_per_iteration=c.updates_per_step,
        env_axis=lambda state: jax.tree.map(lambda _: -1, state),
        validate=check,
        data=data,
    )


def validate(config: off_policy.Config) -> None:
    """Raises ValueError naming the first field that is bad, or has no meaning without environments."""
    for name in ("prior_ratio", "actor_starts"):
        if getattr(config, name):
            raise ValueError(f"{name}={getattr(config, name)}: must be 0 for recorded data alone")
    off_policy.validate(config)
