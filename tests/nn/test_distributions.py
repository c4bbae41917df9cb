"""Densities against SciPy and integration, entropies and divergences against sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs.types import Box
from jaxrl.nn import spaces as acting
from jaxrl.nn.distributions import Categorical, Normal, TanhNormal, tanh_log_det

KEY = jax.random.key(0)
MEAN, STD = jnp.array([0.3, -1.2]), jnp.array([0.5, 1.5])
OTHER = (jnp.array([-0.2, -1.0]), jnp.array([0.8, 1.1]))
LOGITS = jnp.array([0.1, 2.0, -1.0])


def samples(dist, number=100_000):
    return jax.vmap(dist.sample)(jax.random.split(KEY, number))


def test_normal_log_prob_is_the_sum_of_scipys():
    raw = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    expected = stats.norm.logpdf(raw, MEAN, STD).sum(-1)
    np.testing.assert_allclose(Normal(MEAN, STD).log_prob(raw), expected, rtol=1e-5)


@pytest.mark.parametrize("mean, std", [(0.3, 0.5), (-2.0, 1.0), (0.0, 3.0)])
def test_the_density_of_a_squashed_action_integrates_to_1(mean, std):
    """Over the raw action x: p(a) da with a = tanh x is exp(log_prob(x)) (1 - tanh^2 x) dx."""
    x = jnp.linspace(mean - 10 * std, mean + 10 * std, 20_001)[:, None]
    dist = TanhNormal(jnp.array([mean]), jnp.array([std]))
    action = np.tanh(np.asarray(x, np.float64))[:, 0]
    inside = np.abs(action) < 0.9999
    density = np.exp(np.asarray(dist.log_prob(x), np.float64))[inside]
    low, high = (np.arctanh(end * 0.9999) for end in (-1, 1))
    expected = np.diff(stats.norm.cdf([low, high], mean, std))[0]
    assert np.trapezoid(density, action[inside]) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("cls", [Normal, TanhNormal])
def test_entropy_is_minus_the_mean_log_prob(cls):
    dist = cls(MEAN, STD)
    entropy = jax.vmap(dist.entropy)(jax.random.split(jax.random.key(1), 100_000)).mean()
    assert entropy == pytest.approx(-float(dist.log_prob(samples(dist)).mean()), abs=0.02)


@pytest.mark.parametrize("cls", [Normal, TanhNormal])
def test_kl_is_the_mean_log_ratio(cls):
    p, q = cls(MEAN, STD), cls(*OTHER)
    x = samples(p)
    sampled = float((p.log_prob(x) - q.log_prob(x)).mean())
    assert p.kl(q) == pytest.approx(sampled, abs=0.02) and p.kl(q) > 0.1
    assert p.kl(p) == 0


def test_samples_have_the_mean_and_spread_asked_for():
    x = samples(Normal(MEAN, STD))
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(x.std(0), STD, rtol=0.02)


@pytest.mark.parametrize("x", [-50.0, -5.0, 0.0, 0.7, 5.0, 50.0])
def test_tanh_log_det_is_exact_where_one_minus_tanh_squared_underflows(x):
    exact = -2.0 * (abs(x) + np.log1p(np.exp(-2.0 * abs(x))) - np.log(2.0))  # log sech^2
    assert tanh_log_det(jnp.float32(x)) == pytest.approx(exact, rel=1e-5, abs=1e-6)
    assert jax.grad(tanh_log_det)(jnp.float32(x)) == pytest.approx(-2 * np.tanh(x), abs=1e-5)


def test_squashing_bounds_the_action_and_keeps_the_mode():
    raw = jnp.array([-30.0, -0.2, 30.0])
    np.testing.assert_allclose(TanhNormal(raw, jnp.ones(3)).squash(raw), np.tanh(raw), rtol=1e-6)
    np.testing.assert_allclose(Normal(raw, jnp.ones(3)).squash(raw), [-1.0, -0.2, 1.0])
    assert (Normal(MEAN, STD).mode() == MEAN).all()


def test_categorical_agrees_with_numpy():
    p = np.exp(np.asarray(LOGITS, np.float64))
    p /= p.sum()
    q = np.array([0.2, 0.3, 0.5])
    dist, other = Categorical(LOGITS), Categorical(jnp.log(q) + 3.0)  # unnormalised
    log_prob = jax.vmap(dist.log_prob)(jnp.arange(3))
    np.testing.assert_allclose(log_prob, np.log(p), rtol=1e-5)
    assert dist.entropy(KEY) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert dist.kl(other) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)
    counts = np.bincount(np.asarray(samples(dist)), minlength=3) / 100_000
    np.testing.assert_allclose(counts, p, atol=0.01)
    assert dist.mode() == 1 and dist.mode().dtype == dist.sample(KEY).dtype == jnp.int32


def test_distributions_take_any_batch_axes():
    raw = jnp.zeros((4, 3, 2))
    assert Normal(raw, raw + 1).log_prob(raw).shape == (4, 3)
    assert TanhNormal(raw, raw + 1).entropy(KEY).shape == (4, 3)
    assert Categorical(raw).log_prob(jnp.zeros((4, 3), int)).shape == (4, 3)
    assert Categorical(raw).kl(Categorical(raw)).shape == (4, 3)


# --- Between networks and environments ---


MIXED = Box((2, 2), ((-2.0, -np.inf), (0.5, 0.0)), ((4.0, np.inf), (0.5, 1.0)))


def test_actions_go_to_the_environment_and_back():
    """One direction has no bounds, one has a single value."""
    flat = jnp.array([[-1.0, 7.0, 0.0, 1.0], [0.5, -3.0, 0.0, -1.0]])
    there = acting.to_env(MIXED)(flat)
    np.testing.assert_allclose(there[0], [[-2.0, 7.0], [0.5, 1.0]])
    np.testing.assert_allclose(there[1], [[2.5, -3.0], [0.5, 0.0]])
    np.testing.assert_allclose(acting.from_env(MIXED)(there), flat)


@pytest.mark.parametrize("batch", [(), (5,), (3, 5)])
def test_a_scalar_action_is_one_direction(batch):
    space = Box((), -2.0, 4.0)
    flat = jnp.linspace(-1.0, 1.0, int(np.prod(batch))).reshape(*batch, 1)
    there = acting.to_env(space)(flat)
    assert there.shape == batch
    np.testing.assert_allclose(acting.from_env(space)(there), flat, atol=1e-6)


def test_only_directions_with_bounds_are_clipped():
    dist = acting.distribution(MIXED, "normal")(jnp.zeros(8))
    raw = jnp.array([5.0, 5.0, -5.0, 0.3])
    np.testing.assert_allclose(dist.squash(raw), [1.0, 5.0, -1.0, 0.3])
    with pytest.raises(ValueError, match="distribution='tanh_normal'"):
        acting.distribution(MIXED, "tanh_normal")


@pytest.mark.parametrize("low, high", [(0.0, np.inf), (-np.inf, 1.0), ((-1.0, 0.0), (1.0, np.inf))])
def test_a_bound_on_one_side_only_is_refused(low, high):
    space = Box((2,), low, high)
    for use in (acting.to_env, acting.from_env, lambda s: acting.distribution(s, "normal")):
        with pytest.raises(ValueError, match="a bound on one side only"):
            use(space)
