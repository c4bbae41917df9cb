"""`curriculum`: levels that survive the auto-reset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from toys import rollout

import envs
from envs.transforms import curriculum, history, time_limit
from envs.types import Box, first_state
from envs.vector import vectorize

LIMIT, N, KEY = 4, 3, jax.random.key(0)


@struct.dataclass
class Climb:
    """A point starts at x = 10 * level and moves by level + action. It is paid the action."""

    level: float = 0.0
    name: str = struct.field(pytree_node=False, default="climb")

    observation_space = Box((1,))
    action_space = Box((1,), -10.0, 10.0)

    def reset(self, key):
        x = 10.0 * self.level + jnp.zeros(1)
        return first_state(x, x, {"paid": jnp.zeros(())})

    def step(self, state, action):
        x = state.data + self.level + action
        return state.next(x, x, action[0], action[0] < -5.0, {"paid": action[0]})


def climb(**options):
    # An episode of 4 steps reaches the mean action: up from 0.5, down below -0.5.
    return curriculum(time_limit(Climb(), LIMIT), "paid", 0.5, -0.5, levels=3, **options)


def played(env, actions):
    """[T + 1, N]"""
    actions = jnp.broadcast_to(jnp.asarray(actions, jnp.float32)[..., None], (len(actions), N, 1))
    return rollout(vectorize(env, N), KEY, actions)


def levels(run):
    return np.asarray(run.now.info["curriculum"]["level"])


def test_levels_rise_and_fall_with_what_an_episode_reaches():
    """Each column is one environment: always up, between the bounds, and up then down."""
    column = lambda *means: np.repeat(np.array(means), LIMIT)
    up, stay, both = column(1, 1, 1, 1), column(0.4, -0.5, 0.4, 0), column(0.5, 0.5, -1, -1)
    run = played(climb(), np.stack([up, stay, both], 1))
    assert levels(run)[LIMIT::LIMIT].T.tolist() == [[1, 2, 2, 2], [0, 0, 0, 0], [1, 2, 1, 0]]
    # The metric is that of the step just taken, so it has the level which that step was played at.
    assert np.asarray(run.now.metrics["level"])[LIMIT::LIMIT, 2].tolist() == [0, 1, 2, 1]


def test_an_early_end_counts_as_zeros():
    """1.8 of one step is 0.45 of four: not enough, although 1.8 is above the bound."""
    ended = climb().next_level({"level": jnp.int32(1), "score": jnp.float32(1.8)})
    long = climb().next_level({"level": jnp.int32(1), "score": jnp.float32(2.0)})
    broken = climb().next_level({"level": jnp.int32(1), "score": jnp.float32(np.nan)})
    assert (int(ended), int(long), int(broken)) == (1, 2, 1)


@pytest.mark.parametrize("reads", [True, False])
def test_the_first_state_of_an_episode_belongs_to_its_level(reads):
    run = played(climb(reset_reads_level=reads), np.ones((2 * LIMIT + 1, N)))
    x = np.asarray(run.obs[:, 0, 0])
    assert x[LIMIT] == (10.0 if reads else 0.0)  # level 1
    assert x[2 * LIMIT] == (20.0 if reads else 0.0)  # level 2
    assert x[2 * LIMIT + 1] == x[2 * LIMIT] + 2.0 + 1.0  # the step reads the level, too


def test_seeds_have_levels_of_their_own():
    vec = vectorize(climb(), N)
    actions = jnp.array([1.0, -1.0])[:, None, None, None] * jnp.ones((2, LIMIT, N, 1))
    run = jax.vmap(lambda key, a: rollout(vec, key, a))(jax.random.split(KEY, 2), actions)
    assert levels(run)[:, -1].tolist() == [[1] * N, [0] * N]


def test_a_curriculum_that_reset_reads_must_be_outermost():
    assert envs.check(history(climb(), 2))
    with pytest.raises(ValueError, match="must be outside of every other transform"):
        played(history(climb(), 2), np.ones((1, N)))
    inside = history(climb(reset_reads_level=False), 2)
    assert levels(played(inside, np.ones((LIMIT, N))))[-1].tolist() == [1] * N


@pytest.mark.parametrize(
    "change, message",
    [
        ({"metric": "reward"}, "metric='reward': the environment has paid"),
        ({"field": "height"}, "field='height': Climb has no such field"),
        ({"field": "name"}, "field='name': is no number of Climb's pytree"),
        ({"demote": 0.6}, "demote=0.6: must be at most promote=0.5"),
        ({"start": 3}, "start=3: must be below levels=3"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"metric": "paid", "promote": 0.5, "demote": -0.5, "levels": 3} | change
    with pytest.raises(ValueError, match=message):
        curriculum(time_limit(Climb(), LIMIT), **arguments)
    with pytest.raises(ValueError, match="steps=None: the environment has no time limit"):
        curriculum(Climb(), "paid", 0.5, 0.0)
