"""Our MJX ports beside Gymnasium's originals: the same state, the same actions.

What differs is MJX's: float32 beside float64, its own solver iterations and contact order,
and for humanoid Newton in place of PGS. `STEP` bounds one control step from Gymnasium's state,
of tasks that can end up to their end (10 to 200 steps), of others for 12; `OPEN_LOOP` a
roll-out of 10 to 12. Both bound the largest difference of any observation entry, reward or
info relative to 1 + its size, at two to twenty times what was measured.

Contact forces have bounds of their own, and Ant is compared step by step only: what a leg
that just touches does in a substep multiplies any difference by 1e4.
"""

import inspect
from functools import cache

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.adapters.originals import ORIGINALS

STEP = {
    "inverted_pendulum": 1e-6,
    "inverted_double_pendulum": 2e-6,
    "reacher": 1e-6,
    "pusher": 2e-6,
    "swimmer": 1e-5,
    "hopper": 1e-5,
    "half_cheetah": 2e-4,
    "walker2d": 2e-4,
    "ant": 0.2,
    "humanoid": 2e-4,
    "humanoid_standup": 2e-4,
}
OPEN_LOOP = {name: 2 * bound for name, bound in STEP.items() if name != "ant"}
FORCES = {
    "ant": (27, 1e-2),
    "humanoid": (270, 5e-3),
    "humanoid_standup": (270, 5e-3),
}  # where in the observation, and their bound
CAN_END = (
    "inverted_pendulum",
    "inverted_double_pendulum",
    "hopper",
    "walker2d",
    "ant",
    "humanoid",
)
# Of the largest action: small where a pole must not fall at once, large where a robot must.
AMPLITUDE = {"inverted_pendulum": 0.1, "inverted_double_pendulum": 0.1, "ant": 1.0}
STARTS = (0, 3)
NUM_STEPS, MAX_STEPS = 12, 200
# Metrics are scalars, and these are arrays.
TENDONS = {"tendon_length", "tendon_velocity"}
NOT_METRICS = {"humanoid": TENDONS, "humanoid_standup": TENDONS}
NOT_OPTIONS = {"self", "kwargs", "xml_file", "default_camera_config", "main_body"}

# Each task compiles two programs.
pytestmark = pytest.mark.slow


@cache
def ours(name: str):
    return envs.make(name, time_limit=None)


@jax.jit
def reset(env, key):
    return env.reset(key)


@jax.jit
def step(env, state, action):
    return env.step(state, action)


def theirs(name: str):
    env = gymnasium.make(ORIGINALS[name]).unwrapped
    env.reset(seed=0)
    return env


def put(env, state) -> None:
    """Starts an episode of Gymnasium's environment in our state."""
    env.reset()  # or the last one's controls and forces would be observed
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
    if name.startswith("humanoid"):
        weights = env.model.body_mass / env.model.body_mass.sum()
        data = data.replace(tracked=f32((weights @ env.data.xipos)[:2]))
    return state.replace(data=data)


def difference(ours, theirs) -> float:
    return float(np.max(np.abs(np.asarray(ours) - theirs) / (1 + np.abs(theirs))))


def walk(name: str, mode: str):
    """Steps both from every start; yields (our state, their observation, reward, terminated, info)."""
    env, original = ours(name), theirs(name)
    amplitude = AMPLITUDE.get(name, 0.5) * original.action_space.high
    to_the_end = mode == "step" and name in CAN_END
    for start in STARTS:
        rng = np.random.default_rng(start)
        state = reset(env, jax.random.key(start))
        put(original, state)
        yield state, original._get_obs(), None, None, None
        for i in range(MAX_STEPS if to_the_end else NUM_STEPS):
            if mode == "step" and i:
                state = take(name, state, original)
            action = (amplitude * rng.uniform(-1, 1, amplitude.shape)).astype(np.float32)
            state = step(env, state, jnp.asarray(action))
            obs, reward, terminated, _, info = original.step(action)
            yield state, obs, reward, terminated, info
            if terminated:
                break


CASES = [(name, "step") for name in STEP] + [(name, "open_loop") for name in OPEN_LOOP]


