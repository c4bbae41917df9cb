"""Every transform against a plain Python loop, alone, composed and under `vectorize`."""

import copy

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from toys import Line, assert_trees_equal, random_actions, rollout

import envs
from envs import vectorize
from envs.mjx.simulator import load
from envs.transforms import (
    action_repeat,
    delay,
    history,
    noise,
    on_task,
    randomise,
    scale_physics,
    time_limit,
)
from envs.types import Discrete

KEY = jax.random.key(0)
FOREVER = Line(edge=1e9)


def episode(env, key, actions) -> list:
    """The states of one episode by a Python loop: the first, then one per action."""
    states, step = [jax.jit(env.reset)(key)], jax.jit(env.step)
    for action in actions:
        states.append(step(states[-1], jnp.asarray(action)))
    return states


def column(states, read) -> np.ndarray:
    return np.stack([np.asarray(read(s)) for s in states])


def contains(space, obs) -> None:
    """Asserts that observations [..., *shape] lie in `space`."""
    for name, entry in space.items() if isinstance(space, dict) else [(None, space)]:
        x = np.asarray(obs if name is None else obs[name])
        assert x.shape[x.ndim - len(entry.shape) :] == entry.shape and x.dtype == entry.dtype
        assert (x >= entry.lows).all() and (x <= entry.highs).all()


# ---------------------------------------------------------------- time limit and slots


def test_time_limits_nest_and_count_their_own_steps():
    env = time_limit(action_repeat(time_limit(FOREVER, 9), 4), 20)
    assert (env.slot, env.env.env.slot) == ("time_limit_1", "time_limit")
    states = episode(env, KEY, np.zeros((3, 1)))
    assert [int(s.info["time_limit"]) for s in states] == [0, 4, 8, 9]
    assert [int(s.info["time_limit_1"]) for s in states] == [0, 1, 2, 3]
    assert [bool(s.truncated) for s in states] == [False, False, False, True]


def test_the_same_transform_twice_keeps_two_slots():
    env = history(delay(history(delay(FOREVER, 1), 2), 1), 2)
    state = env.reset(KEY)
    assert set(state.info) == {"delay", "delay_1", "history", "history_1"}
    states = episode(env, KEY, np.full((6, 1), 0.1))
    # Delay 1 + delay 1: the newest clock shown at t is t - 2; histories repeat it later.
    clock = column(states, lambda s: s.obs[1::2])
    at = lambda t: max(t, 0)
    expected = [[at(t - 2), at(t - 3), at(t - 3), at(t - 4)] for t in range(7)]
    np.testing.assert_array_equal(clock, expected)


# ---------------------------------------------------------------- action repeat


def test_action_repeat_stops_adding_where_the_episode_ends():
    inner = time_limit(Line(edge=4.0), 13)
    env, step = action_repeat(inner, 5), jax.jit(inner.step)
    ends = set()
    for seed in range(8):
        key, actions = jax.random.key(seed), random_actions(3, 1, seed=seed)[:, 0]
        state, plain = env.reset(key), inner.reset(key)
        for action in actions:
            state = env.step(state, action)
            reward, ended = np.float32(0), False
            for _ in range(5):
                if not ended:
                    plain = step(plain, action)
                    reward += np.float32(plain.reward)
                    ended = bool(plain.terminated | plain.truncated)
            assert_trees_equal(state.data, plain.data)
            assert_trees_equal(state.obs, plain.obs)
            assert (state.terminated, state.truncated) == (plain.terminated, plain.truncated)
            np.testing.assert_allclose(state.reward, reward, rtol=1e-6)
            np.testing.assert_allclose(state.metrics["reward_x"], reward, rtol=1e-6)
            assert state.metrics["x"] == plain.metrics["x"]
            ends.add((bool(plain.terminated), bool(plain.truncated)))
            if ended:
                break
    assert {(True, False), (False, True)} <= ends


def test_action_repeat_sums_signals_but_not_those_that_are_actions():
    env = action_repeat(Line(gain=0.0, signals=True), 4)
    state = env.step(env.reset(KEY), jnp.array([0.25]))
    np.testing.assert_allclose(state.signals["cost"], 4 * state.data.x**2, rtol=1e-6)
    np.testing.assert_allclose(state.signals["objectives"][1], 1 + 2 + 3 + 4)
    assert state.signals["executed"] == 0.25


