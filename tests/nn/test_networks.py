"""Recurrence forgets at resets, sequences equal steps, and actor and critic share nothing."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from probes import assert_same, differ

from jaxrl.nn.layers import ACTIVATIONS, GRU, MLP, ActorCritic, Context, Dense, Ensemble, orthogonal
from jaxrl.nn.product import plain, product

T, B, IN, WIDTH = 6, 3, 4, 5
KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(T, B, IN)).astype(np.float32)
RESET = np.zeros((T, B), bool)
RESET[3, 1] = True


@pytest.fixture(scope="module")
def gru():
    module, carry = GRU(WIDTH), jnp.ones((B, WIDTH))
    params = module.init(KEY, carry, X, RESET)
    return jax.jit(lambda carry, x, reset: module.apply(params, carry, x, reset)), carry


def test_a_gru_forgets_everything_before_a_reset(gru):
    apply, carry = gru
    _, out = apply(carry, X, RESET)
    other = X.copy()
    other[:3] += 1.0
    _, changed = apply(-carry, other, RESET)
    np.testing.assert_array_equal(out[3:, 1], changed[3:, 1])
    assert (out[3:, 0] != changed[3:, 0]).all()  # where nothing was reset it remembers


def test_a_reset_starts_from_zeros(gru):
    apply, carry = gru
    _, after = apply(carry, X[:1], np.ones((1, B), bool))
    _, fresh = apply(jnp.zeros_like(carry), X[:1], np.zeros((1, B), bool))
    assert_same(after, fresh)


def test_a_sequence_equals_its_steps_one_by_one(gru):
    apply, carry = gru
    last, out = apply(carry, X, RESET)
    for t in range(T):
        carry, step = apply(carry, X[t : t + 1], RESET[t : t + 1])
        np.testing.assert_allclose(step[0], out[t], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry, last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "memory",
    [{}, {"gru_width": WIDTH}, {"memory": partial(Context, 3, 4)}],
    ids=["none", "gru", "context"],
)
def test_actor_critic_over_a_sequence_equals_its_steps(memory):
    network = ActorCritic((8,), (8,), 2, "tanh", free_log_std=True, **memory)
    carry = network.init_carry(B)
    params = network.init(KEY, carry, X, X, RESET)
    apply = jax.jit(network.apply)
    _, outs, values = apply(params, carry, X, X, RESET)
    assert outs.shape == (T, B, 4) and values.shape == (T, B)
    for t in range(T):
        now = slice(t, t + 1)
        carry, out, value = apply(params, carry, X[now], X[now], RESET[now])
        np.testing.assert_allclose(out[0], outs[t], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[0], values[t], rtol=1e-5, atol=1e-6)


def test_actor_and_critic_each_see_their_own_observation_only():
    network = ActorCritic((8,), (8,), 2, "tanh", gru_width=WIDTH)
    carry = network.init_carry(B)
    params = network.init(KEY, carry, X, X[..., :2], RESET)
    nan = np.full_like(X, np.nan)
    _, out, value = network.apply(params, carry, X, nan[..., :2], RESET)
    assert np.isfinite(out).all() and np.isnan(value).all()
    _, out, value = network.apply(params, carry, nan, X[..., :2], RESET)
    assert np.isnan(out).all() and np.isfinite(value).all()


def test_a_new_policy_acts_near_0_and_its_log_std_is_a_parameter():
    network = ActorCritic((8,), (8,), 2, "tanh", free_log_std=True)
    params = network.init(KEY, (), X, X, RESET)
    params = {"params": params["params"] | {"log_std": jnp.array([-1.0, 2.0])}}
    _, out, _ = network.apply(params, (), X, X, RESET)
    assert np.abs(out[..., :2]).max() < 0.05
    np.testing.assert_array_equal(out[..., 2:], np.broadcast_to([-1.0, 2.0], (T, B, 2)))


def test_an_mlp_is_affine_maps_with_the_activation_between_and_none_after():
    for name in ("relu", "tanh"):
        mlp = MLP((7,), 2, name)
        params = mlp.init(KEY, X[0])
        one, two = params["params"]["Dense_0"], params["params"]["Dense_1"]
        hidden = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[name](
            X[0] @ one["kernel"] + one["bias"]
        )
        expected = hidden @ two["kernel"] + two["bias"]
        np.testing.assert_allclose(mlp.apply(params, X[0]), expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_makes_the_output_blind_to_the_scale_of_the_input():
    mlp = MLP((16,), 2, "tanh", layer_norm=True)
    params = mlp.init(KEY, X[0])
    np.testing.assert_allclose(
        mlp.apply(params, X[0]), mlp.apply(params, 100 * X[0]), rtol=1e-3, atol=1e-4
    )
    plain = MLP((16,), 2, "tanh")
    assert not np.allclose(*(plain.apply(plain.init(KEY, X[0]), s * X[0]) for s in (1, 100)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_keeps_the_signal_at_its_size(name):
    """Initial weights neither blow up nor kill an input of unit variance."""
    x = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    mlp = MLP((128,), 64, name)
    assert 0.2 < float(np.std(mlp.apply(mlp.init(KEY, x), x))) < 2.0


@pytest.mark.parametrize("batch", [(7,), (), (2, 5), (1100,), (0,)])
@pytest.mark.parametrize("sizes", [(3, 40), (40, 3), (40, 50), (3, 2)])
def test_a_product_has_the_gradients_of_jax(batch, sizes):
    k_x, k_kernel, k_g = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(k_x, (4, *batch, sizes[0]))  # of 4 runs side by side
    kernel = jax.random.normal(k_kernel, (4, *sizes))
    g = jax.random.normal(k_g, (4, *batch, sizes[1]))
    gradients = lambda f: jax.vmap(lambda x, w, g: jax.vjp(f, x, w)[1](g))(x, kernel, g)
    for ours, theirs in zip(gradients(product), gradients(jnp.matmul), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [(7,), (), (2, 5), (1100,)])
@pytest.mark.parametrize("sizes", [(3, 40), (40, 3), (40, 50)])
def test_in_bfloat16_factors_are_rounded_and_terms_are_not(batch, sizes):
    k_x, k_kernel, k_g = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(k_x, (4, *batch, sizes[0]))  # of 4 runs side by side
    kernel = jax.random.normal(k_kernel, (4, *sizes))
    g = jax.random.normal(k_g, (4, *batch, sizes[1]))
    f = lambda x, w, g: jax.vjp(product, x, w)[1](g)
    with jax.default_matmul_precision("bfloat16"):
        out = jax.jit(jax.vmap(product))(x, kernel)
        x_grad, kernel_grad = jax.jit(jax.vmap(f))(x, kernel, g)
    assert out.dtype == x_grad.dtype == kernel_grad.dtype == jnp.float32
    rounded = lambda a: np.asarray(a.astype(jnp.bfloat16), np.float64)
    x, kernel, g = rounded(x), rounded(kernel), rounded(g)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    close(out, np.einsum("r...i,rio->r...o", x, kernel))
    close(x_grad, np.einsum("r...o,rio->r...i", g, kernel))
    flat = lambda a: a.reshape(4, -1, a.shape[-1])
    close(kernel_grad, np.einsum("rbi,rbo->rio", flat(x), flat(g)))


@pytest.mark.parametrize("runs", [None, 3])
def test_a_loss_of_single_examples_has_no_kernel_gradient_of_each(runs, optimised):
    x, kernel = jax.random.normal(KEY, (50, 7)), jax.random.normal(KEY, (7, 11))
    loss = lambda f: lambda k: jax.vmap(lambda x: jnp.sin(f(x, k)).sum())(x).sum()
    gradient = lambda f: jax.grad(loss(f)) if runs is None else jax.vmap(jax.grad(loss(f)))
    kernel = kernel if runs is None else jnp.stack([kernel] * runs)
    np.testing.assert_allclose(gradient(product)(kernel), gradient(jnp.matmul)(kernel), rtol=1e-4)
    sizes = re.findall(r"tensor<([\dx]+)xf32>", jax.jit(gradient(product)).lower(kernel).as_text())
    assert max(np.prod([int(n) for n in size.split("x")]) for size in sizes) <= 50 * 11 * (
        runs or 1
    )


def test_factors_that_do_not_fit_are_refused_when_traced():
    with pytest.raises(TypeError, match="contracting"):
        jax.eval_shape(product, jnp.ones((5, 7)), jnp.ones((5, 3)))


def test_the_precision_is_that_of_tracing():
    x, kernel = jax.random.normal(KEY, (5, 7)), jax.random.normal(KEY, (7, 3))
    compute = jax.jit(product)
    exact = compute(x, kernel)
    with jax.default_matmul_precision("bfloat16"):
        rounded = compute(x, kernel)
        traced = jax.jit(product).trace(x, kernel)
    assert differ(rounded, exact)
    assert_same(traced.lower().compile()(x, kernel), rounded)
    assert_same(compute(x, kernel), exact)


def test_a_product_can_be_differentiated_forwards():
    x, kernel = jax.random.normal(KEY, (5, 7)), jax.random.normal(KEY, (7, 3))
    ours, theirs = (jax.jvp(f, (x, kernel), (2 * x, 3 * kernel)) for f in (product, jnp.matmul))
    assert_same(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_dense_layer_is_flax_s():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    ours, theirs = Dense(4), nn.Dense(4)
    params = theirs.init(jax.random.key(1), x)
    assert_same(ours.init(jax.random.key(1), x), params)
    assert_same(ours.apply(params, x), theirs.apply(params, x))


def test_every_member_of_an_ensemble_is_an_mlp_on_the_same_input():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    members = Ensemble(3, (8,), 2)
    params = members.init(jax.random.key(1), x)
    out = members.apply(params, x)
    assert out.shape == (3, 5, 2)
    for i in range(3):
        own = jax.tree.map(lambda p, i=i: p[i], params["params"]["VmapMLP_0"])
        alone = MLP((8,), 2, "relu").apply({"params": own}, x)
        np.testing.assert_allclose(out[i], alone, rtol=1e-5, atol=1e-6)


def test_inside_plain_a_network_is_traced_without_the_private_primitive():
    """Converters to other formats know JAX's own operations only."""
    network = MLP((4,), 2, "tanh")
    params = network.init(jax.random.key(0), jnp.ones((1, 3)))
    apply = lambda x: network.apply(params, x)
    x = jnp.arange(3.0)[None]
    assert "product" in str(jax.make_jaxpr(apply)(x))
    with plain():
        text = str(jax.make_jaxpr(lambda x: network.apply(params, x))(x))
        same = network.apply(params, x)
    assert "product" not in text and "dot_general" in text
    np.testing.assert_allclose(same, apply(x), rtol=1e-6)


