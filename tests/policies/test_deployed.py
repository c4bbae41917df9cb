"""Policies for use outside of training: what they are given, and conversion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from jaxrl.learners.on_policy import ppo
from jaxrl.policies.deployed import deployed

KEY = jax.random.key(0)
PLAIN, SPLIT = Probe(), Probe(split=True)
OBS = jnp.arange(7.0)
CONFIG = ppo.Config(num_envs=2, num_minibatches=1, actor_hidden=(4,), critic_hidden=(4,))


@functools.cache
def policy_of(env, **settings):
    learner = ppo.make(env, CONFIG.replace(**settings))
    return learner.policy(jax.jit(learner.init)(KEY))


@pytest.mark.parametrize(
    ("env", "obs", "message"),
    [
        (PLAIN, jnp.zeros((16, 7)), r"observation: has shape \(16, 7\), .*\(7,\); for a batch use"),
        (PLAIN, jnp.zeros(5), r"observation: has shape \(5,\), this policy acts on \(7,\)$"),
        (PLAIN, {"obs": OBS}, r"observation: is a dict with \['obs'\], .* acts on a plain array"),
        (SPLIT, OBS, r"observation: is a plain array, .* acts on a dict with \['clock', 'cue'\]"),
        (
            SPLIT,
            {"cue": jnp.zeros((3, 1)), "clock": jnp.zeros(6)},
            r"observation\['cue'\]: has shape \(3, 1\), this policy acts on \(1,\); for a batch",
        ),
    ],
)
def test_an_observation_that_does_not_fit_is_refused_in_one_line(env, obs, message):
    policy = deployed(policy_of(env), env)
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        policy.act(policy.init_carry(), obs, KEY)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("gru_width", [0, 4])
def test_it_acts_like_the_policy_and_a_converter_sees_jaxs_own_operations(gru_width):
    policy = policy_of(PLAIN, gru_width=gru_width)
    trace = lambda policy: str(
        jax.make_jaxpr(lambda obs: policy.act(policy.init_carry(), obs, KEY)[0])(OBS)
    )
    ready = deployed(policy, PLAIN)
    assert "product[" in trace(policy) and "product[" not in trace(ready)
    act = lambda policy: policy.act(policy.init_carry(), OBS, KEY)[0]
    np.testing.assert_allclose(act(ready), act(policy), rtol=1e-6)


def test_what_jax_exports_acts_the_same():
    policy = deployed(policy_of(PLAIN), PLAIN)
    act = jax.jit(lambda obs: policy.act(policy.init_carry(), obs, KEY)[0])
    exported = jax.export.export(act)(jax.ShapeDtypeStruct((7,), jnp.float32))
    np.testing.assert_allclose(exported.call(OBS), act(OBS), rtol=1e-6)


def test_a_policy_that_is_made_twice_is_traced_once_and_batches_are_vmapped():
    policy = policy_of(PLAIN)
    traces = []

    @jax.jit
    def act(policy, obs):
        traces.append(1)
        return jax.vmap(lambda obs: policy.act(policy.init_carry(), obs, KEY)[0])(obs)

    for _ in range(2):
        assert act(deployed(policy, PLAIN), jnp.stack([OBS, OBS])).shape == (2, 1)
    assert len(traces) == 1
