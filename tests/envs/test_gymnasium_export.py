"""Our environments as Gymnasium's: its checker, its vector conventions, its wrappers."""

import copy
import pickle

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from toys import Line

from envs.adapters.gymnasium import to_gymnasium, to_gymnasium_space, to_gymnasium_vector
from envs.transforms.time_limit import time_limit
from envs.types import Box, Discrete, first_state
from envs.vector import vectorize


@struct.dataclass
class Walk:
    """A point that moves by the action. It ends beyond 2, and at an action above 0.9 becomes NaN."""

    poison: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self):
        return {"x": Box((1,)), "image": Box((2, 3), 0.0, 1.0)}

    @property
    def action_space(self):
        return Box((1,), -1.0, 1.0)

    def reset(self, key):
        x = jax.random.uniform(key, minval=-0.5, maxval=0.5)
        return first_state(x, self.obs(x), {"speed": jnp.zeros(()), "place": x})

    def step(self, state, action):
        x = state.data + action[0]
        if self.poison:
            x = jnp.where(action[0] > 0.9, jnp.nan, x)
        return state.replace(
            data=x,
            obs=self.obs(x),
            reward=-jnp.abs(x),
            terminated=jnp.abs(x) > 2.0,
            truncated=jnp.zeros((), bool),
            metrics={"speed": jnp.abs(action[0]), "place": x},
        )

    def obs(self, x):
        return {"x": x[None], "image": jnp.full((2, 3), 0.5)}

    def render(self, state, width, height):
        return np.full((height, width, 3), 100 + 10 * float(state.data), np.uint8)


WALK = time_limit(Walk(), 6)


@pytest.mark.parametrize(
    "name",
    ["walk", "gymnax/Pendulum-v1", "gymnax/CartPole-v1", "pendulum_swingup", "point_maze_open"],
)
@pytest.mark.filterwarnings("ignore:.*Box observation space")
@pytest.mark.filterwarnings("ignore:.*alternative render modes")
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")  # Pendulum's is +-2
def test_gymnasium_accepts_the_environment(name):
    env = to_gymnasium(WALK, render_mode="rgb_array") if name == "walk" else to_gymnasium(name)
    check_env(env)
    env.close()
    env.close()


def test_reset_is_reproducible_and_each_episode_is_new():
    env = to_gymnasium(WALK, seed=5)
    x = lambda **kw: float(env.reset(**kw)[0]["x"][0])
    first = x()
    assert x() != first
    assert x(seed=5) == first
    assert x(seed=6) != first
    assert float(to_gymnasium(WALK).reset()[0]["x"][0]) != float(
        to_gymnasium(WALK).reset()[0]["x"][0]
    )


def test_step_returns_numpy_and_keeps_terminated_and_truncated_apart():
    env = to_gymnasium(WALK)
    env.reset(seed=0)
    for _ in range(6):
        obs, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated) == (False, True)
    assert isinstance(obs["x"], np.ndarray) and obs["x"].flags.writeable
    assert isinstance(reward, float) and isinstance(info["speed"], np.float32)
    env.reset()
    for _ in range(3):
        _, _, terminated, truncated, _ = env.step(np.array([0.9]))
    assert (terminated, truncated) == (True, False)
    assert env._jit_step._cache_size() == 1


def test_spaces_convert():
    assert to_gymnasium_space(Discrete(3)) == gymnasium.spaces.Discrete(3)
    low, high = np.array([-1, -np.inf], np.float32), np.array([4, 4], np.float32)
    box = to_gymnasium_space(Box((2,), (-1.0, -np.inf), 4.0))
    assert box == gymnasium.spaces.Box(low, high, (2,), np.float32)
    assert set(to_gymnasium_space(Walk().observation_space)) == {"x", "image"}