# --- How weights start ---


@pytest.mark.parametrize("shape", [(24, 24), (5, 24), (24, 5), (1, 3)])
def test_orthogonal_weights_have_singular_values_of_the_scale_only(shape):
    for scale in (1.0, 0.01):
        kernels = jax.vmap(lambda key, s=scale: orthogonal(s)(key, shape))(jax.random.split(KEY, 3))
        values = np.linalg.svd(kernels, compute_uv=False)
        np.testing.assert_allclose(values, scale, rtol=1e-5)
        assert differ(kernels[0], kernels[1])


def test_orthogonal_weights_point_everywhere_alike():
    """Every entry of a random orthogonal 3 x 3 matrix has mean 0 and mean square 1/3."""
    kernels = jax.vmap(lambda key: orthogonal(1.0)(key, (3, 3)))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(kernels.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose((kernels**2).mean(0), 1 / 3, atol=0.03)


@pytest.mark.parametrize(
    "start, hidden, last, bias",
    [("lecun", 1.0, 1.0, 0.0), ("orthogonal", 2.0, 1.0, 0.0), ("torch", 1 / 3, 1 / 3, 1 / 3)],
)
def test_the_start_of_weights_sets_their_variance_times_fan_in(start, hidden, last, bias):
    module = MLP((64, 64), 64, "tanh", 0.5, start=start)
    params = module.init(KEY, jnp.zeros((1, 64)))["params"]
    for name, variance, scale in (("Dense_1", hidden, 1.0), ("Dense_2", last, 0.5)):
        spread = lambda x, scale=scale: 64 * float(np.mean(np.square(x))) / scale**2
        assert spread(params[name]["kernel"]) == pytest.approx(variance, rel=0.1)
        assert spread(params[name]["bias"]) == pytest.approx(bias, rel=0.5)
    still = MLP((64,), 64, "tanh", 0.0, start=start).init(KEY, jnp.zeros((1, 64)))["params"]
    assert not np.any(still["Dense_1"]["kernel"]) and not np.any(still["Dense_1"]["bias"])
