"""Running moments equal NumPy's over everything seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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

update = jax.jit(Moments.update, static_argnames=("axis_name", "robust"))


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


@pytest.mark.parametrize(
    ("center", "spread"), [(1e7, 10.0), (123456.7, 0.1), (1e6, 1.0), (-1e4, 1.0)]
)
def test_a_mean_far_larger_than_the_spread_costs_no_digits(center, spread):
    """Metres of a map, encoder counts, seconds since the start."""
    rng = np.random.default_rng(0)
    x = (center + spread * rng.uniform(-1, 1, (20, 20, 64))).astype(np.float32)
    moments = accumulate(list(x), [np.ones((20, 64))] * 20)
    exact = x.astype(np.float64)
    assert moments.mean == pytest.approx(exact.mean(), abs=0.1 * spread)
    assert np.sqrt(moments.var) == pytest.approx(exact.std(), rel=0.01)
    scaled = np.asarray(moments.normalize(x))
    assert abs(scaled.mean()) < 0.15 and scaled.std() == pytest.approx(1.0, rel=0.02)


# --- Spikes ---


def spiky(updates, rows, share=0.0025, height=1e6):
    """[updates, rows, 32, 4] of 3 +- 0.1 and spikes."""
    rng = np.random.default_rng(0)
    x = (3 + 0.1 * rng.normal(size=(updates, rows, 32, 4))).astype(np.float32)
    return np.where(rng.random(x.shape) < share, np.float32(height), x)


@pytest.mark.parametrize("height", [1e6, -1e6, 1e20])
def test_rare_spikes_do_not_spoil_a_feature(height):
    """Simulators show a few; they would divide everything else by 50,000 for the rest of the run."""
    x = spiky(20, 32, height=height)
    moments = accumulate(list(x), [np.ones((32, 32))] * 20)
    np.testing.assert_allclose(moments.mean, 3.0, atol=0.02)
    np.testing.assert_allclose(np.sqrt(moments.var), 0.1, rtol=0.5)


def test_spikes_of_the_first_batch_alone_are_forgotten():
    x = spiky(1, 32)
    moments = accumulate(list(x), [np.ones((32, 32))])
    np.testing.assert_allclose(np.sqrt(moments.var), 0.1, rtol=1.0)


def test_a_feature_that_moves_far_beyond_its_beginning_is_followed():
    """A robot at rest learns to run: everything is far outside of what was seen at first."""
    rng = np.random.default_rng(0)
    at_rest = 1e-3 * rng.normal(size=(1, 16, 32, 2)).astype(np.float32)
    runs = 2 + 5 * rng.normal(size=(100, 16, 32, 2)).astype(np.float32)
    moments = accumulate([*at_rest, *runs], [np.ones((16, 32))] * 101)
    np.testing.assert_allclose(moments.mean, 2.0, atol=0.2)
    np.testing.assert_allclose(np.sqrt(moments.var), 5.0, rtol=0.05)


def test_without_robustness_every_value_counts_as_it_is():
    x = spiky(3, 8, share=0.01)
    moments = Moments.zeros(jnp.zeros(4))
    for batch in x:
        moments = update(moments, batch, jnp.ones((8, 32)), robust=False)
    exact = x.astype(np.float64).reshape(-1, 4)
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moments.var, exact.var(0), rtol=1e-4)


def test_devices_agree_on_the_first_batch_with_spikes():
    batch, weight = spiky(1, 2, share=0.05)[0], jnp.ones((2, 32))
    empty = Moments.zeros(jnp.zeros(4))
    half = lambda b, w: empty.update(b, w, axis_name="devices")
    halves = batch[:, None], weight[:, None]
    shared = jax.jit(jax.vmap(half, axis_name="devices"))(*halves)
    whole = update(empty, batch, weight)
    for i in range(2):
        assert_same(jax.tree.map(lambda x, i=i: x[i], shared), whole, rtol=1e-4)


def test_vmapped_runs_update_as_each_would_alone():
    """Also where one of them sees its first batch and another does not."""
    first, then = spiky(2, 4, share=0.05)
    runs = (
        Moments.zeros(jnp.zeros(4)),
        update(Moments.zeros(jnp.zeros(4)), first, jnp.ones((4, 32))),
    )
    both = jax.tree.map(lambda *x: jnp.stack(x), *runs)
    together = jax.jit(jax.vmap(lambda m: m.update(then, jnp.ones((4, 32)))))(both)
    for i, alone in enumerate(runs):
        expected = update(alone, then, jnp.ones((4, 32)))
        assert_same(jax.tree.map(lambda x, i=i: x[i], together), expected, rtol=1e-5)


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


@pytest.mark.parametrize("value", [0.0, 0.7, 7.0, -1e7])
def test_a_constant_element_is_only_centred(value):
    """Of a constant nothing says how much 0.001 is: dividing by its variance made it +-10."""
    constant = accumulate([np.full((64, 33), value, np.float32)] * 3, [np.ones((64, 33))] * 3)
    assert abs(constant.normalize(jnp.float32(value))) <= abs(value) * 1e-6
    beside = np.float32(value) + np.float32(max(1e-3, abs(value) * 3e-7))
    moved = beside - np.float32(value)
    assert constant.normalize(beside) == pytest.approx(moved, rel=0.2)


def test_flags_are_not_normalised():
    flags = np.ones((4, 3, 2), bool)
    moments = accumulate([{"mask": flags, "x": np.ones((4, 3))}], [np.ones((4, 3))])
    mask = moments.normalize({"mask": flags, "x": np.ones((4, 3))})["mask"]
    assert mask.dtype == bool and mask.all()
