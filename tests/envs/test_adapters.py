"""Other suites as our environments: same dynamics, our episodes."""

import sys
import types

import brax.envs
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import State as BraxState

from envs.adapters.playground import NO_LIMIT
from envs.registry import make
from envs.types import Discrete, sample_space
from envs.vector import vectorize

pytestmark = pytest.mark.filterwarnings("ignore:Brax System")


def rollout(env, key, steps):
    """States after the reset and each step of random actions, stacked, and the actions."""

    def step(state, key):
        action = sample_space(env.action_space, key)
        new = env.step(state, action)
        return new, (new, action)

    first = env.reset(key)
    _, (states, actions) = jax.lax.scan(step, first, jax.random.split(key, steps))
    return first, states, actions


def vector_rollout(env, num_envs, steps, resets="pool"):
    vec = vectorize(env, num_envs, resets)

    def step(state, key):
        keys = jax.random.split(key, num_envs)
        state = vec.step(state, jax.vmap(lambda k: sample_space(env.action_space, k))(keys))
        return state, state

    k_reset, k_steps = jax.random.split(jax.random.key(0))
    run = jax.jit(lambda: jax.lax.scan(step, vec.reset(k_reset), jax.random.split(k_steps, steps)))
    return run()[1]


# --- gymnax ---


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Breakout-MinAtar"])
def test_gymnax_steps_as_the_suite_does(name):
    env = make(f"gymnax/{name}", time_limit=None)
    key = jax.random.key(3)
    first, states, actions = jax.jit(lambda: rollout(env, key, 40))()

    suite, params = gymnax.make(name)
    k_reset, k = jax.random.split(key)
    obs, state = suite.reset_env(k_reset, params)
    np.testing.assert_array_equal(first.obs, obs)
    step = jax.jit(suite.step_env)
    for t in range(40):
        k, k_step = jax.random.split(k)
        obs, state, reward, terminated, _ = step(k_step, state, actions[t], params)
        np.testing.assert_allclose(states.obs[t], obs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(states.reward[t], reward, rtol=1e-5, atol=1e-6)
        assert states.terminated[t] == terminated
    assert not states.truncated.any()


@pytest.mark.parametrize("name", sorted(set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}))
def test_gymnax_spaces_are_what_the_task_returns(name):  # MNIST downloads its images
    env = make(f"gymnax/{name}")
    state = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.eval_shape(lambda k: sample_space(env.action_space, k), jax.random.key(0))
    stepped = jax.eval_shape(env.step, state, action)
    for s in (state, stepped):
        assert (s.obs.shape, s.obs.dtype) == (env.observation_space.shape, jnp.float32)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, stepped)
    assert jax.tree.all(same), "a reset and a step must agree, or no scan can carry the state"


def test_gymnax_overrides_reach_parameters_and_constructor():
    env = make("gymnax/CartPole-v1", gravity=5.0, time_limit=20)
    assert env.params.gravity == 5.0 and env.params.max_steps_in_episode == 20 and env.limit == 20
    assert make("gymnax/Pendulum-v1").limit == 200
    assert make("gymnax/DeepSea-bsuite", size=5).observation_space.shape == (5, 5)
    assert make("gymnax/FrozenLake-misc").observation_space.shape == (16,)  # one-hot
    assert make("gymnax/Breakout-MinAtar").action_space == Discrete(3)


def test_gymnax_episodes_end_by_fall_or_by_clock_and_restart_afresh():
    limit = 20
    s = vector_rollout(make("gymnax/CartPole-v1", time_limit=limit), 16, 100)
    terminated, truncated = np.asarray(s.now.terminated), np.asarray(s.now.truncated)
    done = terminated | truncated
    fallen = np.abs(np.asarray(s.final_obs[..., 2])) > 12 * np.pi / 180
    np.testing.assert_array_equal(terminated, fallen)
    np.testing.assert_array_equal(truncated, np.asarray(s.episode_length) == limit)
    assert terminated.any() and (truncated & ~terminated).any()
    starts = np.asarray(s.obs)[done]
    assert np.abs(starts).max() <= 0.05
    assert len(np.unique(starts[:, 0])) > 0.5 * len(starts)
    # gymnax's own clock belongs to the episode
    np.testing.assert_array_equal(s.now.data.state.time[done], 0)
    np.testing.assert_array_equal(s.now.data.state.time[~done], s.episode_length[~done])
    assert not s.nonfinite.any()


