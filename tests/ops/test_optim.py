"""Steps of networks: any optax transformation, targets, and gradients that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import assert_same

from jaxrl.ops import optim

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([0.3, -0.1]), "b": jnp.array(2.0)}


def test_the_first_adam_step_moves_every_entry_by_the_rate_against_its_gradients_sign():
    new = optim.net(PARAMS).step(GRADS, 0.1)
    np.testing.assert_allclose(new.params["w"], [0.9, -1.9], rtol=1e-5)
    np.testing.assert_allclose(new.params["b"], 0.4, rtol=1e-5)


def test_weight_decay_is_apart_from_the_gradient():
    plain = optim.net(PARAMS).step(GRADS, 0.1)
    decayed = optim.net(PARAMS).step(GRADS, 0.1, weight_decay=0.5)
    moved = jax.tree.map(lambda a, b: a - b, plain.params, decayed.params)
    np.testing.assert_allclose(moved["w"], 0.1 * 0.5 * PARAMS["w"], rtol=1e-4)


def test_any_transformation_takes_its_rate_from_outside():
    tx = optax.trace(decay=0.9)
    net = optim.net(PARAMS, tx=tx)
    for _ in range(2):
        net = net.step(GRADS, 0.1, tx=tx)
    expected = jax.tree.map(lambda p, g: p - 0.1 * (g + 1.9 * g), PARAMS, GRADS)
    assert_same(net.params, expected, rtol=1e-5)


def test_a_target_follows_by_tau():
    net = optim.net(PARAMS, target=True).replace(params={"w": jnp.ones(2), "b": jnp.array(1.5)})
    target = net.follow(0.25).target
    np.testing.assert_allclose(target["w"], [1.0, -1.25])
    np.testing.assert_allclose(target["b"], 0.75)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_moves_nothing_and_is_counted(bad):
    net = optim.net(PARAMS).step(GRADS, 0.1)
    after = net.step(GRADS | {"b": jnp.asarray(bad)}, 0.1, weight_decay=0.5)
    assert_same(after.params, net.params)
    assert_same(after.opt.mu, jax.tree.map(lambda x: 0.9 * x, net.opt.mu), rtol=1e-6)
    assert int(after.skipped) == 1 and int(net.skipped) == 0
    assert int(optim.skipped({"actor": net, "critic": after})) == 1
    moved = jax.tree.leaves(jax.tree.map(jnp.subtract, after.step(GRADS, 0.1).params, net.params))
    assert all((np.abs(x) > 0.05).all() and np.isfinite(x).all() for x in moved)


def test_a_gradient_of_a_large_array_that_is_not_finite_counts_as_0_by_itself():
    large = jnp.ones(optim.SMALL + 1)
    grads = GRADS | {"large": large.at[:3].set(jnp.array([jnp.nan, -jnp.inf, 1e30]))}
    after = optim.net(PARAMS | {"large": large}).step(grads, 0.1)
    np.testing.assert_allclose(after.params["large"][:3], 1.0)
    np.testing.assert_allclose(after.params["large"][3:], 0.9, rtol=1e-5)
    for moments in (after.opt.mu, after.opt.nu):
        assert (np.asarray(moments["large"][:3]) == 0).all() and moments["large"][3] > 0
    assert int(after.skipped) == 0


def test_gradients_clipped_apart_have_a_norm_each_and_keep_their_direction():
    grads = {"long": {"w": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}, "short": jnp.array([0.3])}
    clipped, largest = optim.clip_apart(grads, 0.5)
    np.testing.assert_allclose(clipped["long"]["w"], [0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["long"]["b"], 0.4, rtol=1e-6)
    np.testing.assert_allclose(clipped["short"], [0.3], rtol=1e-6)
    assert largest == 5.0
