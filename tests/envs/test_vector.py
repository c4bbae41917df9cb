"""`vectorize`: what a learner is told about steps, ends and starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from toys import Line, assert_trees_equal, random_actions, rollout

from envs.transforms import history, time_limit
from envs.transforms.base import Transform
from envs.vector import POOL_PERIOD, vectorize

LIMIT, STEPS, N = 7, 60, 20
ENV = time_limit(Line(), LIMIT)
ACTIONS = random_actions(STEPS, N)
KEY = jax.random.key(0)


@functools.cache
def standard_run(resets="pool", num_envs=N):
    return rollout(vectorize(ENV, num_envs, resets), KEY, ACTIONS[:, :num_envs])


@pytest.fixture(params=["pool", "fresh", "cached"])
def run(request):
    return standard_run(request.param)


def at(tree, *index):
    return jax.tree.map(lambda x: x[index], tree)


def environments(run, which):
    """The part of a run, or of one `VecState`, that belongs to some environments."""
    time_axis = () if run.time.ndim == 0 else (slice(None),)
    fields = {k: v for k, v in vars(run).items() if k not in ("key", "time")}
    return run.replace(**at(fields, *time_axis, which))


def starts(run, i):
    """The x at which each later episode of environment i starts."""
    return np.asarray(run.now.data.x[1:, i])[np.asarray(run.done[1:, i])]


def test_a_step_is_the_environments_own_step_then_a_restart(run):
    before, after = at(run, slice(0, -1)), at(run, slice(1, None))
    expected = jax.vmap(jax.vmap(ENV.step))(before.now, jnp.asarray(ACTIONS))
    assert_trees_equal(after.final_obs, expected.obs, rtol=1e-6)
    expected = expected.replace(truncated=expected.truncated & ~expected.terminated)
    for name in ("reward", "terminated", "truncated", "metrics"):
        assert_trees_equal(getattr(after.now, name), getattr(expected, name), rtol=1e-6)
    done = np.asarray(after.done)
    for name in ("data", "obs", "info"):
        new, go_on, restart = (getattr(s, name) for s in (after.now, expected, after.restart))
        assert_trees_equal(*jax.tree.map(lambda x: x[done], (new, restart)))
        assert_trees_equal(*jax.tree.map(lambda x: x[~done], (new, go_on)), rtol=1e-6)


def test_terminated_and_truncated_stay_apart(run):
    x = np.asarray(run.final_obs[1:, :, 0])
    terminated, truncated = np.asarray(run.now.terminated[1:]), np.asarray(run.now.truncated[1:])
    np.testing.assert_array_equal(terminated, np.abs(x) > ENV.edge)
    at_limit = np.asarray(run.episode_length[1:]) == LIMIT
    np.testing.assert_array_equal(truncated, at_limit & ~terminated)
    assert terminated.any() and truncated.any()


def test_a_step_that_terminates_at_the_limit_is_not_truncated():
    env = time_limit(Line(gain=10.0), 1)
    actions = np.array([[[1.0], [0.0]]], np.float32)  # over the edge, or not
    run = rollout(vectorize(env, 2), KEY, actions)
    np.testing.assert_array_equal(run.now.terminated[1], [True, False])
    np.testing.assert_array_equal(run.now.truncated[1], [False, True])


def test_final_obs_is_the_obs_before_the_restart(run):
    expected = np.asarray(run.now.data.x[:-1]) + ACTIONS[..., 0]
    np.testing.assert_allclose(run.final_obs[1:, :, 0], expected, rtol=1e-6)
    done = np.asarray(run.done[1:])
    clock = np.asarray(run.obs[1:, :, 1])
    assert (clock[done] == 0).all() and (np.asarray(run.final_obs[1:, :, 1])[done] > 0).all()


def test_episode_return_and_length_are_exact(run):
    reward, done = np.asarray(run.now.reward), np.asarray(run.done)
    for i in range(N):
        total, length = np.float32(0), 0
        for t in range(1, STEPS + 1):
            total, length = total + reward[t, i], length + 1
            assert run.episode_return[t, i] == total
            assert run.episode_length[t, i] == length
            if done[t, i]:
                total, length = np.float32(0), 0


def test_no_info_leaks_into_the_next_episode():
    run = rollout(vectorize(history(ENV, 3), N), KEY, ACTIONS)
    done = np.asarray(run.done)
    assert done.sum() > N
    window = np.asarray(run.now.info["history"]["obs"])[done].reshape(-1, 3, 2)
    np.testing.assert_array_equal(window, np.repeat(window[:, :1], 3, axis=1))
    np.testing.assert_array_equal(window[:, 0, 1], 0.0)
    assert (np.asarray(run.now.info["time_limit"])[done] == 0).all()


def test_fresh_starts_all_differ():
    run = standard_run("fresh")
    x = np.concatenate([starts(run, i) for i in range(N)])
    assert len(np.unique(x)) == len(x) > 2 * N


def test_pool_starts_all_differ_when_episodes_outlast_the_period():
    env = time_limit(Line(edge=1e9), POOL_PERIOD)
    run = rollout(vectorize(env, 5), KEY, np.zeros((100, 5, 1), np.float32))
    x = np.concatenate([np.append(starts(run, i), run.now.data.x[0, i]) for i in range(5)])
    assert len(np.unique(x)) == len(x) == 5 * 7


def test_cached_repeats_the_first_start():
    run = standard_run("cached")
    for i in range(N):
        np.testing.assert_array_equal(starts(run, i), run.now.data.x[0, i])


@pytest.mark.parametrize("num_envs", [1, 3, N])
def test_the_pool_renews_every_slot_once_a_period(num_envs):
    x = np.asarray(standard_run("pool", num_envs).restart.data.x)
    renewed = x[1:] != x[:-1]  # [T, N]
    for period in (renewed[:POOL_PERIOD], renewed[POOL_PERIOD : 2 * POOL_PERIOD]):
        np.testing.assert_array_equal(period.sum(axis=0), 1)
    assert renewed.sum(axis=1).max() <= -(-num_envs // POOL_PERIOD)


@pytest.mark.parametrize("resets, num_envs", [("pool", 3), ("pool", 16), ("fresh", 3)])
def test_environment_i_does_not_depend_on_num_envs(resets, num_envs):
    many = environments(standard_run(resets), slice(num_envs))
    assert_trees_equal(standard_run(resets, num_envs), many)


def test_a_slice_of_the_environments_steps_as_it_does_among_all():
    """What a device that holds environments 5 to 12 does."""
    run, part = standard_run(), slice(5, 13)
    step = jax.jit(vectorize(ENV, N).step)
    state = environments(at(run, 0), part)
    for t in range(2 * POOL_PERIOD):
        state = step(state, ACTIONS[t, part])
        assert_trees_equal(state, environments(at(run, t + 1), part))


def test_stagger_spreads_the_first_time_outs():
    env = time_limit(Line(edge=1e9), 10)
    run = rollout(vectorize(env, 50, stagger=True), KEY, np.zeros((25, 50, 1), np.float32))
    done = np.asarray(run.done[1:])
    first_end = done.argmax(axis=0) + 1
    assert set(first_end) == set(range(1, 11))
    np.testing.assert_array_equal(np.asarray(run.now.truncated[1:]), done)
    for i in range(50):  # every later episode has its full length
        ends = np.flatnonzero(done[:, i])
        np.testing.assert_array_equal(np.diff(ends), 10)


def test_stagger_moves_the_outermost_clock_only():
    env = time_limit(time_limit(Line(), 1000), 10)
    info = vectorize(env, 50, stagger=True).reset(KEY).now.info
    assert (np.asarray(info["time_limit"]) == 0).all()
    assert set(np.asarray(info["time_limit_1"]).tolist()) == set(range(10))


@pytest.mark.parametrize("when", [3, LIMIT])  # within an episode; its first step
def test_a_nan_ends_one_episode_and_touches_nobody_else(when):
    bad = 2
    assert standard_run().done[when, bad] == (when == LIMIT)
    actions = ACTIONS.copy()
    actions[when, bad] = np.nan
    run = rollout(vectorize(ENV, N), KEY, actions)
    others = np.flatnonzero(np.arange(N) != bad)
    assert_trees_equal(environments(run, others), environments(standard_run(), others))

    hit, last = at(environments(run, bad), when + 1), at(environments(run, bad), when)
    assert hit.nonfinite and hit.now.truncated and not hit.now.terminated
    assert hit.now.reward == 0.0
    assert hit.episode_return == (0.0 if last.done else last.episode_return)
    assert_trees_equal(hit.final_obs, last.obs)
    assert all(x == 0.0 for x in hit.now.metrics.values()), "of no episode, least of all the last"
    assert_trees_equal(hit.now.data, hit.restart.data)
    floats = [x for x in jax.tree.leaves(run) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(np.isfinite(x).all() for x in floats)
    assert np.asarray(run.nonfinite).sum() == 1


def test_signals_survive_the_restart_and_add_up_over_an_episode():
    env = time_limit(Line(signals=True), 3)
    run = rollout(vectorize(env, N), KEY, ACTIONS)
    x, done = np.asarray(run.final_obs[..., 0]), np.asarray(run.done)
    assert done.any()
    np.testing.assert_allclose(run.now.signals["cost"][1:], x[1:] ** 2, rtol=1e-6)
    np.testing.assert_allclose(run.now.signals["objectives"][1:], run.final_obs[1:], rtol=1e-6)
    np.testing.assert_array_equal(run.now.signals["executed"][1:], ACTIONS.clip(-0.5, 0.5))
    assert all((np.asarray(s[0]) == 0).all() for s in run.now.signals.values())
    assert set(run.episode_signals) == {"cost", "objectives"}
    total = np.zeros(N)
    for t in range(1, len(done)):
        total = np.where(done[t - 1], 0.0, total) + x[t] ** 2
        np.testing.assert_allclose(run.episode_signals["cost"][t], total, rtol=1e-5)


def test_signals_are_zero_where_the_simulation_broke():
    actions = ACTIONS.copy()
    actions[3, 2] = np.nan
    run = rollout(vectorize(time_limit(Line(signals=True), LIMIT), N), KEY, actions)
    assert run.nonfinite[4, 2]
    assert all((np.asarray(s[4, 2]) == 0).all() for s in run.now.signals.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.episode_signals))


def test_dict_observations_and_discrete_actions():
    env = time_limit(Line(goals=True, discrete=True), LIMIT)
    actions = np.random.default_rng(0).integers(0, 3, (20, 5)).astype(np.int32)
    run = rollout(vectorize(env, 5, "fresh"), KEY, actions)
    assert run.final_obs["goal"].shape == (21, 5, 1)
    goal, done = np.asarray(run.obs["goal"][..., 0]), np.asarray(run.done)
    np.testing.assert_array_equal(goal[1:] != goal[:-1], done[1:])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_envs=0), "num_envs=0"),
        (dict(num_envs=4, resets="lazy"), "resets='lazy'.*pool"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        vectorize(ENV, **arguments)


def test_stagger_needs_a_time_limit():
    with pytest.raises(ValueError, match="stagger=True"):
        vectorize(Line(), 4, stagger=True)


@struct.dataclass
class Odometer(Transform):
    """Counts the episodes of an environment."""

    def reset(self, key):
        state = self.env.reset(key)
        return state.replace(info=state.info | {self.slot: jnp.zeros((), jnp.int32)})

    def step(self, state, action):
        count = state.info[self.slot]
        state = self.env.step(state, action)
        return state.replace(info=state.info | {self.slot: count})

    def carry_over(self, ended, start):
        return start.replace(info=start.info | {self.slot: ended.info[self.slot] + 1})


def test_carry_over_is_used_where_an_episode_ended_and_nowhere_else():
    actions = jnp.zeros((LIMIT + 3, N, 1))
    without = rollout(vectorize(ENV, N), KEY, actions)
    run = rollout(vectorize(Odometer(ENV), N), KEY, actions)
    count = np.asarray(run.now.info["odometer"])
    assert count[:, 0].tolist() == [0] * LIMIT + [1] * 4
    assert (np.asarray(run.restart.info["odometer"]) == 0).all()
    assert_trees_equal(run.now.data, without.now.data)
    assert_trees_equal(run.now.obs, without.now.obs)