def test_a_real_option_takes_a_whole_number_that_an_int32_does_not_hold():
    env = make("gymnax/Pendulum-v1", g=3 * 10**9)
    assert env.params.g == 3e9 and isinstance(env.params.g, float)
    assert jnp.isfinite(jax.jit(env.reset)(jax.random.key(0)).obs).all()


def test_gymnax_random_dynamics_draw_a_new_key_each_step():
    env = make("gymnax/Asterix-MinAtar")
    step = jax.jit(lambda s: env.step(s, jnp.zeros((), jnp.int32)))
    state = env.reset(jax.random.key(0))
    keys = []
    for _ in range(3):
        state = step(state)
        keys.append(tuple(jax.random.key_data(state.data.key).tolist()))
    assert len(set(keys)) == 3


# --- Brax ---


def test_brax_steps_as_the_suite_does_and_never_resets():
    env = make("brax/inverted_pendulum", backend="mjx", time_limit=None)
    key = jax.random.key(1)
    first, states, actions = jax.jit(lambda: rollout(env, key, 40))()

    suite = brax.envs.get_environment("inverted_pendulum", backend="mjx")
    assert env.is_mjx and env.model.body_mass.shape == suite.sys.body_mass.shape
    state = jax.jit(suite.reset)(key)
    np.testing.assert_allclose(first.obs, state.obs, rtol=1e-6)
    step = jax.jit(suite.step)
    for t in range(40):
        state = step(state, actions[t])
        np.testing.assert_allclose(states.obs[t], state.obs, rtol=1e-3, atol=1e-4)
        assert states.terminated[t] == bool(state.done)
        assert states.reward[t] == 1.0
    assert states.terminated[-1], "random pushes drop the pole, and nothing may pick it up"
    kept = sum(x.nbytes for x in jax.tree.leaves(first.data))
    assert kept < 0.1 * sum(x.nbytes for x in jax.tree.leaves(state))


def test_brax_dict_observations_and_time_limit():
    env = make("brax/fast", asymmetric_obs=True, obs_mode="dict_state", time_limit=7)
    assert {k: v.shape for k, v in env.observation_space.items()} == {
        "privileged_state": (4,),
        "state": (2,),
    }
    s = vector_rollout(env, 3, 15)
    ends = np.arange(1, 16) % 7 == 0
    np.testing.assert_array_equal(s.now.truncated, np.tile(ends[:, None], 3))
    assert not s.now.terminated.any()
    assert (np.asarray(s.obs["state"])[ends] == 0.0).all()
    assert (np.asarray(s.final_obs["state"])[ends] > 0.0).any()


class Leaky(brax.envs.Env):
    """Counts its steps in `info` and, one step late, in `metrics`; carries a field nobody reads
    and, as Playground's BarkourJoystick does, a time that is minus infinity."""

    action_size, observation_size, backend, dt = 1, 2, "none", 0.1

    def reset(self, rng):
        info = {"count": jnp.zeros(()), "unread": jnp.zeros(1000), "next": jnp.zeros(())}
        info["kicked"] = jnp.full(1, -jnp.inf)
        start = jax.random.uniform(rng)
        obs = jnp.stack([start, 0.0])
        metrics = {"late": jnp.zeros(()), "sum/late": jnp.zeros(())}
        return BraxState(start, obs, jnp.zeros(()), jnp.zeros(()), metrics, info)

    def step(self, state, action):
        info = state.info | {"next": state.info["next"] + 1, "count": state.info["next"]}
        state.metrics.update({"late": state.info["count"]})  # in place, as Brax's own tasks do
        state.metrics["sum/late"] += state.info["count"]
        obs = jnp.stack([state.pipeline_state, info["next"]])
        reward = jnp.where(info["next"] > info["kicked"][0], 1.0, 0.0)
        return state.replace(obs=obs, reward=reward, done=0.0, info=info)