@pytest.mark.parametrize(
    ("make", "action", "message"),
    [
        (
            lambda: to_gymnasium(WALK, seed=0),
            np.zeros(2),
            r"action of shape \(2,\): must be \(1,\)",
        ),
        (lambda: to_gymnasium(WALK, seed=0), 0.5, r"action of shape \(\): must be \(1,\)"),
        (lambda: to_gymnasium(WALK, seed=0), ["a"], "action of type <U1: must be numbers"),
        (
            lambda: to_gymnasium_vector(WALK, 3, seed=0),
            np.zeros(1),
            r"action of shape \(1,\): must be \(3, 1\), one for each of 3 environments",
        ),
        (lambda: to_gymnasium(Line(discrete=True), seed=0), 3, "action=3: must be 0 .. 2"),
        (
            lambda: to_gymnasium(Line(discrete=True), seed=0),
            1.0,
            "action of type float64: must be integers",
        ),
    ],
)
def test_an_action_that_does_not_fit_is_refused_in_one_line(make, action, message):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match=f"^{message}$"):
        env.step(action)


@pytest.mark.parametrize("make", [lambda: to_gymnasium(WALK), lambda: to_gymnasium_vector(WALK, 2)])
def test_pickling_says_that_it_cannot_and_what_to_do_instead(make):
    message = r"cannot be pickled, .* a function that calls to_gymnasium\w*\(\.\.\.\) there"
    with pytest.raises(TypeError, match=message) as raised:
        pickle.dumps(make())
    assert "\n" not in str(raised.value)


def test_a_deep_copy_goes_on_by_itself():
    env = to_gymnasium(WALK, seed=0)
    env.reset()
    other = copy.deepcopy(env)
    x = lambda env: float(env.step(np.array([0.3]))[0]["x"][0])
    first = x(env)
    assert x(other) == first and x(env) != first


def test_vector_env_is_vectorize():
    env, key = to_gymnasium_vector(WALK, 4, seed=3), jax.random.split(jax.random.key(3))[1]
    vec = vectorize(WALK, 4)
    state = jax.jit(lambda k: vec.reset(k))(key)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs["x"], state.obs["x"])
    step = jax.jit(lambda s, a: vec.step(s, a))
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.uniform(-1, 1, (4, 1)).astype(np.float32)
        state = step(state, actions)
        obs, reward, terminated, truncated, _ = env.step(actions)
        np.testing.assert_array_equal(obs["x"], state.obs["x"])
        np.testing.assert_array_equal(reward, state.now.reward)
        np.testing.assert_array_equal(terminated, state.now.terminated)
        np.testing.assert_array_equal(truncated, state.now.truncated)
    assert env._jit_step._cache_size() == 1


