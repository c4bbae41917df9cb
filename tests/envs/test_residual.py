"""A frozen policy under the agent: nothing of it changes, and corrections add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import Line

import envs
from envs.transforms import residual, time_limit
from envs.types import acting_key
from jaxrl.episodes import evaluate
from jaxrl.policies.scripted import scripted
from jaxrl.types import Policy

KEYS = jax.random.split(jax.random.key(3), 16)
nothing = Policy(
    (), lambda: (), lambda params, carry, obs, key, deterministic: (jnp.zeros(2), carry)
)


def maze():
    return envs.make("point_maze", time_limit=40)


def noisy_driver(env):
    return scripted(env, noise=0.4, bias=0.2, delay=2)


@pytest.mark.parametrize("make_base", [scripted, noisy_driver])
@pytest.mark.parametrize("layers", [1, 2])
def test_no_correction_is_the_base_exactly(make_base, layers):
    """Its noise, too: `evaluate` gives it the same inside as alone."""
    env = maze()
    base = make_base(env)
    wrapped = residual(env, base, 0.3, deterministic=False)
    for _ in range(layers - 1):
        wrapped = residual(wrapped, nothing, 0.3)
    alone = jax.jit(lambda: evaluate(env, base, KEYS, deterministic=False))()
    inside = jax.jit(lambda: evaluate(wrapped, nothing, KEYS))()
    assert alone["return"].mean() > (0.8 if make_base is scripted else 0.3)
    np.testing.assert_array_equal(alone["length"], inside["length"])
    for name in ("return", "distance"):  # two programs may round differently
        np.testing.assert_allclose(alone[name], inside[name], rtol=1e-5)


def test_base_and_agent_draw_from_different_keys():
    env = maze()
    wrapped = residual(env, scripted(env))
    keys = [
        jax.random.key_data(acting_key(e, KEYS[0]))
        for e in (env, wrapped, residual(wrapped, nothing))
    ]
    assert len({tuple(np.asarray(k)) for k in keys}) == 3


def test_corrections_are_scaled_added_and_clipped():
    env = maze()
    wrapped = residual(env, scripted(env), 0.5)
    combine = wrapped.combine(jnp.array([0.2, 0.9]), jnp.array([-1.0, 3.0]))
    np.testing.assert_allclose(combine, [-0.3, 1.0], atol=1e-6)
    back = wrapped.correction(jnp.array([0.2, 0.9]), jnp.array([-0.3, 0.4]))
    np.testing.assert_allclose(back, [-1.0, -1.0], atol=1e-6)


def test_the_agent_sees_what_the_base_is_about_to_do():
    env = maze()
    wrapped = residual(env, scripted(env))
    state = wrapped.reset(KEYS[0])
    np.testing.assert_array_equal(
        state.obs["base_action"], env.expert({k: state.obs[k] for k in ("obs", "goal")}, 0)
    )
    assert wrapped.observation_space["base_action"].shape == (2,)


def test_the_base_s_memory_begins_anew_with_each_episode_of_each_environment():
    """The base counts its calls; environments that end at different times count apart."""
    count = lambda params, carry, obs, key, deterministic: (jnp.zeros(2), carry + 1)
    counter = Policy((), lambda: jnp.zeros((), jnp.int32), count)
    wrapped = time_limit(residual(envs.make("point_maze", time_limit=None), counter), 5)
    vec = envs.vectorize(wrapped, 8, stagger=True)
    state = vec.reset(jax.random.key(0))
    step = jax.jit(vec.step)
    expected, ended_at = np.ones(8, int), set()
    for _ in range(12):
        state = step(state, jnp.zeros((8, 2)))
        done = np.asarray(state.done)
        expected = np.where(done, 1, expected + 1)
        np.testing.assert_array_equal(state.now.info["residual"]["carry"], expected)
        ended_at |= {tuple(done)}
    assert len(ended_at) > 3  # not in lockstep


def test_a_residual_on_a_residual_sees_both_actions():
    env = maze()
    inner = residual(env, scripted(env), 0.5)
    outer = residual(inner, nothing, 0.5)
    obs = outer.reset(KEYS[0]).obs
    assert (
        set(obs) == set(outer.observation_space) == {"obs", "goal", "base_action", "base_action_1"}
    )
    np.testing.assert_array_equal(obs["base_action_1"], 0.0)
    assert np.abs(obs["base_action"]).max() > 0.1


def test_signals_that_are_actions_become_corrections():
    base = Policy((), lambda: (), lambda *_: (jnp.array([0.25]), ()))
    wrapped = residual(Line(signals=True), base, 0.5)
    state = wrapped.step(wrapped.reset(KEYS[0]), jnp.array([1.0]))  # 0.75, executed: 0.5
    np.testing.assert_allclose(state.signals["executed"], [0.5])
    np.testing.assert_allclose(state.signals["cost"], state.data.x**2)


def test_the_task_s_expert_is_none_for_corrections():
    env = maze()
    wrapped = time_limit(residual(env, scripted(env)), 5)
    assert hasattr(env, "expert") and not hasattr(wrapped, "expert")
    assert wrapped.achieved_goal is not None  # of the rest nothing is hidden
    with pytest.raises(ValueError, match="no scripted expert"):
        scripted(wrapped)


def test_misfits_are_named():
    env = maze()
    with pytest.raises(ValueError, match=r"scale=0: must be above 0"):
        residual(env, scripted(env), 0)
    with pytest.raises(ValueError, match="cannot act on observations of shape"):
        residual(envs.make("pendulum_swingup"), scripted(env))
    wide = Policy((), lambda: (), lambda params, carry, obs, key, d: (jnp.zeros(3), carry))
    with pytest.raises(ValueError, match=r"actions have shape \(3,\), not \(2,\)"):
        residual(env, wide)
