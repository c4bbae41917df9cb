"""The small tasks in plain JAX against their closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.tasks.classic.matrix_game import GAMES, MatrixGame
from envs.tasks.classic.meeting import Meeting, MeetingData
from envs.tasks.classic.point_maze import PointMaze
from envs.types import Goals
from jaxrl.episodes import evaluate
from jaxrl.policies.scripted import scripted
from jaxrl.types import Policy

KEYS = jax.random.split(jax.random.key(0), 6)


# --- cruise ---


@pytest.mark.parametrize("excess", [0.0, 0.1])
def test_cruise_returns_the_limit_and_what_is_spent_above_it(excess):
    env = envs.make("cruise", time_limit=10)
    act = lambda p, carry, obs, key, d: (2.0 * (obs[1:] + excess) - 1.0, carry)
    episodes = evaluate(env, Policy((), lambda: (), act), KEYS)
    limits = np.array([env.reset(key).obs[1] for key in KEYS])
    np.testing.assert_allclose(episodes["return"], 10 * (limits + excess), rtol=1e-5)
    np.testing.assert_allclose(episodes["signal_cost"], 10 * excess, atol=1e-5)


# --- meeting ---


@pytest.mark.parametrize(("cells", "steps"), [((0, 5), 3), ((2, 4), 1), ((1, 2), 1)])
def test_meeting_takes_half_the_distance_if_one_waits_where_it_is_odd(cells, steps):
    env = Meeting()
    state = env.reset(KEYS[0])
    state = state.replace(data=MeetingData(jnp.array(cells, jnp.int32)))
    total = 0.0
    for _ in range(steps):
        a, b = state.data.cell.tolist()
        state = env.step(state, jnp.array([2, 1 if b - a == 1 else 0]))
        total += state.reward
    assert state.terminated and state.metrics["success"] == 1.0
    np.testing.assert_allclose(total, 1.0 - 0.1 * (steps - 1) * np.ones(2), rtol=1e-5)


def test_agents_of_meeting_that_both_step_pass_each_other_and_walls_hold():
    env = Meeting(cells=3)
    at = lambda a, b: env.reset(KEYS[0]).replace(data=MeetingData(jnp.array([a, b], jnp.int32)))
    new = env.step(at(0, 1), jnp.array([2, 0]))
    assert new.data.cell.tolist() == [1, 0] and not new.terminated
    new = env.step(at(0, 2), jnp.array([0, 2]))
    assert new.data.cell.tolist() == [0, 2]
    assert new.obs["mask"].tolist() == [[False, True, True], [True, True, False]]
    np.testing.assert_array_equal(new.obs["obs"], [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]])
    with pytest.raises(ValueError, match="cells=1: must be at least 2"):
        Meeting(cells=1)


# --- matrix games ---


@pytest.mark.parametrize("game", GAMES)
def test_a_matrix_game_pays_its_matrix_and_shows_the_last_actions(game):
    env = MatrixGame(scale=2.0, game=game)
    n = env.action_space.n
    state = env.reset(KEYS[0])
    assert not state.obs["obs"].any()
    for a, b in itertools.product(range(n), repeat=2):
        state = env.step(state, jnp.array([a, b]))
        np.testing.assert_array_equal(state.reward, 2.0 * env.payoffs[:, a, b])
        assert state.obs["obs"].argmax(1).tolist() == [a, b]
        assert state.obs["obs"][:, n:].argmax(1).tolist() == [b, a]


def test_payoffs_of_the_games():
    assert MatrixGame(game="climbing").payoffs.max() == 11
    assert (MatrixGame(game="pennies").payoffs.sum(0) == 0).all()
    row, column = MatrixGame(game="prisoners").payoffs
    assert (row[1] > row[0]).all() and (column == row.T).all() and row[0, 0] > row[1, 1]
    with pytest.raises(ValueError, match="game='chess': allowed are climbing, "):
        MatrixGame(game="chess")


# --- the maze with a toll ---


def test_the_short_way_of_the_toll_maze_costs_and_the_long_one_does_not():
    """From the left end of the top row to its right end: 4 m over 3 costly cells."""
    env = PointMaze(layout="toll", control="velocity", start_noise=0.0)
    start, goal = jnp.array([-2.0, 1.5]), jnp.array([2.0, 1.5])

    def walk(*points):
        state = env.reset(KEYS[0])
        state = state.replace(data=state.data.replace(position=start, goal=goal))
        cost, steps = 0.0, 0
        for point in points:
            while not state.terminated and jnp.abs(state.data.position - point).max() > 0.01:
                toward = (point - state.data.position) / (env.max_speed * env.dt)
                state = env.step(state, jnp.clip(toward, -1.0, 1.0))
                cost, steps = cost + float(state.signals["cost"]), steps + 1
        assert state.terminated
        return cost, steps

    cost, steps = walk(goal)
    assert (cost, steps) == (15.0, 19)  # 0.2 m a step, 3 m of toll; within 0.3 m of the goal
    down = [jnp.array([-2.0, -1.5]), jnp.array([2.0, -1.5])]
    cost, detour = walk(*down, goal)
    assert cost == 0.0 and 45 <= detour <= 50


def test_starts_and_goals_of_the_toll_maze_are_free_of_cost_and_others_have_no_signal():
    env = PointMaze(layout="toll")
    states = jax.vmap(env.reset)(jax.random.split(KEYS[1], 200))
    for xy in (states.data.position, states.data.goal):
        assert not ((np.abs(xy[:, 0]) < 1.5) & (xy[:, 1] > 1.0)).any()
    assert set(states.signals) == {"cost"} and PointMaze().reset(KEYS[0]).signals == {}


@pytest.mark.parametrize("continuing", [False, True])
def test_goal_terminates_says_of_recorded_steps_what_the_maze_did(continuing):
    env = PointMaze(layout="open", continuing=continuing)
    assert isinstance(env, Goals)
    policy = scripted(env)

    def step(state, key):
        action, _ = policy.act(policy.init_carry(), state.obs, key)
        new = env.step(state, action)
        return new, new

    _, new = jax.lax.scan(step, env.reset(KEYS[2]), jax.random.split(KEYS[2], 60))
    ends = env.goal_terminates(env.achieved_goal(new.obs), new.obs["goal"])
    np.testing.assert_array_equal(ends, new.terminated)
    reached = new.metrics["success"] > 0
    assert reached.any() and ends.any() == (not continuing)
