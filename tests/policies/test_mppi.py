"""MPPI: the law by hand, and a task that it solves without learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from jaxrl.episodes import evaluate
from jaxrl.policies import mppi as law
from jaxrl.policies.mppi import mppi
from jaxrl.types import Policy
from tests.envs.toys import Line

LOG2 = float(np.log(2.0))


def test_weights_are_a_softmax_of_negative_costs_over_the_temperature():
    cost = jnp.array([3.0, 3.0 + LOG2, 3.0 + 2 * LOG2])
    np.testing.assert_allclose(law.weights(cost, 1.0), np.array([4, 2, 1]) / 7, rtol=1e-6)
    np.testing.assert_allclose(law.weights(cost, 0.5), np.array([16, 4, 1]) / 21, rtol=1e-6)
    np.testing.assert_allclose(law.weights(cost + 1e4, 1.0), np.array([4, 2, 1]) / 7, rtol=1e-3)


def test_a_plan_that_breaks_the_simulation_has_no_weight():
    cost = jnp.array([1.0, jnp.inf, 1.0])
    np.testing.assert_allclose(law.weights(cost, 1.0), [0.5, 0.0, 0.5])
    assert (law.weights(jnp.full(3, jnp.inf), 1.0) == 0.0).all()


def test_the_plan_moves_by_the_weighted_mean_of_the_noise():
    plan = jnp.array([[0.1, 0.0], [0.2, -0.1]])
    epsilon = jnp.array([[[0.3, 0.0], [0.0, 0.6]], [[0.0, -0.3], [0.3, 0.0]]])
    new = law.update(plan, epsilon, jnp.array([0.0, LOG2]), 1.0)  # weights 2/3 and 1/3
    np.testing.assert_allclose(new, [[0.3, -0.1], [0.3, 0.3]], atol=1e-6)


def test_the_cost_of_controls_is_gamma_u_epsilon_over_the_variance():
    plan, epsilon = jnp.array([[1.0], [2.0]]), jnp.array([[[0.5], [0.25]], [[-1.0], [0.0]]])
    np.testing.assert_allclose(law.control_cost(plan, epsilon, 3.0, 0.5), [12.0, -12.0])


def test_the_carry_is_the_rest_of_the_plan_and_starts_the_next():
    env = Line(edge=1e9)
    policy = mppi(env, horizon=3, samples=8, noise=1e-6)  # so little that the plan stays
    state = env.reset(jax.random.key(0))
    plan = jnp.array([[0.1], [0.2], [0.3]])
    action, carry = policy.act(plan, policy.view(state), jax.random.key(1))
    np.testing.assert_allclose(action, [0.1], atol=1e-4)
    np.testing.assert_allclose(carry, [[0.2], [0.3], [0.0]], atol=1e-4)


def test_a_plan_that_only_grows_too_large_is_not_followed():
    """Beyond |x| = 0.5 the reward is 1e9: a finite number that no sound simulation shows."""

    class Explodes(Line):
        def step(self, state, action):
            new = super().step(state, action)
            far = jnp.abs(new.data.x) > 0.5
            return new.replace(reward=jnp.where(far, 1e9, -jnp.abs(new.data.x)))

    env = Explodes(edge=1e9)
    state = env.reset(jax.random.key(0))
    state = state.replace(data=state.data.replace(x=jnp.float32(0.45)))
    policy = mppi(env, horizon=1, samples=64, temperature=0.01, noise=1.0)
    action, _ = policy.act(policy.init_carry(), policy.view(state), jax.random.key(1))
    assert abs(0.45 + float(action[0])) < 0.2


def test_mppi_stays_at_the_goal_of_a_maze_where_random_actions_do_not():
    env = envs.make("point_maze_open", reward="dense", continuing=True)
    keys = jax.random.split(jax.random.key(0), 8)
    draw = lambda params, carry, obs, key, _: (jax.random.uniform(key, (2,), minval=-1.0), carry)
    at_end = lambda policy: jax.jit(lambda keys: evaluate(env, policy, keys)["success_at_end"])(
        keys
    )
    assert at_end(mppi(env, horizon=10, samples=8, temperature=0.1, noise=0.7)).all()
    assert at_end(Policy((), lambda: (), draw)).mean() < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples=0: must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"alpha": 2.0}, r"alpha=2.0: must be 0 .. 1"),
    ],
)
def test_numbers_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        mppi(Line(), **options)


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="must be a bounded Box"):
        mppi(Line(discrete=True))