def test_action_repeat_ignores_how_the_last_episode_ended():
    """After an auto-reset the flags in the state are still those of the episode before."""
    env = action_repeat(FOREVER, 3)
    state = env.reset(KEY)
    stale = state.replace(terminated=jnp.array(True), truncated=jnp.array(True))
    action = jnp.ones(1)
    assert_trees_equal(env.step(stale, action), env.step(state, action))


def test_action_repeat_limit_is_in_decisions():
    assert action_repeat(time_limit(FOREVER, 13), 5).limit == 3
    assert not hasattr(action_repeat(FOREVER, 5), "limit")


# ---------------------------------------------------------------- history


@pytest.mark.parametrize("goals", [False, True])
@pytest.mark.parametrize("actions", [False, True])
def test_history_is_the_last_n_newest_first(goals, actions):
    inner = Line(edge=1e9, goals=goals)
    env, n = history(inner, 3, actions=actions), 3
    moves = random_actions(6, 1)[:, 0]
    states, plain = episode(env, KEY, moves), episode(inner, KEY, moves)
    pick = lambda s: np.asarray(s.obs["obs"] if goals else s.obs)
    for t, state in enumerate(states):
        frames = [pick(plain[max(t - k, 0)]) for k in range(n)]
        past = [moves[t - 1 - k] if t - 1 - k >= 0 else np.zeros(1) for k in range(n)]
        expected = np.concatenate(frames + (past if actions else []))
        np.testing.assert_allclose(pick(state), expected, rtol=1e-6)
        contains(env.observation_space, state.obs)
        if goals:
            assert_trees_equal(state.obs["goal"], plain[t].obs["goal"])


def test_history_of_discrete_actions_is_one_hot():
    env = history(Line(edge=1e9, discrete=True), 2, actions=True)
    states = episode(env, KEY, np.array([2, 0, 1]))
    past = column(states, lambda s: s.obs[4:])
    e = np.eye(3)
    none = np.zeros(3)
    expected = [(none, none), (e[2], none), (e[0], e[2]), (e[1], e[0])]
    np.testing.assert_array_equal(past, [np.concatenate(pair) for pair in expected])
    contains(env.observation_space, states[-1].obs)


def test_history_leaves_achieved_goals_where_they_were():
    env = history(envs.make("point_maze"), 3)
    state = env.step(env.reset(KEY), jnp.ones(2))
    assert_trees_equal(env.achieved_goal(state.obs), state.data.position)
    contains(env.observation_space, state.obs)


@pytest.mark.parametrize(
    "name",
    ["assembly", "peg_insertion", "peg_insertion_3d", "pick_place", "point_maze", "push_t"],
)
def test_experts_read_the_newest_observation_of_a_history(name):
    env = envs.make(name)
    space = env.observation_space
    goal = {"goal": jnp.ones(2)} if isinstance(space, dict) else None
    now, before = jax.random.normal(KEY, (2, *(space["obs"] if goal else space).shape))
    show = lambda x: goal | {"obs": x} if goal else x
    stacked = env.expert(show(jnp.concatenate([now, before])), 0)
    np.testing.assert_array_equal(stacked, env.expert(show(now), 0))


# ---------------------------------------------------------------- delay


def test_delay_delivers_late_and_loses_no_reward():
    inner = time_limit(Line(edge=2.5, goals=True), 12)
    env, moves = delay(inner, obs_steps=2, reward_steps=3), np.full((12, 1), 0.3, np.float32)
    states, plain = episode(env, KEY, moves), episode(inner, KEY, moves)
    end = next(t for t, s in enumerate(plain) if s.terminated or s.truncated)
    assert end > 4
    rewards = column(plain, lambda s: s.reward)
    for t in range(1, end + 1):
        assert_trees_equal(states[t].obs, plain[max(t - 2, 0)].obs)
        assert (states[t].terminated, states[t].truncated) == (
            plain[t].terminated,
            plain[t].truncated,
        )
        assert_trees_equal(states[t].metrics, plain[t].metrics)
        if t < end:
            np.testing.assert_allclose(states[t].reward, rewards[t - 3] if t > 3 else 0.0)
    paid = column(states[1 : end + 1], lambda s: s.reward).sum()
    np.testing.assert_allclose(paid, rewards[1 : end + 1].sum(), rtol=1e-6)


