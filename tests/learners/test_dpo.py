"""Discovered policy optimisation: its drift by hand, its gradient, and a probe."""

import math

import jax
import jax.numpy as jnp
import pytest
from probes import CLOCK, Probe

from jaxrl.learners.on_policy import dpo
from jaxrl.learners.registry import module, name_of

TINY = dpo.Config(
    learning_rate=1e-2,
    num_envs=32,
    unroll_length=4,
    num_minibatches=2,
    actor_hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
    normalize_obs=False,
)


def at(ratio, advantage):
    return float(dpo.drift(jnp.asarray(ratio), jnp.asarray(advantage), TINY))


def test_the_drift_has_the_values_of_the_published_formula():
    # A = 2, r = 1.5: x = 1, x - 2 tanh(x / 2). A = -1, r = 1 / e: x = 1, x - 0.6 tanh(x / 0.6).
    assert at(1.5, 2.0) == pytest.approx(1.0 - 2.0 * 0.46211716, abs=1e-6)
    assert at(math.exp(-1.0), -1.0) == pytest.approx(1.0 - 0.6 * math.tanh(1 / 0.6), abs=1e-6)
    # A move against the advantage is free, and so is none.
    assert at(0.5, 2.0) == at(1.5, -1.0) == at(1.0, 2.0) == at(1.0, -1.0) == 0.0


def test_the_drift_takes_back_the_advantage_as_the_ratio_grows():
    """Its slope is A tanh^2(x / alpha), or A / r tanh^2(x / beta): 0 at a ratio of 1."""
    slope = jax.grad(lambda ratio, advantage: dpo.drift(ratio, advantage, TINY))
    assert float(slope(1.0, 2.0)) == float(slope(1.0, -1.0)) == 0.0
    assert float(slope(4.0, 2.0)) == pytest.approx(2.0 * math.tanh(3.0) ** 2, rel=1e-5)
    bad = -1.0 / 0.5 * math.tanh(math.log(2.0) / 0.6) ** 2
    assert float(slope(0.5, -1.0)) == pytest.approx(bad, rel=1e-5)


def test_dpo_finds_the_better_action():
    env = Probe(pays_goal=1.0, goal=0.5)
    learner = module("dpo").make(env, TINY)
    assert name_of(TINY) == "dpo"
    state = jax.jit(learner.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: learner.step(s), state, None, 100))
    state, metrics = run(state)
    policy = learner.policy(state)
    action, _ = policy.act((), jnp.zeros(1 + CLOCK), jax.random.key(0))
    assert float(action[0]) == pytest.approx(0.5, abs=0.15)
    assert float(metrics["first_ratio_error"].max()) < 1e-5
    assert float(metrics["drift"].min()) >= 0.0
