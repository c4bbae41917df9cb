"""Actions of several integers: a joint categorical, from the space to a solved task."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces as gymnax_spaces

import envs
from envs.adapters import gymnax
from envs.adapters.gymnasium import to_gymnasium, to_gymnasium_vector
from envs.transforms import history, noise
from envs.types import Box, Discrete, MultiDiscrete, first_state, sample_space
from jaxrl.compose.cloned import cloned
from jaxrl.data.files import load, save
from jaxrl.data.recording import record
from jaxrl.learners.imitation import chunks
from jaxrl.learners.off_policy import discrete_sac, dqn, sac
from jaxrl.learners.on_policy import dpo, mdpo, ppo, reinflow
from jaxrl.nn.distributions import MultiCategorical
from jaxrl.policies.mppi import mppi
from jaxrl.types import Policy

KEY = jax.random.key(0)
SPACE = MultiDiscrete((2, 3))
LOG = np.log
# Probabilities 1/4, 3/4 and 1/2, 1/4, 1/4.
DIST = MultiCategorical(jnp.log(jnp.array([1.0, 3.0, 2.0, 1.0, 1.0])), SPACE.nvec)
TINY = ppo.Config(
    learning_rate=2e-2,
    num_envs=32,
    unroll_length=4,
    num_minibatches=1,
    actor_hidden=(8,),
    critic_hidden=(8,),
    normalize_obs=False,
)


@struct.dataclass
class Dials:
    """obs [1]: a cue of 0 or 1. Each dial pays 1: the first at the cue, the second at twice the cue."""

    action_space: object = struct.field(pytree_node=False, default=SPACE)
    observation_space = Box((1,))

    def reset(self, key):
        cue = jax.random.bernoulli(key).astype(jnp.float32)
        return first_state(cue, cue[None])

    def step(self, state, action):
        first, second = action
        paid = (first == state.data) + 1.0 * (second == 2 * state.data)
        return state.next(state.data, state.data[None], paid, terminated=jnp.ones((), bool))


# --- The distribution ---


def test_log_probabilities_and_entropies_are_sums_over_the_entries():
    raw = jnp.array([[1, 0], [0, 2]])
    expected = [LOG(3 / 4) + LOG(1 / 2), LOG(1 / 4) + LOG(1 / 4)]
    wide = DIST.replace(logits=jnp.stack([DIST.logits] * 2))
    np.testing.assert_allclose(wide.log_prob(raw), expected, rtol=1e-5)
    entropy = -(0.25 * LOG(0.25) + 0.75 * LOG(0.75)) - (0.5 * LOG(0.5) + 0.5 * LOG(0.25))
    np.testing.assert_allclose(DIST.entropy(KEY), entropy, rtol=1e-5)
    assert DIST.mode().tolist() == [1, 0]


def test_kl_is_the_sum_over_the_entries():
    uniform = MultiCategorical(jnp.zeros(5), SPACE.nvec)
    kl = 0.25 * LOG(0.5) + 0.75 * LOG(1.5) + 0.5 * LOG(1.5) + 0.5 * LOG(0.75)
    np.testing.assert_allclose(DIST.kl(uniform), kl, rtol=1e-5)
    assert DIST.kl(DIST) == 0


def test_the_entries_are_drawn_independently_with_their_probabilities():
    drawn = np.asarray(jax.vmap(DIST.sample)(jax.random.split(KEY, 20_000)))
    assert drawn.shape == (20_000, 2) and drawn.dtype == np.int32
    joint = np.zeros((2, 3))
    np.add.at(joint, tuple(drawn.T), 1 / len(drawn))
    np.testing.assert_allclose(joint, np.outer([0.25, 0.75], [0.5, 0.25, 0.25]), atol=0.01)


# --- Spaces ---


def test_uniform_actions_reach_every_combination():
    drawn = jax.vmap(lambda key: sample_space(SPACE, key))(jax.random.split(KEY, 200))
    assert {tuple(x) for x in drawn.tolist()} == {(i, j) for i in range(2) for j in range(3)}


SPACES = gymnasium.spaces


@pytest.mark.parametrize(
    "space, expected",
    [
        (SPACES.MultiDiscrete([2, 3]), SPACE),
        (SPACES.Tuple([SPACES.Discrete(2), SPACES.Discrete(3)]), SPACE),
        ((Discrete(2), Discrete(3)), SPACE),
        (SPACES.MultiBinary(2), MultiDiscrete((2, 2))),
    ],
)
def test_spaces_of_several_integers_become_multi_discrete(space, expected):
    assert envs.check(Dials(action_space=space)).action_space == expected


def test_an_environment_with_a_tuple_space_is_given_tuples():
    kinds = []

    class Told(Dials):
        def step(self, state, action):
            kinds.append(type(action))
            return super().step(state, action)

    env = envs.check(Told(action_space=(Discrete(2), Discrete(3))))
    state = env.step(env.reset(KEY).replace(data=jnp.float32(1.0)), jnp.array([1, 2]))
    assert set(kinds) == {tuple} and state.reward == 2.0


def test_gymnax_tuples_of_discrete_are_converted_and_others_refused():
    pair = gymnax_spaces.Tuple([gymnax_spaces.Discrete(2), gymnax_spaces.Discrete(3)])
    assert gymnax._space(pair, np.float32, None) == SPACE
    with pytest.raises(ValueError, match="supported are Box, Discrete and a Tuple of Discrete"):
        gymnax._space(gymnax_spaces.Dict({"a": pair}), np.float32, None)


def test_history_shows_each_entry_one_hot_and_noise_leaves_integers_alone():
    env = noise(history(Dials(), 1, actions=True), obs_std=0.0)
    assert env.observation_space.shape == (1 + 5,)
    state = env.step(env.reset(KEY), jnp.array([1, 2]))
    assert state.obs[1:].tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="discrete actions take no noise"):
        noise(Dials(), action_std=0.1)


def test_the_export_has_gymnasiums_space():
    env = to_gymnasium(Dials(), seed=0)
    assert env.action_space == SPACES.MultiDiscrete([2, 3])
    env.reset()
    assert env.step(env.action_space.sample())[2]
    vec = to_gymnasium_vector(Dials(), 2, seed=0)
    vec.reset()
    assert vec.step(vec.action_space.sample())[1].shape == (2,)


# --- Learners and data ---


def test_ppo_turns_both_dials():
    learner = ppo.make(Dials(), TINY)
    train = jax.jit(lambda s: jax.lax.fori_loop(0, 60, lambda _, s: learner.step(s)[0], s))
    policy = learner.policy(train(learner.init(KEY)))
    act = lambda cue: policy.act(policy.init_carry(), jnp.array([cue]), KEY)[0].tolist()
    assert act(0.0) == [0, 0] and act(1.0) == [1, 2]


def test_its_relatives_and_a_memory_step():
    for learner in (
        dpo.make(Dials(), dpo.Config(**vars(TINY))),
        mdpo.make(Dials(), mdpo.Config(**(vars(TINY) | {"schedule_steps": 1e5}))),
        ppo.make(Dials(), TINY.replace(gru_width=4)),
    ):
        state = jax.eval_shape(learner.init, KEY)
        assert "kl" in jax.eval_shape(learner.step, state)[1]


@pytest.mark.parametrize("module", [sac, dqn, discrete_sac, reinflow, chunks])
def test_learners_without_a_joint_categorical_refuse(module):
    with pytest.raises(ValueError, match=r"^action_space=MultiDiscrete\(nvec=\(2, 3\)\): must be"):
        module.make(Dials(), module.Config())


def test_planners_and_cloning_refuse():
    with pytest.raises(ValueError, match="MultiDiscrete.*must be a bounded Box"):
        mppi(Dials())
    with pytest.raises(ValueError, match="MultiDiscrete.*must be continuous"):
        cloned(ppo.make(Dials(), TINY), None, 1)


def test_recordings_keep_the_integers_through_a_file(tmp_path):
    act = lambda params, carry, obs, key, _: (sample_space(SPACE, key), carry)
    data = record(Policy((), lambda: (), act), Dials(), 6, KEY)
    save(data, tmp_path / "dials.npz")
    steps = load(tmp_path / "dials.npz").steps_for(Dials())
    assert steps.action.shape == (6, 1, 2) and steps.action.dtype == np.int32
    np.testing.assert_array_equal(steps.action, data.steps.action)
    data.steps.action[4, 0, 1] = 3
    with pytest.raises(ValueError, match=r"actions\[4\]\[1\]=3 must be a whole number, 0 .. 2"):
        data.steps_for(Dials())
