"""The written-out Cholesky solves against numpy's, and what `install` touches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.mjx import cholesky
from envs.mjx.cholesky import MAX_SIZE, cho_factor, cho_solve, install


def spd(rng, n, scale=1.0):
    """Symmetric, well conditioned up to the diagonal scaling `scale`. [n, n] float32"""
    x = rng.normal(size=(n, n))
    d = np.asarray(scale) ** rng.uniform(-1, 1, n)
    return (d[:, None] * (x @ x.T / n + np.eye(n)) * d).astype(np.float32)


@pytest.mark.parametrize("n", range(1, 25))
def test_factor_and_solve_are_numpys(n):
    a = spd(np.random.default_rng(n), n)
    b = np.arange(1.0, n + 1, dtype=np.float32)
    solve = lambda a, b: (cho_factor(a), cho_solve(cho_factor(a), b))
    (lower, _), x = jax.jit(solve)(a, b)
    exact = a.astype(np.float64)
    np.testing.assert_allclose(np.tril(lower), np.linalg.cholesky(exact), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x, np.linalg.solve(exact, b), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [3, 14])
def test_a_batch_is_its_members(n):
    rng = np.random.default_rng(0)
    a = np.stack([spd(rng, n) for _ in range(5)])
    b = rng.normal(size=(5, n)).astype(np.float32)
    solve = lambda a, b: cho_solve(cho_factor(a), b)
    together = jax.jit(jax.vmap(solve))(a, b)
    for i in range(5):
        np.testing.assert_allclose(together[i], np.linalg.solve(a[i], b[i]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [10.0, 1000.0])
def test_badly_scaled_matrices_solve_to_a_small_residual(scale):
    """Condition numbers up to 1e12: the solution may be off, its residual must not be."""
    rng = np.random.default_rng(1)
    a = spd(rng, 12, scale)
    b = rng.normal(size=12).astype(np.float32)
    x = np.asarray(jax.jit(lambda a, b: cho_solve(cho_factor(a), b))(a, b), np.float64)
    # Higham, Accuracy and Stability of Numerical Algorithms, section 10.1: the residual is
    # of the order n eps |a| |x|, entry by entry.
    bound = 12 * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(x) + np.abs(b))
    size = np.sqrt(np.diag(a))  # |L| |L^T| exceeds |a| by the scaling of rows at most
    bound += 12 * np.finfo(np.float32).eps * size * (size @ np.abs(x))
    assert (np.abs(a.astype(np.float64) @ x - b) < bound).all()


def test_gradients_flow():
    a = jnp.asarray(spd(np.random.default_rng(2), 4))
    b = jnp.ones(4)
    loss = lambda a, solve: jnp.sum(solve(a) ** 2)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    ours = gradient(a, lambda a: cho_solve(cho_factor(a), b))
    theirs = gradient(a, lambda a: jnp.linalg.inv(a) @ b)
    symmetric = lambda g: np.tril(g + g.T)  # only the lower triangle of `a` is read
    np.testing.assert_allclose(symmetric(ours), symmetric(theirs), rtol=1e-3, atol=1e-4)


def test_large_matrices_and_many_right_hand_sides_go_to_lapack(monkeypatch):
    calls = []
    real = jax.scipy.linalg
    for name in ("cho_factor", "cho_solve"):
        record = lambda *a, f=getattr(real, name), name=name, **k: calls.append(name) or f(*a, **k)
        monkeypatch.setattr(real, name, record)
    n = MAX_SIZE + 1
    a, b = spd(np.random.default_rng(3), n), np.ones(n, np.float32)
    x = cho_solve(cho_factor(a), b)
    assert calls == ["cho_factor", "cho_solve"]
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-2, atol=1e-3)
    small = spd(np.random.default_rng(4), 3)
    x = cho_solve(cho_factor(jnp.asarray(small)), jnp.eye(3))
    np.testing.assert_allclose(x, np.linalg.inv(small), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="on the CPU only")
def test_install_reaches_mjx_and_nobody_else():
    before = {name: getattr(jax.scipy.linalg, name) for name in ("cho_factor", "cho_solve")}
    install()
    install()
    for name, function in before.items():
        assert getattr(jax.scipy.linalg, name) is function
    from mujoco.mjx._src import forward, math, smooth, solver

    for module in (forward, smooth, solver):
        assert module.jax.scipy.linalg.cho_factor is cholesky.cho_factor
        assert module.jax.scipy.linalg.cho_solve is cholesky.cho_solve
        assert module.jax.scipy.linalg.solve is jax.scipy.linalg.solve
        assert module.jax.numpy is jnp
    assert math.jax is jax
