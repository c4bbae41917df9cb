"""`envs.check` names what an environment does wrong, and accepts what learners can use."""

from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from toys import Line, assert_trees_equal

import envs
from envs import Box, Discrete, MultiDiscrete, check, registry, vectorize
from envs.transforms import time_limit
from envs.types import first_state, is_sound

KEY = jax.random.key(0)


@struct.dataclass
class Slip:
    """A sound environment, but for the replaced fields of what `reset` or `step` returns."""

    reset_changes: dict = struct.field(pytree_node=False, default_factory=dict)
    step_changes: dict = struct.field(pytree_node=False, default_factory=dict)
    observation_space: object = struct.field(pytree_node=False, default=Box((2,)))
    action_space: object = struct.field(pytree_node=False, default=Box((1,), -1.0, 1.0))

    def reset(self, key):
        x = jax.random.uniform(key, (2,))
        return first_state(x, x, {"size": x.sum()}).replace(**self.reset_changes)

    def step(self, state, action):
        x = 0.9 * state.data
        new = state.replace(data=x, obs=x, reward=-x.sum(), metrics={"size": x.sum()})
        return new.replace(**self.step_changes)


SCALAR, PAIR = np.float32(0.0), np.zeros(2, np.float32)
NESTED = {"robot": {"x": PAIR}}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Slip(reset_changes={"data": np.zeros(2, np.int32)}), r"data: is int32\[2\] from reset"),
        (Slip({}, {"reward": PAIR}), r"reward of step: is float32\[2\], expected float32\[\]"),
        (Slip({}, {"reward": np.int32(1)}), r"reward of step: is int32\[\], expected float32\[\]"),
        (Slip({}, {"reward": 1.0}), r"reward of step: is the float 1.0, expected an array"),
        (
            Slip({}, {"terminated": SCALAR}),
            r"terminated of step: is float32\[\], expected bool\[\]",
        ),
        (Slip({}, {"truncated": False}), r"truncated of step: is the bool False"),
        (Slip({}, {"metrics": {}}), r"metrics\['size'\]: is in the State of reset, not in that"),
        (Slip({"metrics": {}}), r"metrics\['size'\]: is in the State of step, not in that of re"),
        (
            Slip({}, {"metrics": {"x": PAIR}}),
            r"metrics\['x'\] of step: is float32\[2\], expected a",
        ),
        (Slip({}, {"signals": {"cost": SCALAR}}), r"signals\['cost'\]: is in the State of step"),
        (Slip({}, {"info": None}), r"info of step: is None, expected a dict"),
        (
            Slip({}, {"obs": np.zeros(3, np.float32)}),
            r"obs: is float32\[2\] from reset and float32\[",
        ),
        (
            Slip(observation_space=Box((3,))),
            r"obs: is float32\[2\], observation_space says float32",
        ),
        (Slip(observation_space=Box((2,), dtype=np.uint8)), r"obs: is .*space says uint8\[2\]"),
        (Slip(observation_space=Box((2,), (0, 0), (1, -1))), "observation_space: low=.* at most"),
        (Slip(observation_space=Box((2,), (0, 0, 0))), "observation_space: bounds .* do not fit"),
        (Slip(observation_space={"obs": Box((2,))}), "observation_space: is a dict but obs is a"),
        (Slip(action_space=3), "action_space: 3, expected envs.Box, envs.Discrete or envs.Multi"),
        (
            Slip(action_space=MultiDiscrete((2, 0))),
            "action_space: .*nvec a tuple of integers above 0",
        ),
        (Slip(action_space=MultiDiscrete([2, 3])), "action_space: .*nvec a tuple of integers"),
        (Slip(action_space=Discrete(0)), "action_space: .*expected n of at least 1"),
        (
            Slip({"obs": NESTED}, {"obs": NESTED}, {"robot": Box((2,))}),
            r"obs\['robot'\]: is a dict, expected an array or a flat dict of arrays",
        ),
        (
            Slip({"obs": {"a": PAIR}}, {"obs": {"a": PAIR}}, {"b": Box((2,))}),
            r"observation_space: has entries \['b'\], obs has \['a'\]",
        ),
        (
            Slip(action_space=gymnasium.spaces.MultiDiscrete([2, 3], start=[1, 0])),
            r"space MultiDiscrete\(.*\): allowed of Gymnasium are Box, Dict, and Discrete",
        ),
        (
            Slip(action_space=gymnasium.spaces.Tuple([gymnasium.spaces.Box(0.0, 1.0)])),
            r"space Tuple\(.*\): allowed of Gymnasium are Box, Dict, and Discrete",
        ),
        (vectorize(Line(), 2), "env: VecEnv is vectorised already, expected one instance"),
        (object(), "env: object has no 'reset'"),
    ],
)
def test_a_slip_is_named_with_what_is_expected(env, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        check(env)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_what_is_no_state_is_named(where):
    class Tuple(Slip):
        pass

    setattr(Tuple, where, lambda self, *_: (jnp.zeros(2), 0.0))
    with pytest.raises(ValueError, match=f"^{where}: returns a tuple, expected an envs.State"):
        check(Tuple())


def test_an_error_of_the_environment_itself_says_where_it_came_from():
    class Branches(Slip):
        def step(self, state, action):
            return super().step(state, action) if action[0] > 0 else state

    with pytest.raises(jax.errors.TracerBoolConversionError) as raised:
        check(Branches())
    assert raised.value.__notes__[0] == "while envs.check traced Branches.step"


@pytest.mark.parametrize("env", [Line(), Line(goals=True, discrete=True), Line(signals=True)])
def test_a_sound_environment_comes_back_as_it_is_and_is_traced_once(env):
    traced = []

    class Counted(Line):
        def step(self, state, action):
            traced.append(1)
            return super().step(state, action)

    env = Counted(**{f: getattr(env, f) for f in ("goals", "discrete", "signals")})
    assert check(env) is env and check(env) is env and len(traced) == 1


def test_x64_mode_is_refused_in_one_line_and_can_be_left_for_a_while():
    with jax.enable_x64(True):
        with pytest.raises(
            ValueError, match="^jax_enable_x64=True: .* unset JAX_ENABLE_X64"
        ) as said:
            vectorize(Line(), 2)
        with jax.enable_x64(False):
            assert vectorize(Line(), 2).reset(jax.random.key(0)).obs.dtype == jnp.float32
    assert "\n" not in str(said.value)


def test_gymnasiums_own_spaces_are_converted():
    space = gymnasium.spaces
    low, high = np.array([-1, 0], np.float32), np.array([1, 2], np.float32)
    env = check(Slip(observation_space=space.Box(low, high), action_space=space.Discrete(3)))
    assert env.action_space == Discrete(3)
    assert env.observation_space == Box((2,), (-1.0, 0.0), (1.0, 2.0))
    vec = vectorize(Slip(action_space=space.Box(-1.0, 1.0, (1,))), 2)
    assert vec.action_space == Box((1,), -1.0, 1.0)
    assert vec.step(vec.reset(KEY), jnp.zeros((2, 1))).obs.shape == (2, 2)


def test_vectorize_checks_before_anything_is_traced():
    with pytest.raises(ValueError, match=r"^reward of step: is int32\[\]"):
        vectorize(time_limit(Slip({}, {"reward": np.int32(1)}), 3), 4)
    with pytest.raises(ValueError, match="vectorised already"):
        vectorize(vectorize(Line(), 2), 2)


def test_an_untyped_key_starts_what_the_typed_one_starts():
    vec = vectorize(time_limit(Line(), 3), 2)
    assert_trees_equal(vec.reset(jax.random.PRNGKey(3)), vec.reset(jax.random.key(3)))


@pytest.mark.parametrize(
    "name", [n for n in envs.names() if "maze" in n or n == "pendulum_swingup"]
)
def test_registered_tasks_are_sound(name):
    check(envs.make(name))


# --- Magnitudes ---


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.01e8, -1e30])
@pytest.mark.parametrize("field", ["obs", "reward"])
def test_a_number_beyond_the_bound_counts_as_broken(field, value):
    state = Slip().reset(KEY)
    assert is_sound(Slip(), state)
    x = getattr(state, field)
    assert not is_sound(
        Slip(), state.replace(**{field: x.at[..., -1].set(value) if x.ndim else x + value})
    )