def test_vector_env_speaks_as_sync_vector_env_does_in_same_step_mode():
    """Same keys, shapes and dtypes of every returned thing, at a step where some episodes end."""
    ours = to_gymnasium_vector(WALK, 3)
    theirs = SyncVectorEnv([lambda: to_gymnasium(WALK)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    describe = lambda x: (
        {k: describe(v) for k, v in x.items()} if isinstance(x, dict) else (x.shape, x.dtype)
    )
    actions = np.array([[0.8], [-0.1], [0.1]], np.float32)
    assert describe(ours.reset(seed=0)[1]) == describe(theirs.reset(seed=0)[1])
    for _ in range(6):
        a, b = ours.step(actions), theirs.step(actions)
        for x, y in zip(a[:4], b[:4], strict=True):
            assert describe(x) == describe(y)
    # Step 6 ends the slow two by the clock in both.
    info, other = a[4], b[4]
    assert set(other) <= set(info)
    assert info["_final_obs"].tolist()[1:] == [True, True] == other["_final_obs"].tolist()[1:]
    assert describe(info["final_obs"][1]) == describe(other["final_obs"][1])
    for key in ("speed", "_speed", "place", "_place"):
        assert describe(info["final_info"][key]) == describe(other["final_info"][key])
        assert describe(info[key]) == describe(other[key])
    for key in ("speed", "_speed", "_place"):  # of the reset, as the slow two had one
        np.testing.assert_array_equal(info[key][1:], other[key][1:])


def test_final_obs_is_where_the_action_led_and_obs_where_the_next_episode_starts():
    env = to_gymnasium_vector(WALK, 2)
    env.reset(seed=1)
    actions = np.array([[0.9], [0.0]], np.float32)
    for _ in range(6):
        obs, _, terminated, truncated, info = env.step(actions)
        done = terminated | truncated
        assert ("final_obs" in info) == done.any()
        assert info["_speed"].all() and info["_place"].all()
        np.testing.assert_array_equal(info["place"], obs["x"][:, 0])
        np.testing.assert_allclose(info["speed"], np.where(done, 0.0, actions[:, 0]))
        for i in np.flatnonzero(done):
            assert abs(obs["x"][i, 0]) <= 0.5
            assert (abs(info["final_obs"][i]["x"][0]) > 2.0) == terminated[i]
            np.testing.assert_allclose(info["final_info"]["speed"][i], actions[i, 0])
    assert truncated[1] and not terminated[1]


def test_environment_i_does_not_depend_on_how_many_there_are():
    small, large = to_gymnasium_vector(WALK, 2), to_gymnasium_vector(WALK, 5)
    np.testing.assert_array_equal(small.reset(seed=7)[0]["x"], large.reset(seed=7)[0]["x"][:2])


def test_a_nan_ends_the_episode_and_is_marked():
    env = to_gymnasium_vector(time_limit(Walk(poison=True), 6), 2)
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step(np.array([[1.0], [0.0]]))
    assert np.isfinite(obs["x"]).all() and np.isfinite(reward).all()
    assert truncated.tolist() == [True, False] and not terminated.any()
    assert info["final_info"]["nonfinite"].tolist() == [True, False]


def test_record_episode_statistics_sees_what_it_sees_of_a_sync_vector_env():
    """Equal, rather than right: see `to_gymnasium_vector` on what that wrapper leaves out."""
    sync = SyncVectorEnv([lambda: to_gymnasium(WALK)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    lengths, episodes = [], []
    for env in (to_gymnasium_vector(WALK, 3), sync):
        env = RecordEpisodeStatistics(env)
        env.reset(seed=0)
        for _ in range(12):
            *_, info = env.step(np.zeros((3, 1), np.float32))
        lengths.append(list(env.length_queue))
        episodes.append(info["_episode"].tolist())
        env.close()
    assert lengths[0] == lengths[1] and lengths[0][:3] == [6, 6, 6]
    assert episodes[0] == episodes[1] == [True] * 3


def test_final_info_has_the_return_and_length_of_every_episode():
    env = to_gymnasium_vector(WALK, 3)
    env.reset(seed=0)
    total, ended = np.zeros(3), 0
    for t in range(18):
        _, reward, terminated, truncated, info = env.step(np.full((3, 1), 0.02, np.float32))
        total += reward
        if (terminated | truncated).any():
            episode = info["final_info"]["episode"]
            np.testing.assert_allclose(episode["r"], total, rtol=1e-5)
            assert episode["l"].tolist() == [6, 6, 6] and t % 6 == 5
            total, ended = np.zeros(3), ended + 1
    assert ended == 3


def test_vector_env_renders_each_environment():
    env = to_gymnasium_vector(WALK, 2, render_mode="rgb_array", width=8, height=4)
    env.reset(seed=0)
    frames = env.render()
    assert len(frames) == 2 and frames[0].shape == (4, 8, 3)
    assert to_gymnasium_vector(WALK, 2).render() is None


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="render_mode='human'"):
        to_gymnasium(WALK, render_mode="human")
    with pytest.raises(ValueError, match="only a name takes overrides"):
        to_gymnasium(WALK, gravity=1.0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        to_gymnasium(WALK).step(np.zeros(1))
    vector = to_gymnasium_vector(WALK, 2)
    with pytest.raises(ValueError, match="one integer seeds all 2"):
        vector.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([True, False])})