@pytest.mark.parametrize("name, mode", CASES)
def test_observation_reward_and_termination_are_gymnasiums(name, mode):
    bound = STEP[name] if mode == "step" else OPEN_LOOP[name]
    forces, force_bound = FORCES.get(name, (None, 0.0))
    steps, ends = 0, 0
    for state, obs, reward, terminated, info in walk(name, mode):
        assert difference(state.obs[:forces], obs[:forces]) < bound
        if forces is not None:
            assert difference(state.obs[forces:], obs[forces:]) < force_bound
        if reward is None:
            continue
        assert bool(state.terminated) == terminated
        steps, ends = steps + 1, ends + terminated
        assert difference(state.reward, reward) < min(bound, 5e-3)
        for key in set(info) - NOT_METRICS.get(name, set()):
            assert difference(state.metrics[key], info[key]) < min(bound, 5e-3), key
    assert steps >= 10 * len(STARTS)
    if mode == "step":
        assert ends == (len(STARTS) if name in CAN_END else 0)


def test_balanced_physics_step_half_cheetah_as_gymnasium_does():
    """Its model has Euler's integrator: four Newton iterations are enough, with feet on the ground."""
    name, env = "half_cheetah", envs.make("half_cheetah", physics="balanced", time_limit=None)
    original, rng = theirs(name), np.random.default_rng(0)
    state = reset(env, jax.random.key(0))
    for _ in range(50):
        state = take(name, state, original)
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        state, (obs, reward, *_) = step(env, state, jnp.asarray(action)), original.step(action)
        assert difference(state.obs, obs) < 1e-3 and difference(state.reward, reward) < 1e-3
    assert original.data.ncon > 0


@pytest.mark.parametrize("name", FORCES)
def test_contact_forces_are_mujocos_where_the_robot_lies_on_the_ground(name):
    env, original = ours(name), theirs(name)
    if name == "ant":
        env = env.replace(contact_force_range=(-np.inf, np.inf))  # without clipping
    still = np.zeros(env.action_space.shape, np.float32)
    state = reset(env, jax.random.key(0))
    for _ in range(100):
        original.step(still)
    weight = 9.81 * original.model.body_mass.sum()
    for _ in range(3):
        state = step(env, take(name, state, original), still)
        original.step(still)
        force = original.data.cfrc_ext[1:]  # after `mj_rnePostConstraint`
        np.testing.assert_allclose(force[:, 5].sum(), weight, rtol=0.1)
        mine = np.asarray(state.obs[FORCES[name][0] :]).reshape(force.shape)
        loaded = np.abs(force) > 1e-3 * weight
        np.testing.assert_allclose(mine[loaded], force[loaded], rtol=5e-3, atol=1e-4 * weight)
        np.testing.assert_allclose(mine[~loaded], force[~loaded], atol=5e-4 * weight)


@pytest.mark.parametrize("name", ORIGINALS)
def test_spaces_are_gymnasiums(name):
    env, original = ours(name), theirs(name)
    assert env.observation_space.shape == original.observation_space.shape
    np.testing.assert_array_equal(env.action_space.lows, original.action_space.low)
    np.testing.assert_array_equal(env.action_space.highs, original.action_space.high)


@pytest.mark.parametrize("name", ORIGINALS)
def test_options_and_their_defaults_are_gymnasiums(name):
    options = inspect.signature(type(theirs(name)).__init__).parameters
    for option in set(options) - NOT_OPTIONS:
        assert getattr(ours(name), option) == options[option].default, option


@pytest.mark.parametrize("name", ["hopper", "walker2d"])
def test_an_unhealthy_robot_may_go_on(name):
    unhealthy = {"healthy_z_range": (9.0, 10.0), "terminate_when_unhealthy": False}
    shown = {"exclude_current_positions_from_observation": False}
    env = envs.make(name, physics="fast", **unhealthy, **shown)
    state = step(env, env.reset(jax.random.key(0)), jnp.zeros(env.action_space.shape))
    assert not state.terminated and state.metrics["reward_survive"] == 0.0
    assert state.obs.shape == env.observation_space.shape
    assert state.obs[0] == state.metrics["x_position"] == state.data.qpos[0]


@pytest.mark.parametrize("name", ORIGINALS)
def test_starts_are_distributed_as_gymnasiums(name):
    env, original = ours(name), theirs(name)
    n = 300
    starts = [reset(env, key).data for key in jax.random.split(jax.random.key(0), n)]
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