def test_the_bound_is_1e8_or_the_environments_own_and_is_not_for_hidden_state():
    state = Slip().reset(KEY)
    assert is_sound(Slip(), state.replace(obs=jnp.full(2, 1e8), data=jnp.full(2, 1e30)))
    assert not is_sound(Slip(), state.replace(data=jnp.full(2, np.inf)))

    class Strict(Slip):
        max_magnitude = 10.0

    assert not is_sound(time_limit(Strict(), 3), state.replace(obs=jnp.full(2, 11.0)))
    half = lambda x: state.replace(obs=jnp.full(2, x, jnp.float16))
    assert is_sound(Slip(), half(6e4)) and not is_sound(Slip(), half(np.inf))


def test_a_huge_number_ends_one_episode_and_is_counted():
    env = time_limit(Line(gain=1e9, edge=np.inf), 5)
    vec = vectorize(env, 2)
    state = vec.step(vec.reset(KEY), jnp.array([[1.0], [0.0]]))
    np.testing.assert_array_equal(state.nonfinite, [True, False])
    np.testing.assert_array_equal(state.now.truncated, [True, False])
    assert state.now.reward[0] == 0.0 and np.abs(state.final_obs).max() < 10


def test_the_next_state_is_not_truncated_and_keeps_what_is_not_named():
    yes = jnp.ones((), bool)
    state = Line(signals=True).reset(KEY)
    state = state.replace(terminated=yes, truncated=yes, info={"time_limit": 7})
    found = state.next(data=1, obs=jnp.ones(2), reward=jnp.float32(3.0))
    assert (found.data, found.reward, found.info) == (1, 3.0, {"time_limit": 7})
    for flag in (found.terminated, found.truncated):
        assert flag.dtype == bool and flag.shape == () and not flag
    assert found.metrics is state.metrics and found.signals is state.signals
    named = state.next(data=1, obs=1, reward=0, terminated=yes, metrics={}, signals={})
    assert named.terminated and not named.truncated
    assert named.metrics == named.signals == {}


def test_the_example_of_the_readme_runs(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    text = (Path(envs.__file__).parent / "README.md").read_text()
    exec(text.split("```python\n")[1].split("```")[0], {"__name__": "readme"})
    assert envs.make("push", gain=0.2).gain == 0.2
