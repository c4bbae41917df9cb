"""Small Cholesky solves written out in jnp, in place of LAPACK under MJX on a CPU.

MJX factors one small matrix per environment and substep. On a CPU jaxlib sends
the batch to LAPACK through its thread pool; with few cores two such calls at
once can wait for each other forever (`absl::BlockingCounter::Wait` under
`CholeskyFactorization::Kernel`), and even alone the calls cost more than the
arithmetic. `install` gives MJX's three modules that factor matrices (`smooth`,
`solver`, `forward`) a view of `jax` whose `scipy.linalg.cho_factor` and
`cho_solve` are the functions below. Nobody else's `jax` changes, and on any
other backend nothing changes at all.
"""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp

MAX_SIZE = 48  # beyond this the written-out program grows too long; LAPACK wins


def cho_factor(a: jax.Array, lower: bool = False, **_) -> tuple[jax.Array, bool]:
    """Lower Cholesky factor of one positive definite matrix, by columns.

    Same contract as `jax.scipy.linalg.cho_factor` up to which triangle holds the
    factor, which only `cho_solve` reads. a: [n, n].
    """
    if a.shape[-1] > MAX_SIZE:
        return jax.scipy.linalg.cho_factor(a, lower=True)
    return _factor(a), True


@jax.jit  # a function for XLA, too, where the batch is the last axis
def _factor(a: jax.Array) -> jax.Array:
    n = a.shape[-1]
    columns = []
    for j in range(n):
        column = a[j:, j]
        for k in range(j):
            column = column - columns[k][j - k :] * columns[k][j - k]
        columns.append(column * jax.lax.rsqrt(column[0]))
    rows = [jnp.concatenate([jnp.zeros(j, a.dtype), c]) for j, c in enumerate(columns)]
    return jnp.stack(rows, axis=1)


def cho_solve(factor: tuple[jax.Array, bool], b: jax.Array, **_) -> jax.Array:
    """Solves `A x = b` given `cho_factor(A)`. b: [n]."""
    c, _ = factor
    if c.shape[-1] > MAX_SIZE or b.ndim != 1:
        return jax.scipy.linalg.cho_solve((c, True), b)
    return _solve(c, b)


@jax.jit
def _solve(c: jax.Array, b: jax.Array) -> jax.Array:
    n = c.shape[-1]
    y = []
    rest = b
    for j in range(n):  # forward substitution, by columns
        y.append(rest[0] / c[j, j])
        rest = rest[1:] - c[j + 1 :, j] * y[j]
    x: list[jax.Array] = []
    rest = jnp.stack(y)
    for j in reversed(range(n)):  # back substitution, by columns of the transpose
        x.append(rest[j] / c[j, j])
        rest = rest[:j] - c[j, :j] * x[-1]
    return jnp.stack(x[::-1])


class Namespace(types.SimpleNamespace):
    """A view of the module `parent` with some attributes replaced."""

    def __init__(self, parent, **replaced):
        super().__init__(**replaced)
        self._parent = parent

    def __getattr__(self, name):
        return getattr(self._parent, name)


def install() -> None:
    """Points MJX at these functions. CPU only; safe to call again."""
    if jax.default_backend() != "cpu":
        return
    from mujoco.mjx._src import forward, smooth, solver

    linalg = Namespace(jax.scipy.linalg, cho_factor=cho_factor, cho_solve=cho_solve)
    view = Namespace(jax, scipy=Namespace(jax.scipy, linalg=linalg))
    for module in (forward, smooth, solver):
        module.jax = view
