"""Our MJX ports beside Gymnasium's originals: the same state, the same actions.

What differs is MJX's: float32 beside float64, its own solver iterations and contact order,
and for humanoid Newton in place of PGS. `STEP` bounds one control step from Gymnasium's
state, `OPEN_LOOP` a roll-out of 12, as the largest difference of any observation entry,
reward or info relative to 1 + its size, at two to ten times what was measured.

Ant and humanoid drop to the ground: in the steps where a foot touches, when in the substep
it does so decides a force or a velocity, and single entries differ by 0.01 to 1. They are
compared step by step only, by the median over steps, their rewards by the largest.
"""

import inspect
from functools import cache

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs

ORIGINAL = {
    "inverted_pendulum": "InvertedPendulum-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
    "reacher": "Reacher-v5",
    "pusher": "Pusher-v5",
    "swimmer": "Swimmer-v5",
    "hopper": "Hopper-v5",
    "half_cheetah": "HalfCheetah-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "humanoid": "Humanoid-v5",
}
STEP = {
    "inverted_pendulum": 1e-6,
    "inverted_double_pendulum": 2e-6,
    "reacher": 1e-6,
    "pusher": 2e-6,
    "swimmer": 1e-5,
    "hopper": 1e-5,
    "half_cheetah": 2e-4,
    "walker2d": 2e-4,
    "ant": 5e-2,
    "humanoid": 1e-4,
}
TUMBLING = ("ant", "humanoid")
OPEN_LOOP = {name: 2 * bound for name, bound in STEP.items() if name not in TUMBLING}
NUM_STEPS = 12
# Metrics are scalars, and these are arrays.
NOT_METRICS = {"humanoid": {"tendon_length", "tendon_velocity"}}
NOT_OPTIONS = {"self", "kwargs", "xml_file", "default_camera_config", "main_body"}

# Each task compiles two programs.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]


@cache
def ours(name: str):
    env = envs.make(name, time_limit=None)
    return env, jax.jit(env.reset), jax.jit(env.step)


def theirs(name: str):
    env = gymnasium.make(ORIGINAL[name]).unwrapped
    env.reset(seed=0)
    return env


def put(env, state) -> None:
    """Sets Gymnasium's environment to our state."""
    env.set_state(np.asarray(state.data.qpos, float), np.asarray(state.data.qvel, float))
    warmstart = state.data.qacc_warmstart
    env.data.qacc_warmstart[:] = np.asarray(warmstart, float)


def take(name, state, env):
    """Our state, set to where Gymnasium's environment is."""
    f32 = lambda x: jnp.asarray(x, jnp.float32)
    data = state.data.replace(
        qpos=f32(env.data.qpos),
        qvel=f32(env.data.qvel),
        qacc_warmstart=f32(env.data.qacc_warmstart),
    )
    if name == "ant":  # the point whose displacement is rewarded, as Gymnasium reads it
        data = data.replace(tracked=f32(env.data.xpos[1, :2]))
    if name == "humanoid":
        weights = env.model.body_mass / env.model.body_mass.sum()
        data = data.replace(tracked=f32((weights @ env.data.xipos)[:2]))
    return state.replace(data=data)


def difference(ours, theirs) -> float:
    return float(np.max(np.abs(np.asarray(ours) - theirs) / (1 + np.abs(theirs))))


def walk(name: str, resynchronise: bool):
    """Steps both; yields (our state, their observation, reward, terminated, info)."""
    _, reset, step = ours(name)
    original = theirs(name)
    rng = np.random.default_rng(0)
    for start in range(2):
        state = reset(jax.random.key(start))
        put(original, state)
        yield state, original._get_obs(), None, None, None
        for i in range(NUM_STEPS):
            if resynchronise and i:
                state = take(name, state, original)
            action = original.action_space.high * rng.uniform(
                -0.5, 0.5, original.action_space.shape
            )
            action = action.astype(np.float32)
            state = step(state, jnp.asarray(action))
            obs, reward, terminated, _, info = original.step(action)
            yield state, obs, reward, terminated, info
            if terminated:
                break


CASES = [(name, "step") for name in STEP] + [(name, "open_loop") for name in OPEN_LOOP]


@pytest.mark.parametrize("name, mode", CASES)
def test_observation_reward_and_termination_are_gymnasiums(name, mode):
    bound = STEP[name] if mode == "step" else OPEN_LOOP[name]
    obs_differs, reward_differs, info_differs = [], [0.0], [0.0]
    for state, obs, reward, terminated, info in walk(name, mode == "step"):
        obs_differs.append(difference(state.obs, obs))
        if reward is None:
            continue
        reward_differs.append(difference(state.reward, reward))
        assert bool(state.terminated) == terminated
        keys = set(info) - NOT_METRICS.get(name, set())
        info_differs += [difference(state.metrics[key], info[key]) for key in keys]
    assert len(obs_differs) >= 12
    if name in TUMBLING:
        assert np.median(obs_differs) < bound
        assert max(reward_differs + info_differs) < 0.1
    else:
        assert max(obs_differs + reward_differs + info_differs) < bound


@pytest.mark.parametrize("name", ORIGINAL)
def test_spaces_are_gymnasiums(name):
    env, original = ours(name)[0], theirs(name)
    assert env.observation_space.shape == original.observation_space.shape
    np.testing.assert_array_equal(env.action_space.lows, original.action_space.low)
    np.testing.assert_array_equal(env.action_space.highs, original.action_space.high)


@pytest.mark.parametrize("name", ORIGINAL)
def test_options_and_their_defaults_are_gymnasiums(name):
    options = inspect.signature(type(theirs(name)).__init__).parameters
    for option in set(options) - NOT_OPTIONS:
        assert getattr(ours(name)[0], option) == options[option].default, option


@pytest.mark.parametrize("name", ["hopper", "walker2d"])
def test_an_unhealthy_robot_may_go_on(name):
    unhealthy = {"healthy_z_range": (9.0, 10.0), "terminate_when_unhealthy": False}
    shown = {"exclude_current_positions_from_observation": False}
    env = envs.make(name, physics="fast", **unhealthy, **shown)
    state = jax.jit(env.step)(env.reset(jax.random.key(0)), jnp.zeros(env.action_space.shape))
    assert not state.terminated and state.metrics["reward_survive"] == 0.0
    assert state.obs.shape == env.observation_space.shape
    assert state.obs[0] == state.metrics["x_position"] == state.data.qpos[0]


@pytest.mark.parametrize("name", ORIGINAL)
def test_starts_are_distributed_as_gymnasiums(name):
    _, reset, _ = ours(name)
    original = theirs(name)
    n = 300
    starts = [reset(key).data for key in jax.random.split(jax.random.key(0), n)]
    mine = np.array([np.concatenate([data.qpos, data.qvel]) for data in starts])
    rows = []
    for seed in range(n):
        original.reset(seed=seed)
        rows.append(np.concatenate([original.data.qpos, original.data.qvel]))
    other = np.array(rows)
    spread = other.std(0)
    tolerance = 5 * spread / np.sqrt(n) + 1e-6
    np.testing.assert_array_less(np.abs(mine.mean(0) - other.mean(0)), 1.5 * tolerance)
    np.testing.assert_array_less(np.abs(mine.std(0) - spread), tolerance)
