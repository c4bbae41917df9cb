"""A matrix product whose gradients are fast on a CPU, as a JAX primitive."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from envs.xla import not_inlined

_PLAIN = contextvars.ContextVar("plain", default=False)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x [*B, in] @ kernel [in, out] in float32, with gradients that are fast on a CPU.

    JAX's own gradients contract over a strided axis and return the kernel's gradient transposed,
    which is slow on a CPU. Under `jax.default_matmul_precision("bfloat16")` (scripts:
    --matmul-precision) both factors of every product are rounded to bfloat16 and the terms are
    summed in float32, in gradients, too. JAX itself does that on a TPU only.

    This is a JAX primitive and not a `custom_vjp`. If a loss is vmapped over examples, a
    `custom_vjp` would compute the kernel's gradient of every example before the sum.
    """
    in_bfloat16 = jax.config.jax_default_matmul_precision == "bfloat16"
    dtype = jnp.bfloat16 if in_bfloat16 else jnp.float32
    if _PLAIN.get():
        return _dot(x, kernel, dtype)
    return _product.bind(x, kernel, dtype=dtype, kernels=0)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """What is traced inside uses JAX's own dot, as converters to other formats need it.

    with plain():
        jaxpr = jax.make_jaxpr(policy.act)(policy.init_carry(), obs, key)
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def _dot(a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """Returns a [*B, k] @ b [k, n], as one flat batch: XLA on a CPU is far slower with more axes."""
    a, b, axes = a.astype(dtype), b.astype(dtype), (((1,), (0,)), ((), ()))
    out = jax.lax.dot_general(_flat(a), b, axes, preferred_element_type=jnp.float32)
    return out.reshape(*a.shape[:-1], b.shape[1])


def _flat(a: jax.Array) -> jax.Array:
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _transposed(a: jax.Array) -> jax.Array:
    """Returns a [m, n] transposed to [n, m] in memory.

    Without it XLA on a CPU transposes inside the product, recomputes the operand, or reads memory
    in the wrong order. Each is slow.
    """
    flat = lambda a: not_inlined(lambda a: a.reshape(-1), a)
    return not_inlined(lambda a: flat(a.T), a).reshape(a.shape[::-1])


def _x_gradient(g: jax.Array, kernel: jax.Array, dtype: Any) -> jax.Array:
    return _dot(g, _transposed(kernel.astype(dtype)), dtype)


def _kernel_gradient(g: jax.Array, x: jax.Array, dtype: Any) -> jax.Array:
    x, g = _flat(x.astype(dtype)), _flat(g.astype(dtype))
    if g.shape[1] < 32 < x.shape[1]:  # g is the smaller one to transpose
        return _transposed(_dot(_transposed(g), x, dtype))
    return _dot(_transposed(x), g, dtype)


# `product` of factors that share `kernels` leading axes: x [*kernels, *B, in] and kernel
# [*kernels, in, out].
_product = Primitive("product")


def _of_each(f: Callable[..., jax.Array], dtype: Any, kernels: int) -> Callable[..., jax.Array]:
    f = partial(f, dtype=dtype)
    for _ in range(kernels):
        f = jax.vmap(f)
    return f


def _compute(x: jax.Array, kernel: jax.Array, **how: Any) -> jax.Array:
    return _of_each(_dot, **how)(x, kernel)


def _shape(x: Any, kernel: Any, **how: Any) -> jax.core.ShapedArray:
    out = jax.eval_shape(partial(_compute, **how), x, kernel)
    return jax.core.ShapedArray(out.shape, out.dtype)


def _batch(args: tuple, axes: tuple, *, dtype: Any, kernels: int) -> tuple[jax.Array, int]:
    (x, kernel), (x_axis, kernel_axis) = args, axes
    if kernel_axis is None:  # the batched axis of x is one more axis of B
        x = jnp.moveaxis(x, x_axis, kernels)
        return _product.bind(x, kernel, dtype=dtype, kernels=kernels), kernels
    kernel = jnp.moveaxis(kernel, kernel_axis, 0)
    if x_axis is None:
        x = jnp.broadcast_to(x, (len(kernel), *x.shape))
    else:
        x = jnp.moveaxis(x, x_axis, 0)
    return _product.bind(x, kernel, dtype=dtype, kernels=kernels + 1), 0


_product.def_impl(jax.jit(_compute, static_argnames=("dtype", "kernels")))
_product.def_abstract_eval(_shape)
mlir.register_lowering(_product, mlir.lower_fun(_compute, multiple_results=False))
batching.primitive_batchers[_product] = _batch
ad.defbilinear(
    _product,
    lambda g, x, kernel, **how: _of_each(_x_gradient, **how)(g, kernel),
    lambda g, x, kernel, **how: _of_each(_kernel_gradient, **how)(g, x),
)
