"""Running moments equal NumPy's over everything seen."""

import jax
import jax.numpy as jnp
import numpy as np
from probes import assert_same

from jaxrl.ops.moments import Moments, psum_over

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