def test_actions_arrive_late_after_zeros():
    """x moves by the action of two steps before, by nothing at first."""
    env, actions = (
        delay(FOREVER, action_steps=2),
        np.array([[0.1], [0.2], [0.4], [0.8]], np.float32),
    )
    x = column(episode(env, KEY, actions), lambda s: s.data.x)
    np.testing.assert_allclose(x - x[0], [0.0, 0.0, 0.0, 0.1, 0.3], rtol=1e-5)


def test_a_time_limit_around_a_delay_loses_what_is_under_way():
    states = episode(time_limit(delay(FOREVER, reward_steps=3), 8), KEY, np.full((8, 1), 0.3))[1:]
    paid, earned = (column(states, read) for read in (lambda s: s.reward, lambda s: s.data.x))
    assert states[-1].truncated
    np.testing.assert_allclose(paid.sum(), earned[:-3].sum(), rtol=1e-6)


def test_no_delay_is_no_change():
    states, plain = (episode(e, KEY, np.ones((3, 1))) for e in (delay(FOREVER), FOREVER))
    for a, b in zip(states, plain, strict=True):
        assert_trees_equal((a.obs, a.reward), (b.obs, b.reward))


# ---------------------------------------------------------------- noise


def test_noise_has_the_asked_moments_and_spares_the_state():
    n, steps = 400, 20
    env = noise(Line(edge=1e9, goals=True), obs_std=jnp.array([0.5, 2.0]), reward_std=0.7)
    env = vectorize(env.replace(obs_std={"obs": env.obs_std}), n)
    run = rollout(env, KEY, np.zeros((steps, n, 1), np.float32))
    data = run.now.data
    errors = np.asarray(run.obs["obs"]) - np.stack([data.x, data.t], axis=-1)
    np.testing.assert_allclose(errors.std(axis=(0, 1)), [0.5, 2.0], rtol=0.05)
    assert (np.abs(errors.mean(axis=(0, 1))) < [0.03, 0.12]).all()
    between = np.corrcoef(errors.reshape(-1, 2).T)[0, 1]
    over_time = np.corrcoef(errors[1:, :, 0].ravel(), errors[:-1, :, 0].ravel())[0, 1]
    assert max(abs(between), abs(over_time)) < 0.05
    np.testing.assert_allclose((run.now.reward - data.x)[1:].std(), 0.7, rtol=0.05)
    np.testing.assert_array_equal(run.obs["goal"][..., 0], data.goal)
    assert np.ptp(np.asarray(data.x), axis=0).max() == 0.0


def test_noise_starts_where_the_environment_would():
    env = noise(FOREVER, obs_std=1.0)
    assert_trees_equal(env.reset(KEY).data, FOREVER.reset(KEY).data)
    twice = noise(env, obs_std=1.0)
    first, both = (e.reset(KEY).obs for e in (env, twice))
    assert (np.abs(both - first) > 1e-3).all()
    assert (np.abs((both - first) - (first - FOREVER.reset(KEY).obs)) > 1e-3).all()


def test_action_noise_stays_in_the_action_space():
    env = vectorize(noise(FOREVER, action_std=1.0), 300)
    run = rollout(env, KEY, np.full((5, 300, 1), 0.5, np.float32))
    moves = np.diff(np.asarray(run.now.data.x), axis=0)
    assert np.abs(moves).max() <= 1.0 + 1e-5
    # P(0.5 + e > 1) = 0.309, P(0.5 + e < -1) = 0.067
    np.testing.assert_allclose((moves > 0.9999).mean(), 0.309, atol=0.04)
    np.testing.assert_allclose((moves < -0.9999).mean(), 0.067, atol=0.03)


