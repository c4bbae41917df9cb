"""Learner -> Learner: the law of each, and that `train` drives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, assert_same

import envs
from jaxrl.compose import population as pbt
from jaxrl.compose.cloned import cloned
from jaxrl.compose.population import population
from jaxrl.compose.sampled import sampled
from jaxrl.compose.warm_start import warm_start
from jaxrl.data import recording
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.policies.scripted import scripted
from jaxrl.run.train import train

ENV = Probe(pays_goal=1.0, goal=0.5)
CONFIG = ppo.Config(
    num_envs=8,
    unroll_length=4,
    num_minibatches=1,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
)
RANGES = {"learning_rate": (1e-4, 1e-1)}


# --- Population ---


def test_the_worst_copy_the_best_and_the_others_stay():
    score = jnp.array([3.0, 1.0, 2.0, 4.0])
    np.testing.assert_array_equal(pbt.exploit(score, jax.random.key(0), 1), [0, 3, 2, 3])
    copied = np.array([pbt.exploit(score, jax.random.key(i), 2) for i in range(20)])
    np.testing.assert_array_equal(copied[:, [0, 3]], [[0, 3]] * 20)
    assert set(copied[:, 1]) == set(copied[:, 2]) == {0, 3}  # either of the best two


def test_members_without_a_score_count_as_worst_and_are_never_copied():
    score = jnp.array([-jnp.inf, 5.0, -jnp.inf])
    np.testing.assert_array_equal(pbt.exploit(score, jax.random.key(0), 1), [1, 1, 2])
    nothing = jnp.full(3, -jnp.inf)
    np.testing.assert_array_equal(pbt.exploit(nothing, jax.random.key(0), 1), [0, 1, 2])


def test_copied_numbers_move_by_a_fifth_within_their_range():
    value = jnp.full(64, 1.0)
    moved = np.asarray(pbt.explore(value, jax.random.key(0), 0.1, 10.0))
    np.testing.assert_allclose(np.unique(moved), [0.8, 1.2], rtol=1e-6)
    held = np.asarray(pbt.explore(value, jax.random.key(0), 0.9, 1.1))
    np.testing.assert_allclose(np.unique(held), [0.9, 1.1], rtol=1e-6)


def test_a_selection_copies_all_but_the_key_and_perturbs_only_the_copy():
    learner = population(ppo.make(ENV, CONFIG), RANGES, size=4, every=2)
    state = jax.jit(learner.init)(jax.random.key(0), CONFIG)
    rates = np.asarray(state.members.config.learning_rate)
    assert len(set(rates)) == 4 and (rates >= 1e-4).all() and (rates <= 1e-1).all()
    step = jax.jit(learner.step)
    once, _ = step(state)
    np.testing.assert_array_equal(once.members.config.learning_rate, rates)  # not due yet
    state, metrics = step(once)
    new = np.asarray(state.members.config.learning_rate)
    (copy,) = np.flatnonzero(new != rates)
    best = int(np.argmax(state.score))
    leaf = lambda x, i: np.asarray(jax.tree.leaves(x.members.params)[0][i])
    sources = [i for i in range(4) if i != copy and (leaf(state, i) == leaf(state, copy)).all()]
    assert len(sources) == 1
    ratio = new[copy] / rates[sources[0]]
    assert min(abs(ratio - 0.8), abs(ratio - 1.2)) < 1e-5
    keys = jax.random.key_data(state.members.key)
    assert len(np.unique(keys, axis=0)) == 4
    assert state.score[copy] == state.score[sources[0]] == state.score[best]
    assert float(metrics["population_learning_rate"]) == pytest.approx(new.mean())


def test_a_population_trains_and_acts_by_its_best_member():
    learner = population(ppo.make(ENV, CONFIG), RANGES, size=4, every=2)
    result = train(
        learner,
        100 * learner.steps_per_iteration,
        seeds=2,
        num_evals=1,
        eval_episodes=4,
        quiet=True,
    )
    assert learner.steps_per_iteration == 4 * 8 * 4
    first, last = (e["return"] for e in (result.evals[0], result.evals[-1]))
    assert last.shape == (2,) and (last > first).all() and (last > -0.15).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": {"hidden": (0.1, 1.0)}}, "ranges: 'hidden': allowed are the numbers"),
        ({"ranges": {"gamma": (0.5, 1.5)}}, "gamma=1.5: must be between 0 and 1"),
        ({"ranges": {"gamma": (0.0, 0.5)}}, "must be 0 < low < high"),
        ({"ranges": RANGES, "size": 1}, "size=1: must be at least 2"),
        ({"ranges": RANGES, "share": 0.6}, "share=0.6: must be above 0 and at most 0.5"),
    ],
)
def test_bad_populations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        population(ppo.make(ENV, CONFIG), **options)


# --- Warm start ---


def test_a_warm_start_has_the_given_parts_and_else_what_init_makes():
    learner = ppo.make(ENV, CONFIG)
    other = learner.init(jax.random.key(5), CONFIG)
    warm = warm_start(learner, {"params": other.params})
    state, cold = (x.init(jax.random.key(6), CONFIG) for x in (warm, learner))
    assert_same(state.params, other.params)
    assert_same(state.replace(params=()), cold.replace(params=()))
    result = train(warm, warm.steps_per_iteration, num_evals=1, eval_episodes=4, quiet=True)
    at_start = train(
        learner,
        learner.steps_per_iteration,
        num_evals=1,
        eval_episodes=4,
        quiet=True,
        start=jax.tree.map(lambda x: x[None], other),
    )
    assert result.evals[0]["return"] == at_start.evals[0]["return"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"agent.actor": 1}, "parts: 'agent.actor': the state has params"),
        ({"key": {"a": 1}}, "parts: 'key': its structure is not"),
        (
            {"iteration": np.zeros(3, np.int32)},
            r"parts: iteration is int32\[3\], must be int32\[\]",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        warm_start(ppo.make(ENV, CONFIG), parts)


# --- Cloned, sampled ---


def test_ppo_from_a_clone_begins_with_what_was_shown():
    env = envs.make("point_maze_open")
    demos = recording.record(scripted(env), env, 16, jax.random.key(0))
    config = ppo.Config(num_envs=8, unroll_length=2, actor_hidden=(32,), critic_hidden=(4,))
    learner = ppo.make(env, config.replace(distribution="normal"))
    steps = demos.steps_for(env)
    shown = jax.tree.map(lambda x: x[:, 0], steps.obs)

    def error(learner):
        policy = learner.policy(learner.init(jax.random.key(1), config))
        act = lambda obs: policy.act(policy.init_carry(), obs, jax.random.key(0))[0]
        return float(((jax.vmap(act)(shown) - steps.action[:, 0]) ** 2).mean())

    assert error(cloned(learner, demos, 500)) < 0.3 * error(learner)


def test_a_sampled_clone_draws_where_it_would_be_deterministic():
    env = envs.make("pendulum_swingup")
    config = sac.Config(num_envs=1, replay_size=16, actor_hidden=(4,), critic_hidden=(4,))
    plain = sac.make(env, config)
    drawn = sampled(plain)
    state = plain.init(jax.random.key(0), config)
    act = lambda learner, deterministic: np.asarray(
        learner.policy(state).act((), np.ones(3, np.float32), jax.random.key(1), deterministic)[0]
    )
    np.testing.assert_array_equal(act(drawn, True), act(plain, False))
    assert not np.array_equal(act(drawn, True), act(plain, True))
    assert drawn.policy(state).apply is drawn.policy(state).apply  # else every call compiles
