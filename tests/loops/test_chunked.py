"""Methods in chunks: the returns, the actions and the validity of a sample by hand; plans."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import LINE

from jaxrl.compose.returns_to_go import SIGNAL
from jaxrl.data import replay
from jaxrl.learners.off_policy import sac
from jaxrl.learners.offline import cal_ql
from jaxrl.loops.algorithm import Algorithm, Obs
from jaxrl.loops.chunked import in_chunks
from jaxrl.nn import spaces
from jaxrl.types import Transition

KEY = jax.random.key(0)
CONFIG = sac.Config(gamma=0.5, actor_hidden=(), critic_hidden=())


def counting(config, actions):
    """A method whose action is the number of its decision, divided by ten."""
    act = lambda params, memory, obs, key, deterministic: (
        jnp.full(actions.size, memory / 10.0) + obs.actor[0],
        memory + 1,
    )
    return Algorithm(
        init=lambda *_: (), update=None, act=act, memory=lambda *_: jnp.asarray(1, jnp.int32)
    )


def windows(length, ages):
    """A walk through x = 1, 2, ..., 6 that pays 1. The clock ends it after 3, the task after 5."""
    x = np.arange(1, 7, dtype=np.float32)[:, None]
    no = np.zeros((6, 1), bool)
    steps = Transition(
        obs=x[..., None],
        action=x[..., None] / 10,
        reward=np.ones((6, 1), np.float32),
        next_obs=x[..., None] + 1,
        terminated=x == 5,
        truncated=x == 3,
        valid=~no,
        signals={SIGNAL: 10.0 * x},
    )
    ages = jnp.asarray(ages)
    return replay.window(replay.full(steps), ages, jnp.zeros_like(ages), length)


@pytest.mark.parametrize("module", [sac, cal_ql])
def test_a_sample_is_by_hand(module):
    config = module.Config(gamma=0.5, actor_hidden=(), critic_hidden=())
    cut = in_chunks(module.algorithm, 2)(config, spaces.actions(LINE)).cut
    assert cut.length == 2
    sample = cut.make(windows(2, [0, 3, 4, 2]), config)
    np.testing.assert_allclose(sample.action, [[0.1, 0.2], [0.4, 0.5], [0.5, 0.5], [0.3, 0.3]])
    np.testing.assert_allclose(sample.reward, [1.5, 1.5, 1.0, 1.0])
    np.testing.assert_allclose(sample.discount, [0.25, 0.0, 0.0, 0.5])
    np.testing.assert_array_equal(sample.weight, [1, 1, 1, 0])  # the clock cuts the last one short
    np.testing.assert_array_equal(np.asarray(sample.next_obs)[:, 0], [3, 6, 6, 4])
    if module is cal_ql:  # of the first step, not a sum
        np.testing.assert_allclose(sample.signals[SIGNAL], [10.0, 40.0, 50.0, 30.0])


def test_the_networks_are_as_wide_as_the_chunk():
    algorithm = in_chunks(sac.algorithm, 3)(CONFIG, spaces.actions(LINE))
    obs = jnp.zeros((1, 2))
    agent = jax.eval_shape(lambda key: algorithm.init(key, Obs(obs, obs), CONFIG), KEY)
    assert agent.actor.params["params"]["Dense_0"]["kernel"].shape == (2, 2 * 3)
    critic = agent.critic.params["params"]["VmapMLP_0"]["Dense_0"]["kernel"]
    assert critic.shape == (2, 2 + 3, 1)


def test_a_plan_is_carried_out_to_its_end_and_the_methods_memory_advances_with_plans():
    algorithm = in_chunks(counting, 3)(CONFIG, spaces.actions(LINE))
    plan, actions = algorithm.memory(KEY, CONFIG), []
    for t in range(7):
        obs = jnp.full(1, float(t))
        action, plan = algorithm.act((), plan, Obs(obs, obs), KEY, True)
        actions.append(float(action[0]))
    # Decided at t = 0, 3 and 6, by decision 1, 2 and 3.
    np.testing.assert_allclose(actions, [0.1] * 3 + [3.2] * 3 + [6.3], rtol=1e-6)
    assert int(plan.memory) == 4


def test_a_horizon_of_1_is_the_method_itself_and_others_are_checked():
    assert in_chunks(sac.algorithm, 1) is sac.algorithm
    with pytest.raises(ValueError, match="^horizon=0: must be a whole number"):
        in_chunks(sac.algorithm, 0)
    longer = dataclasses.replace(CONFIG, n_step=3)
    with pytest.raises(ValueError, match="^n_step=3: must be 1, as a chunk of 2 actions is it"):
        in_chunks(sac.algorithm, 2)(longer, spaces.actions(LINE))
