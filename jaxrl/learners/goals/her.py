"""Hindsight experience replay (Andrychowicz et al. 2017) on soft actor-critic.

A share of every batch gets another goal: one that the same episode reached later. An agent that never
reaches its own goal still sees rewards.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from envs.types import Env
from jaxrl.config import Share, config
from jaxrl.data import replay
from jaxrl.data.replay import Replay
from jaxrl.episodes import episode_limit
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Columns, DrawWindow, split_each
from jaxrl.nn import spaces
from jaxrl.ops import goals
from jaxrl.ops.windows import Window
from jaxrl.types import Learner

GOALS = ("achieved_goal", "goal_reward", "goal_terminates")


@config
class Config(sac.Config):
    """SAC's settings, and how goals are replaced."""

    # Four relabelled samples to one as it was: k = 4 of the paper.
    hindsight_ratio: Share = 0.8
    # How many of those take what the episode's last step reached ("final"). The others take what
    # any step from the sample's own on reached ("future").
    final_ratio: Share = 0.0


def hindsight(env: Env) -> DrawWindow:
    """Windows of which a share `config.hindsight_ratio` pretends another goal.

    Raises:
      ValueError: `env` is not goal-conditioned.
    """
    missing = [name for name in GOALS if not callable(getattr(env, name, None))]
    if missing:
        raise ValueError(
            f"env={type(env).__name__}: must be goal-conditioned, but has no {', '.join(missing)}"
        )
    horizon = episode_limit(env)

    def window(
        ring: Replay, keys: jax.Array, columns: Columns, length: int, config: Config
    ) -> Window:
        k_start, keys = split_each(keys)
        k_chosen, k_goal = split_each(keys)
        age, column = replay.uniform(ring, k_start, columns.first, columns.count)
        goal = replay.hindsight_goals(
            ring, k_goal, age, column, env.achieved_goal, horizon, final=config.final_ratio
        )
        chosen = jax.vmap(jax.random.bernoulli, (0, None))(k_chosen, config.hindsight_ratio)
        return goals.relabel(
            replay.window(ring, age, column, length),
            goal,
            chosen,
            env.achieved_goal,
            env.goal_reward,
            env.goal_terminates,
        )

    return window


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """HER with SAC on `env`.

    Args:
      env: as for `jaxrl.learners.off_policy.sac.make`, and goal-conditioned: `obs` is a dict with
        an entry "goal", and `env` has `achieved_goal(obs)`, `goal_reward(achieved, goal)` and
        `goal_terminates(achieved, goal)`, which broadcast over leading axes.
      config: see `Config`.
      prior: as for `jaxrl.learners.off_policy.sac.make`. Prior data are not relabelled.

    Raises:
      ValueError: as for `jaxrl.learners.off_policy.sac.make`, or `env` is not goal-conditioned.
    """
    window = hindsight(env)

    def build(config: Config, actions: spaces.Actions) -> Algorithm:
        return dataclasses.replace(sac.algorithm(config, actions), window=window)

    return off_policy.online(env, config, build, prior)