@pytest.mark.parametrize("resets", ["pool", "fresh", "cached"])
def test_nothing_of_an_episode_reaches_the_next(monkeypatch, resets):
    monkeypatch.setitem(brax.envs._envs, "leaky", Leaky)
    env = make("brax/leaky", time_limit=5)
    s = vector_rollout(env, 4, 14, resets)
    clock = (np.arange(14) % 5 + 1.0)[:, None] * np.ones(4)
    np.testing.assert_array_equal(s.final_obs[..., 1], clock)
    np.testing.assert_array_equal(s.obs[..., 1], np.where(clock == 5, 0, clock))
    late = np.maximum(clock - 2, 0)
    np.testing.assert_array_equal(s.now.metrics["late"], late)
    np.testing.assert_array_equal(s.now.metrics["sum_late"], late * (late + 1) / 2)
    assert not s.nonfinite.any() and (np.asarray(s.now.reward) == 1.0).all()


def test_only_what_a_later_step_reads_is_carried(monkeypatch):
    monkeypatch.setitem(brax.envs._envs, "leaky", Leaky)
    env = make("brax/leaky", time_limit=None)
    state = env.reset(jax.random.key(0))
    assert state.data.info["unread"] is None and state.data.obs is None
    assert state.data.info["count"] is not None  # read one step later, through a metric
    assert state.data.metrics["late"] is None and state.data.metrics["sum/late"] is not None
    before = state.data.metrics["sum/late"]
    env.step(env.step(env.step(state, jnp.zeros(1)), jnp.zeros(1)), jnp.zeros(1))
    assert state.data.metrics["sum/late"] is before, "a step must not write into its argument"


# --- Playground ---


