"""The on-policy engine's seams for critics of actions, with a critic that tells what it was given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.nn.actors import Network

CONFIG = ppo.Config(
    num_envs=4,
    unroll_length=5,  # of episodes of 3 steps: it ends within one
    num_minibatches=2,
    num_epochs=1,
    learning_rate=0.0,
    actor_hidden=(4,),
    critic_hidden=(4,),
)
CLOCKED = Probe(length=3.0, truncates=True, sees_clock=1.0)


def told(params, obs, raw, log_prob):
    """What a critic sees: the time of the normalised observation, the action, its log-probability."""
    time = jnp.argmax(obs[..., 1:], -1).astype(jnp.float32)
    return {"action": raw[..., 0], "log_prob": log_prob, "time": time}


def compared(unroll, following, extra, config):
    """Targets [T, N] by name: what the critic was told, against the unroll."""
    same = following["action"] == jnp.roll(unroll.value["action"], -1, 0)
    last = jnp.arange(5)[:, None] == 4
    return unroll.reward, {
        "action_error": jnp.abs(unroll.value["action"] - unroll.raw[..., 0]),
        "log_prob_error": jnp.abs(unroll.value["log_prob"] - unroll.log_prob),
        "time_error": jnp.abs(following["time"] - unroll.value["time"] - 1.0),
        "action_is_the_next_step_s": jnp.where(last | unroll.truncated, ~same, same) * 1.0,
    }


def seen(sample, config):
    weights = jnp.abs(sample.params["params"]["actor"]["Dense_0"]["kernel"]).sum()
    return sample.target["time_error"], sample.target | {
        "clock": sample.unroll.obs.sum(-1),
        "draw": jax.vmap(jax.random.normal)(sample.keys)[None],
        "weights": jnp.broadcast_to(weights, sample.log_prob.shape),
    }


@pytest.fixture(scope="module", params=["once", "epoch"])
def run(request):
    """A state, and the metrics of two steps from there. Estimates before every epoch are the same."""
    network, actor = ppo.networks(CLOCKED, CONFIG)
    network = Network(network.init, network.apply, critic=told)
    config = CONFIG.replace(advantages=request.param)
    learner = on_policy.make(CLOCKED, config, network, actor, ppo.clipped, seen, compared)
    state = jax.jit(learner.init)(jax.random.key(0))
    steps = lambda state: jax.lax.scan(lambda s, _: learner.step(s), state, None, 2)
    return state, jax.jit(steps)(state)[1]


def test_a_critic_sees_the_executed_action_and_its_log_probability(run):
    for name in ("action_error", "log_prob_error"):
        np.testing.assert_allclose(run[1][name], 0.0, atol=1e-6)


def test_the_next_value_is_of_the_next_observation_and_of_the_final_one_after_a_time_limit(run):
    np.testing.assert_array_equal(run[1]["time_error"], 0.0)


def test_the_next_value_is_of_the_next_action_or_of_a_fresh_one_where_there_is_none(run):
    np.testing.assert_array_equal(run[1]["action_is_the_next_step_s"], 1.0)


def test_a_loss_sees_parameters_normalised_observations_and_random_keys(run):
    state, found = run
    kernel = state.params["params"]["actor"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(found["weights"], jnp.abs(kernel).sum(), rtol=1e-5)
    first, second = found["clock"]  # the first step has no statistics yet
    assert first == 1.0 and abs(second - 1.0) > 0.1
    assert 0.0 < abs(float(found["draw"][0])) < 1.5 and found["draw"][0] != found["draw"][1]


def test_without_a_critic_values_and_targets_must_have_one_shape():
    wide = lambda unroll, following, extra, config: (unroll.reward, following[..., None])
    learner = on_policy.make(
        CLOCKED, CONFIG, *ppo.networks(CLOCKED, CONFIG), ppo.clipped, advantage=wide
    )
    with pytest.raises(AssertionError, match="shape"):
        jax.eval_shape(learner.step, jax.eval_shape(learner.init, jax.random.key(0)))


@pytest.mark.parametrize("normalized, mean, square", [(True, 0.0, 1.0), (False, 2.0, 5.0)])
def test_advantages_are_normalised_over_a_minibatch_or_left_as_estimated(normalized, mean, square):
    config = CONFIG.replace(num_minibatches=1, normalize_advantages=normalized)
    # Half are 1 and half are 3.
    given = lambda unroll, following, extra, config: (
        jnp.broadcast_to(jnp.array([1.0, 3.0, 1.0, 3.0]), unroll.reward.shape),
        unroll.reward,
    )
    loss = lambda sample, config: (sample.advantage, {"square": sample.advantage**2})
    learner = on_policy.make(CLOCKED, config, *ppo.networks(CLOCKED, config), loss, advantage=given)
    metrics = jax.jit(learner.step)(jax.jit(learner.init)(jax.random.key(0)))[1]
    np.testing.assert_allclose(metrics["policy_loss"], mean, atol=1e-6)
    np.testing.assert_allclose(metrics["square"], square, rtol=1e-5)
