"""Hindsight experience replay: which goals a batch pretends, and what that does to its targets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

import envs
from envs import transforms
from envs.tasks.classic.point_maze import PointMaze
from jaxrl.data import replay
from jaxrl.learners.goals import her
from jaxrl.learners.off_policy import sac
from jaxrl.loops.algorithm import Columns, n_step
from jaxrl.ops.windows import Window
from jaxrl.types import Transition

TASK = transforms.time_limit(PointMaze(layout="open"), 4)
KEYS = jax.random.split(jax.random.key(0), 512)


def walk() -> replay.Replay:
    """One episode of four steps to the right, one metre each, and two steps of the next one. The
    goal (9, 9) was never reached."""
    x = np.arange(6, dtype=np.float32)
    place = lambda x: np.stack([x, 0 * x, 0 * x, 0 * x], -1)[:, None]
    goal = np.full((6, 1, 2), 9.0, np.float32)
    no = np.zeros((6, 1), bool)
    return replay.full(
        Transition(
            obs={"obs": place(x), "goal": goal},
            action=np.zeros((6, 1, 2), np.float32),
            reward=np.zeros((6, 1), np.float32),
            next_obs={"obs": place(x + 1), "goal": goal},
            terminated=no,
            truncated=x[:, None] == 3,
            valid=~no,
        )
    )


def drawn(config, env=TASK, length=1) -> Window:
    columns = Columns(jnp.zeros(len(KEYS), jnp.int32), 1)
    return jax.jit(her.hindsight(env), static_argnums=3)(walk(), KEYS, columns, length, config)


def test_a_share_of_the_samples_has_a_goal_that_its_own_episode_reached_later():
    steps = jax.tree.map(lambda x: np.asarray(x[0]), drawn(her.Config(hindsight_ratio=0.8)).steps)
    goal, at = steps.obs["goal"], steps.obs["obs"][:, 0]
    relabelled = goal[:, 0] != 9.0
    assert relabelled.mean() == pytest.approx(0.8, abs=0.08)
    assert (goal[~relabelled] == 9.0).all() and (steps.reward[~relabelled] == 0).all()
    assert (steps.next_obs["goal"] == goal).all()
    for start in range(6):
        last = 4 if start < 4 else 6
        goals = goal[relabelled & (at == start), 0]
        assert set(goals) == set(range(start + 1, last + 1))


def test_a_relabelled_step_pays_and_terminates_where_it_reaches_its_goal():
    steps = jax.tree.map(lambda x: np.asarray(x[0]), drawn(her.Config(hindsight_ratio=1.0)).steps)
    reached = steps.next_obs["obs"][:, 0] == steps.obs["goal"][:, 0]
    assert reached.any() and not reached.all()
    assert (steps.reward == reached).all() and (steps.terminated == reached).all()
    assert (steps.truncated == ((steps.obs["obs"][:, 0] == 3) & ~reached)).all()


def test_with_final_ratio_1_every_goal_is_what_the_last_step_reached():
    window = drawn(her.Config(hindsight_ratio=1.0, final_ratio=1.0))
    at, goal = window.steps.obs["obs"][0, :, 0], window.steps.obs["goal"][0, :, 0]
    assert (goal == jnp.where(at < 4, 4.0, 6.0)).all()


def test_three_step_returns_of_relabelled_windows_by_hand():
    """From x = 0 to the goal x = 4: rewards -1 to it, so three steps give -1 - 0.5 - 0.25."""
    config = her.Config(
        hindsight_ratio=1.0, final_ratio=1.0, n_step=3, gamma=0.5, reward_shift=-1.0
    )
    batch = n_step(3).make(drawn(config, length=3), config)
    at = np.asarray(batch.obs["obs"][:, 0]).astype(int)
    rewards = np.array([-1.75, -1.5, -1.0, 0.0, -1.0, 0.0])
    discounts = np.array([0.125, 0.0, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(batch.reward, rewards[at])
    np.testing.assert_allclose(batch.discount, discounts[at])


def test_a_continuing_task_is_not_terminated_by_a_goal():
    window = drawn(her.Config(hindsight_ratio=1.0), PointMaze(layout="open", continuing=True))
    assert (window.steps.reward == 1).any() and not window.steps.terminated.any()


def test_the_search_for_the_end_of_an_episode_is_bounded_by_the_time_limit():
    short = transforms.time_limit(PointMaze(layout="open"), 2)
    window = drawn(her.Config(hindsight_ratio=1.0), short)
    at, goal = window.steps.obs["obs"][0, :, 0], window.steps.obs["goal"][0, :, 0]
    assert set(np.asarray(goal - at)) == {1.0, 2.0}


def test_what_the_maze_says_of_a_goal_is_what_its_step_does():
    env = PointMaze(layout="open")
    step = jax.jit(env.step)
    state = jax.jit(env.reset)(jax.random.key(0))
    for goal, there in ((state.data.position, True), (state.data.position + 1.0, False)):
        asked = dataclasses.replace(state, data=state.data.replace(goal=goal))
        stepped = step(asked, jnp.zeros(2))
        achieved = env.achieved_goal(stepped.obs)
        assert env.goal_terminates(achieved, goal) == stepped.terminated == there
        assert env.goal_reward(achieved, goal) == stepped.reward == there


def test_the_learner_is_sac_with_windows_of_its_own():
    small = dict(num_envs=4, batch_size=8, replay_size=64, learning_starts=4, updates_per_step=1)
    learner = her.make(TASK, her.Config(**small, actor_hidden=(4,), critic_hidden=(4,)))
    assert isinstance(learner.config, sac.Config)
    shapes = jax.eval_shape(lambda key: learner.step(learner.init(key)), KEYS[0])
    assert "critic_loss" in shapes[1] and shapes[0].replay.steps.obs["goal"].shape == (16, 4, 2)


def test_an_environment_without_goals_is_refused():
    with pytest.raises(ValueError, match="^env=Probe: must be goal-conditioned, but has no achie"):
        her.make(Probe(), her.Config())
    with pytest.raises(ValueError, match="hindsight_ratio=1.5: must be between 0 and 1"):
        her.make(envs.make("point_maze_open"), her.Config(hindsight_ratio=1.5))