def test_playground_steps_as_the_suite_does():
    pytest.importorskip(
        "mujoco_playground", reason="needs the extra: pip install jaxrl[playground]"
    )
    from mujoco_playground import registry

    env = make("playground/PendulumSwingup", time_limit=None, impl="jax")
    key = jax.random.key(1)
    first, states, actions = jax.jit(lambda: rollout(env, key, 20))()
    suite = registry.load("PendulumSwingup", config_overrides={"impl": "jax"})
    state = jax.jit(suite.reset)(key)
    np.testing.assert_allclose(first.obs, state.obs, rtol=1e-6)
    step = jax.jit(suite.step)
    for t in range(20):
        state = step(state, actions[t])
        np.testing.assert_allclose(states.obs[t], state.obs, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(states.reward[t], state.reward, rtol=1e-4)
    s = vector_rollout(make("playground/PendulumSwingup", time_limit=8), 4, 20)
    assert s.now.truncated[7].all() and not s.nonfinite.any() and not s.now.terminated.any()


class FakeConfig(dict):
    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


@pytest.fixture
def fake_playground(monkeypatch):
    """A stand-in for the package, so that the adapter's own logic is tested without it."""
    calls = []

    def load(name, config, config_overrides):
        calls.append(config_overrides | {"episode_length": config.episode_length})
        if name == "Robot":
            raise FileNotFoundError("git")
        return Leaky()

    registry = types.SimpleNamespace(
        ALL_ENVS=("Balance", "Robot"),
        get_default_config=lambda name: FakeConfig(
            impl="warp", episode_length=5, action_repeat=2, reward_config={"scale": 1.0}
        ),
        load=load,
    )
    module = types.ModuleType("mujoco_playground")
    module.registry = registry
    monkeypatch.setitem(sys.modules, "mujoco_playground", module)
    return calls


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the default depends on the device")
def test_playground_runs_on_jax_where_warp_cannot(fake_playground):
    assert make("playground/Balance").limit == 5
    assert fake_playground[-1] == {"impl": "jax", "episode_length": 5}
    env = make("playground/Balance", impl="warp", time_limit=None, **{"reward_config.scale": 2.0})
    given = {"impl": "warp", "reward_config.scale": 2.0}
    assert fake_playground[-1] == given | {"episode_length": NO_LIMIT}
    assert not hasattr(env, "limit")


def test_playground_tasks_that_keep_a_clock_are_told_the_limit(fake_playground):
    assert make("playground/Balance", time_limit=7).limit == 7
    assert fake_playground[-1]["episode_length"] == 7


def test_playground_says_in_one_line_that_robot_models_are_missing(fake_playground):
    with pytest.raises(
        RuntimeError, match=r"\Aplayground/Robot needs .*mujoco_menagerie.*\(git\)\Z"
    ):
        make("playground/Robot")


# --- Errors ---


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("gymnax/CartPole-v0", {}, "unknown gymnax task 'CartPole-v0', did you mean CartPole-v1"),
        ("gymnax/CartPole-v1", {"gravty": 1.0}, "'gravty', did you mean gravity"),
        ("gymnax/CartPole-v1", {"max_steps_in_episode": 1}, "known: .*time_limit"),
        ("brax/antt", {}, "unknown Brax task 'antt', did you mean ant"),
        ("brax/ant", {"backnd": "mjx"}, "'backnd', did you mean backend"),
        ("brax/ant", {"backend": "mjxx"}, "unknown Brax backend 'mjxx', did you mean mjx"),
        ("brax/fast", {"time_limit": 0}, "time_limit=0"),
        ("brax/fast", {"backend": "mjx"}, "unknown option of brax/fast 'backend'"),
        ("brax/fast", {"n_frames": 4}, "unknown option of brax/fast 'n_frames'"),
        ("gymnax/CartPole-v1", {"time_limit": "abc"}, "time_limit='abc': must be an integer"),
        ("gymnax/CartPole-v1", {"gravity": (1, 2)}, r"gravity=\(1, 2\): must be a number"),
        ("gymnax/DeepSea-bsuite", {"size": 2**31}, "size=2147483648: must be below 2.31 in size"),
        ("gymnax/DeepSea-bsuite", {"size": "abc"}, "size='abc': must be a number, by default 8"),
        ("brax/ant", {"ctrl_cost_weight": "abc"}, "brax/ant: ctrl_cost_weight='abc': must be"),
        ("brax/inverted_pendulum", {"n_frames": "abc"}, "n_frames='abc': must be a number"),
        ("dm_control/walk", {}, "unknown suite 'dm_control'"),
    ],
)
def test_mistakes_are_named_with_the_nearest_match(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        make(name, **overrides)


def test_playground_mistakes_are_named_too(fake_playground):
    with pytest.raises(ValueError, match="'Balanc', did you mean Balance"):
        make("playground/Balanc")
    with pytest.raises(ValueError, match="time_limit=2.5: must be an integer"):
        make("playground/Balance", time_limit=2.5)
    with pytest.raises(ValueError, match="did you mean reward_config.scale"):
        make("playground/Balance", **{"reward.scale": 1.0})


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("gymnax", "gymnax/CartPole-v1", r"jaxrl\[gymnax\]"),
        ("mujoco_playground", "playground/CartpoleBalance", r"jaxrl\[playground\]"),
        ("brax.envs", "brax/ant", "pip install brax"),
    ],
)
def test_a_missing_package_is_one_line_naming_the_extra(monkeypatch, module, name, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"\A[^\n]*{extra}[^\n]*\Z"):
        make(name)
