"""GAE against rlax, a plain double loop, and its two limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxrl.ops.returns import gae

T, N = 23, 7


def trajectories(seed=0, terminations=0.1, truncations=0.1, breaks=0.0):
    """Random [T, N] arrays; `next_value` is a final value of its own where truncated."""
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(T + 1, N))
    terminated = rng.random((T, N)) < terminations
    broken = rng.random((T, N)) < breaks
    truncated = ((rng.random((T, N)) < truncations) | broken) & ~terminated
    final_value = rng.normal(size=(T, N))
    return {
        "reward": np.where(broken, np.nan, rng.normal(size=(T, N))).astype(np.float32),
        "value": value[:-1].astype(np.float32),
        "next_value": np.where(truncated, final_value, value[1:]).astype(np.float32),
        "terminated": terminated,
        "done": terminated | truncated,
        "valid": ~broken,
    }


def by_hand(reward, value, next_value, terminated, done, gamma, gae_lambda, valid):
    """Per environment, the sum of discounted TD errors up to the end of the episode."""
    out = np.zeros((T, N))
    for i in range(N):
        for start in range(T):
            weight = 1.0
            for t in range(start, T):
                if not valid[t, i]:
                    break
                bootstrap = 0.0 if terminated[t, i] else next_value[t, i]
                out[start, i] += weight * (reward[t, i] + gamma * bootstrap - value[t, i])
                if done[t, i]:
                    break
                weight *= gamma * gae_lambda
    return out


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_gae_is_the_sum_of_discounted_td_errors_until_the_episode_ends(gae_lambda):
    batch = trajectories(breaks=0.05)
    assert batch["terminated"].any() and (~batch["valid"]).any()
    advantage = gae(**batch, gamma=0.9, gae_lambda=gae_lambda)
    np.testing.assert_allclose(
        advantage, by_hand(**batch, gamma=0.9, gae_lambda=gae_lambda), rtol=1e-4, atol=1e-5
    )


def test_gae_equals_rlax_where_episodes_only_terminate():
    batch = trajectories(truncations=0.0)
    values = np.concatenate([batch["value"], batch["next_value"][-1:]])
    discount = 0.9 * (1.0 - batch["terminated"])
    for i in range(N):
        expected = rlax.truncated_generalized_advantage_estimation(
            batch["reward"][:, i], discount[:, i], 0.8, values[:, i]
        )
        np.testing.assert_allclose(
            gae(**batch, gamma=0.9, gae_lambda=0.8)[:, i], expected, rtol=1e-4, atol=1e-5
        )


def test_lambda_0_is_the_one_step_td_error():
    batch = trajectories()
    advantage = gae(**batch, gamma=0.9, gae_lambda=0.0)
    bootstrap = np.where(batch["terminated"], 0.0, batch["next_value"])
    expected = batch["reward"] + 0.9 * bootstrap - batch["value"]
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-6)


def test_lambda_1_is_the_discounted_return_minus_the_value():
    batch = trajectories(seed=1)
    target = gae(**batch, gamma=0.9, gae_lambda=1.0) + batch["value"]
    expected = np.zeros((T, N))
    future = batch["next_value"][-1]
    for t in reversed(range(T)):
        future = np.where(batch["done"][t], batch["next_value"][t], future)
        future = np.where(batch["terminated"][t], 0.0, future)
        future = expected[t] = batch["reward"][t] + 0.9 * future
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)


def test_truncation_bootstraps_from_next_value_and_termination_does_not():
    one = lambda x: np.full((1, 1), x)
    given = dict(reward=one(1.0), value=one(0.0), next_value=one(5.0), done=one(True))
    truncated = gae(**given, terminated=one(False), gamma=0.5, gae_lambda=0.9)
    terminated = gae(**given, terminated=one(True), gamma=0.5, gae_lambda=0.9)
    assert float(truncated[0, 0]) == 3.5 and float(terminated[0, 0]) == 1.0


def test_an_invalid_step_has_advantage_0_and_spreads_no_nan():
    batch = trajectories(breaks=0.2)
    advantage = np.asarray(gae(**batch, gamma=0.99, gae_lambda=0.95))
    assert np.isfinite(advantage).all()
    assert (advantage[~batch["valid"]] == 0).all() and (~batch["valid"]).any()


def test_gamma_and_lambda_may_be_traced_and_swept():
    batch = {k: jnp.asarray(v) for k, v in trajectories().items()}
    gammas, lambdas = jnp.array([0.5, 0.9]), jnp.array([0.1, 1.0])
    swept = jax.jit(jax.vmap(lambda g, lam: gae(**batch, gamma=g, gae_lambda=lam)))(gammas, lambdas)
    for i in range(2):
        single = gae(**batch, gamma=float(gammas[i]), gae_lambda=float(lambdas[i]))
        np.testing.assert_allclose(swept[i], single, rtol=1e-5, atol=1e-6)