def test_noise_levels_are_leaves():
    reset = lambda std: noise(FOREVER, obs_std=std).reset(KEY).obs
    obs = jax.vmap(reset)(jnp.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(obs[2] - obs[0], 2 * (obs[1] - obs[0]), rtol=1e-4)


# ---------------------------------------------------------------- randomise


def draw_gain(key, env):
    return on_task(env, lambda t: t.replace(gain=jax.random.uniform(key, minval=0.5, maxval=2.0)))


def test_randomise_carries_the_replaced_leaves_only_and_uses_them():
    env = randomise(time_limit(FOREVER, 5), draw_gain)
    assert env.paths == ("env.gain",)
    n = 6
    run = rollout(vectorize(env, n, "fresh"), KEY, np.ones((12, n, 1), np.float32))
    gain, done = np.asarray(run.now.info["randomise"]["env.gain"]), np.asarray(run.done)
    assert set(run.now.info["randomise"]) == {"env.gain"}
    assert len(np.unique(gain[0])) == n and (0.5 <= gain).all() and (gain <= 2.0).all()
    np.testing.assert_array_equal(gain[1:] != gain[:-1], done[1:])  # at ends and only there
    moved = np.asarray(run.final_obs[1:, :, 0]) - np.asarray(run.now.data.x[:-1])
    np.testing.assert_allclose(moved, gain[:-1], rtol=1e-5)


def test_randomise_starts_where_the_environment_would():
    assert_trees_equal(randomise(FOREVER, draw_gain).reset(KEY).data, FOREVER.reset(KEY).data)


def test_a_whole_number_is_replaced_by_what_was_drawn():
    env = randomise(Line(gain=1), draw_gain)
    gain = jax.vmap(env.reset)(jax.random.split(KEY, 8)).info["randomise"]["gain"]
    assert gain.dtype == jnp.float32 and len(np.unique(gain)) == 8


def test_randomise_nests():
    draw_edge = lambda key, env: on_task(env, lambda t: t.replace(edge=jax.random.uniform(key)))
    env = randomise(randomise(Line(), draw_gain), draw_edge)
    info = env.step(env.reset(KEY), jnp.ones(1)).info
    assert {k: set(v) for k, v in info.items()} == {
        "randomise": {"gain"},
        "randomise_1": {"env.edge"},
    }


@pytest.fixture(scope="module")
def cartpole():
    return envs.make("cartpole_swingup")


def test_scaled_masses_move_like_a_model_built_with_them(cartpole):
    """Per environment, after an episode's end too, and against a separately loaded model."""
    env = randomise(time_limit(cartpole.env, 4), scale_physics(0.3, 3.0))
    assert set(env.paths) == {
        f"env.sim.model.{f}" for f in ("body_mass", "body_inertia", "geom_friction", "dof_damping")
    }
    n = 3
    actions = random_actions(6, n)
    run = rollout(vectorize(env, n, "fresh"), KEY, actions)
    drawn = run.now.info["randomise"]
    mass = np.asarray(drawn["env.sim.model.body_mass"])  # [T + 1, N, body]
    assert len(np.unique(mass[0, :, 1:])) == 2 * n
    changed = (mass[1:] != mass[:-1])[..., 1:].any(axis=-1)
    np.testing.assert_array_equal(changed, np.asarray(run.done[1:]))
    nominal = cartpole.sim.mj_model
    step = jax.jit(lambda env, state, action: env.step(state, action))
    for t, i in [(0, 0), (2, 1), (5, 2)]:
        model = copy.deepcopy(nominal)
        for field in ("body_mass", "body_inertia", "dof_damping"):
            setattr(model, field, np.asarray(drawn[f"env.sim.model.{field}"][t, i]))
        np.testing.assert_allclose(
            model.body_inertia[1:] / nominal.body_inertia[1:],
            np.tile((model.body_mass[1:] / nominal.body_mass[1:])[:, None], 3),
            rtol=1e-5,
        )
        mujoco.mj_setConst(model, mujoco.MjData(model))
        state = jax.tree.map(lambda x, t=t, i=i: x[t, i], run.now)
        task = cartpole.env
        other = task.replace(sim=task.sim.replace(model=load(model).model))
        built, plain = (step(e, state, actions[t, i]) for e in (other, task))
        np.testing.assert_allclose(run.final_obs[t + 1, i], built.obs, atol=1e-5)
        assert np.abs(plain.obs - built.obs).max() > 1e-3


def test_randomise_works_inside_and_outside_other_transforms(cartpole):
    inside = history(randomise(cartpole, scale_physics(0.5, 2.0, ("body_mass",))), 2)
    outside = randomise(history(cartpole, 2), scale_physics(0.5, 2.0, ("body_mass",)))
    for env in (inside, outside):
        state = jax.eval_shape(lambda key, env=env: env.step(env.reset(key), jnp.ones(1)), KEY)
        assert set(state.info) == {"time_limit", "history", "randomise"}
        assert len(state.info["randomise"]) == 2


# ---------------------------------------------------------------- together


def test_all_together_under_vectorize_restart_completely():
    env = time_limit(Line(edge=2.0), 9)
    env = noise(history(delay(action_repeat(randomise(env, draw_gain), 2), 1, 1), 2), obs_std=0.0)
    n = 8
    run = rollout(vectorize(env, n, "fresh"), KEY, random_actions(30, n))
    done = np.asarray(run.done)
    assert done[:, :].sum() > n and np.asarray(run.now.terminated).any()
    for name in ("data", "obs", "info"):  # what follows an end is a reset, in every part
        after, fresh = (
            jax.tree.map(lambda x: x[done], getattr(s, name)) for s in (run.now, run.restart)
        )
        assert_trees_equal(after, fresh)
    # Everything shown after a restart is of the new episode: its clock is 0 in both frames.
    np.testing.assert_array_equal(np.asarray(run.obs)[done][:, [1, 3]], 0.0)
    contains(env.observation_space, run.obs)
    assert env.limit == 5 and env.action_space == Line().action_space


def test_spaces_match_observations():
    for env in (history(Line(goals=True), 2, True), noise(Line(), 0.1), delay(Line(goals=True), 1)):
        contains(env.observation_space, env.reset(KEY).obs)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: time_limit(Line(), 0), "time_limit=0: must be an integer, at least 1"),
        (lambda: time_limit(Line(), 1e3), "time_limit=1000.0: must be an integer"),
        (lambda: time_limit(Line(), "abc"), "time_limit='abc': must be an integer"),
        (lambda: action_repeat(Line(), 0), "n=0: must be an integer, at least 1"),
        (lambda: action_repeat(Line(), 1.5), "n=1.5: must be an integer"),
        (lambda: history(Line(), 0), "n=0"),
        (lambda: delay(Line(), -1), "obs_steps=-1: must be an integer, at least 0"),
        (lambda: delay(Line(), 0, -2), "reward_steps=-2"),
        (lambda: delay(Line(), action_steps=-1), "action_steps=-1"),
        (lambda: noise(Line(), obs_std=-0.1), "obs_std=-0.1: must be at least 0"),
        (lambda: noise(Line(), reward_std=float("nan")), "reward_std=nan"),
        (lambda: noise(Line(), obs_std=np.ones(3)), r"obs_std of shape \(3,\): .*\(2,\)"),
        (lambda: noise(Line(), obs_std={"pixels": 1.0}), "obs_std=.*pixels"),
        (lambda: noise(Line(discrete=True), action_std=1.0), "action_std=1.0: discrete"),
        (lambda: randomise(Line(), lambda key, env: env), "sample: replaces no leaf"),
        (
            lambda: randomise(Line(), lambda key, env: env.replace(gain=jnp.ones(2))),
            r"sample: gain has shape \(2,\): must stay \(\)",
        ),
        (lambda: randomise(Line(), lambda key, env: Line(goals=True)), "sample: must return"),
        (lambda: randomise(Line(), scale_physics(0.5, 2.0)), "Line is not an MJX task"),
        (lambda: scale_physics(2.0, 0.5), "low=2.0, high=0.5: must be 0 < low <= high"),
        (lambda: scale_physics(0.5, 2.0, ()), "fields=.*at least one"),
        (
            lambda: randomise(envs.make("cartpole_swingup"), scale_physics(0.5, 2.0, ("mass",))),
            "fields: 'mass' is no .*body_mass",
        ),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_history_needs_a_vector():
    class Grid(Line):
        observation_space = Discrete(4)

    with pytest.raises(ValueError, match="history: observation 'obs' is Discrete"):
        history(Grid(), 2)
