"""Running moments equal NumPy's over everything seen; summaries over seeds are honest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import assert_same

from jaxrl.ops.moments import Moments, psum_over
from jaxrl.report.summary import bootstrap_interval, difference_interval, iqm, verdict

RNG = np.random.default_rng(0)
BATCHES = [
    {
        "a": 5 + 3 * RNG.normal(size=(4, n, 2)).astype(np.float32),
        "b": RNG.random((4, n), np.float32),
    }
    for n in (5, 1, 8)
]
WEIGHTS = [(RNG.random((4, n)) < 0.7).astype(np.float32) for n in (5, 1, 8)]

update = jax.jit(Moments.update)


def accumulate(batches, weights):
    moments = Moments.zeros(jax.tree.map(lambda x: x[0, 0], batches[0]))
    for batch, weight in zip(batches, weights, strict=True):
        moments = update(moments, batch, weight)
    return moments


def test_moments_over_batches_are_numpys_over_all_of_them():
    """Entries of weight 0 are NaN here and do not exist for the moments."""
    with_nan = lambda x, w: np.where(w.reshape(w.shape + (1,) * (x.ndim - 2)) > 0, x, np.nan)
    batches = [
        {k: with_nan(x, w) for k, x in batch.items()}
        for batch, w in zip(BATCHES, WEIGHTS, strict=True)
    ]
    assert np.isnan(batches[0]["a"]).any()
    moments = accumulate(batches, WEIGHTS)
    for name in ("a", "b"):
        seen = np.concatenate(
            [b[name][w > 0] for b, w in zip(batches, WEIGHTS, strict=True)]
        ).astype(np.float64)
        np.testing.assert_allclose(moments.mean[name], seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moments.var[name], seen.var(0), rtol=1e-4)
        assert moments.count == len(seen)


def test_moments_survive_a_large_offset():
    """The sum of squares minus the squared mean would have no digits left here."""
    x = 1e4 + np.arange(64, dtype=np.float32) / 64
    moments = accumulate([x.reshape(4, 16)], [np.ones((4, 16))])
    np.testing.assert_allclose(moments.var, x.astype(np.float64).var(), rtol=1e-3)


def test_moments_of_single_samples_do_not_drift():
    """Of two nearly equal terms the difference would be lost to rounding, each time alike."""
    x = 3 + np.random.default_rng(0).normal(size=(1_000_000, 1, 8)).astype(np.float32)
    one = lambda moments, x: (moments.update(x, jnp.ones(1)), None)
    moments, _ = jax.jit(lambda x: jax.lax.scan(one, Moments.zeros(jnp.zeros(8)), x))(x)
    error = moments.var / x.astype(np.float64).var((0, 1)) - 1.0
    assert abs(error.mean()) < 1e-4


def test_a_batch_of_weight_0_changes_nothing():
    moments = accumulate(BATCHES, WEIGHTS)
    nothing = jax.tree.map(lambda x: np.full_like(x, np.nan), BATCHES[0])
    assert_same(update(moments, nothing, jnp.zeros((4, 5))), moments)
    empty = Moments.zeros(jax.tree.map(lambda x: x[0, 0], nothing))
    assert_same(update(empty, nothing, jnp.zeros((4, 5))), empty)


def test_halves_on_two_devices_make_the_same_moments_as_one_batch():
    start, batch, weight = accumulate(BATCHES, WEIGHTS), BATCHES[2], jnp.asarray(WEIGHTS[2])
    halves = jax.tree.map(lambda x: x.reshape(4, 2, 4, *x.shape[2:]).swapaxes(0, 1), batch)
    half_weights = weight.reshape(4, 2, 4).swapaxes(0, 1)
    half = lambda b, w: start.update(b, w, axis_name="devices")
    shared = jax.jit(jax.vmap(half, axis_name="devices"))(halves, half_weights)
    whole = update(start, batch, weight)
    for i in range(2):
        assert_same(jax.tree.map(lambda x, i=i: x[i], shared), whole, rtol=1e-5)


def test_a_tree_is_summed_over_devices_in_one_message_a_type():
    tree = {
        "a": jnp.arange(6.0).reshape(3, 2),
        "b": jnp.arange(3),
        "c": (jnp.ones((3, 2, 2)), jnp.arange(3.0)),
    }
    psum = jax.vmap(psum_over("devices"), axis_name="devices", out_axes=None)
    expected = jax.tree.map(lambda x: x.sum(0), tree)
    assert_same(psum(tree), expected)
    assert jax.tree.map(lambda x: x.dtype, psum(tree)) == jax.tree.map(lambda x: x.dtype, expected)
    jaxpr = jax.make_jaxpr(psum_over("devices"), axis_env=[("devices", 3)])(tree)
    assert str(jaxpr).count(" psum") == 2
    assert psum_over(None)(tree) is tree


def test_normalize_makes_mean_0_and_variance_1_within_its_clip():
    x = BATCHES[2]["a"]
    moments = accumulate([x], [np.ones(x.shape[:2])])
    scaled = np.asarray(moments.normalize(x))
    np.testing.assert_allclose(scaled.mean((0, 1)), 0.0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 1)), 1.0, rtol=1e-4)
    assert (moments.normalize(jnp.full(2, 1e6)) == 10).all()
    assert (moments.normalize(jnp.full(2, -1e6), clip=3.0) == -3).all()


def test_normalize_is_the_identity_before_the_first_update_and_0_for_a_constant():
    assert Moments.zeros(jnp.zeros(())).normalize(jnp.float32(123.0)) == 123.0
    constant = accumulate([np.full((4, 3), 7.0, np.float32)], [np.ones((4, 3))])
    assert constant.normalize(jnp.float32(7.0)) == 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 13])
def test_iqm_is_the_mean_of_the_middle_half(n):
    """Brute force: each score four times over, so the quartiles fall between whole copies."""
    scores = np.random.default_rng(n).normal(size=n)
    copies = np.sort(np.repeat(scores, 4))
    assert iqm(scores) == pytest.approx(copies[n : 3 * n].mean(), rel=1e-12)


def test_iqm_ignores_outliers_and_refuses_nothing_at_all():
    assert iqm(np.array([1.0, 2.0, 3.0, 1e9])) == iqm(np.array([-1e9, 2.0, 3.0, 4.0])) == 2.5
    with pytest.raises(ValueError, match="no scores"):
        iqm(np.array([]))


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.normal(size=20), np.mean, level=0.9, samples=200)
        hits += low <= 0.0 <= high
    assert 78 <= hits <= 97  # percentile intervals of 20 scores are slightly narrow


def test_the_bootstrap_interval_is_deterministic_and_widens_with_its_level():
    scores = np.random.default_rng(1).normal(size=10)
    first, again = (bootstrap_interval(scores, samples=300) for _ in range(2))
    low, high = bootstrap_interval(scores, level=0.5, samples=300)
    assert first == again and first[0] < low < iqm(scores) < high < first[1]


def test_the_interval_of_a_difference_holds_it_and_turns_with_its_sides():
    rng = np.random.default_rng(1)
    a, b = rng.normal(5.0, 1.0, 30), rng.normal(3.0, 1.0, 30)
    low, high = difference_interval(a, b)
    assert low < iqm(a) - iqm(b) < high and low > 0.5
    turned = difference_interval(b, a)
    assert turned == pytest.approx((-high, -low), abs=0.1)
    assert difference_interval(np.ones(5), np.zeros(5)) == (1.0, 1.0)


def test_a_verdict_needs_an_interval_on_one_side_of_zero():
    cases = {(0.1, 0.2): "holds", (-0.2, -0.1): "does not hold", (-0.1, 0.2): "inconclusive"}
    assert {interval: verdict(interval) for interval in cases} == cases
