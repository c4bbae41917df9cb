"""A frozen policy under the agent: nothing of it changes, and corrections add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.transforms import residual
from jaxrl.evaluate import evaluate
from jaxrl.policies.scripted import scripted
from jaxrl.types import Policy

pytestmark = pytest.mark.usefixtures("quick_compile")
KEYS = jax.random.split(jax.random.key(3), 16)
nothing = Policy(
    (), lambda: (), lambda params, carry, obs, key, deterministic: (jnp.zeros(2), carry)
)


def maze():
    return envs.make("point_maze", time_limit=40)


def noisy_driver(env):
    return scripted(env, noise=0.4, bias=0.2, delay=2)


def test_no_correction_is_the_base_exactly():
    env = maze()
    base = noisy_driver(env)
    wrapped = residual(env, base, 0.3, deterministic=False)
    own_key = wrapped.own_key(KEYS[0])

    def step_alone(loop, t):
        state, carry = loop
        action, carry = base.act(carry, state.obs, jax.random.fold_in(own_key, t), False)
        state = env.step(state, action)
        return (state, carry), state.data.position

    def step_inside(state, t):
        state = wrapped.step(state, jnp.zeros(2))
        return state, state.data.position

    steps = jnp.arange(12)
    first = lambda: (env.reset(KEYS[0]), base.init_carry())
    alone = jax.jit(lambda: jax.lax.scan(step_alone, first(), steps)[1])
    inside = jax.jit(lambda: jax.lax.scan(step_inside, wrapped.reset(KEYS[0]), steps)[1])
    np.testing.assert_array_equal(alone(), inside())


def test_a_deterministic_base_scores_the_same_inside():
    env = maze()
    base = scripted(env)
    alone = jax.jit(lambda: evaluate(env, base, KEYS))()
    inside = jax.jit(lambda: evaluate(residual(env, base), nothing, KEYS))()
    np.testing.assert_array_equal(alone["return"], inside["return"])
    np.testing.assert_array_equal(alone["length"], inside["length"])
    assert alone["return"].mean() > 0.8


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


def test_the_base_s_memory_begins_anew_with_each_episode():
    env = envs.make("point_maze", time_limit=5)
    wrapped = residual(env, noisy_driver(env), deterministic=False)
    vec = envs.vectorize(wrapped, 3)
    state = vec.reset(jax.random.key(0))
    step = jax.jit(vec.step)
    for t in range(1, 12):
        state = step(state, jnp.zeros((3, 2)))
        assert (state.env.info["residual"]["time"] == t % 5).all()


def test_misfits_are_named():
    env = maze()
    with pytest.raises(ValueError, match=r"scale=0: must be above 0"):
        residual(env, scripted(env), 0)
    with pytest.raises(ValueError, match="cannot act on observations of shape"):
        residual(envs.make("pendulum_swingup"), scripted(env))
    wide = Policy((), lambda: (), lambda params, carry, obs, key, d: (jnp.zeros(3), carry))
    with pytest.raises(ValueError, match=r"actions have shape \(3,\), not \(2,\)"):
        residual(env, wide)
