"""`jax.vmap` for programs of many small arrays on a CPU, such as a step of MJX.

`jax.vmap` puts the batch first: an array of 3 numbers becomes [N, 3], and a CPU's vector units, 8
or 16 numbers wide, stay idle. Here the batch is last, [3, N], so each of a robot's few numbers is one
long row. We trace `f` for one instance and re-interpret its jaxpr with a trailing batch axis. Two more
things matter as much:

- XLA's fusion on a CPU recomputes a small product in each of its users. Products and long jitted
  functions (the Cholesky factor and its solve) become functions that XLA does not inline, so each is
  computed once.
- Indices that are known at trace time become slices, not gathers.

A whole control step of hopper takes 0.43 of its time with `jax.vmap`
(experiments/bench/physics.py).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from envs.xla import not_inlined

MIN_TERMS = 2  # of a product that is not inlined
MAX_TERMS = 32  # longer sums are cut
MIN_EQUATIONS = 50  # of a jitted function that is not inlined

Values = Sequence[Any]  # arrays; the batched ones have the batch as their last axis
Flags = Sequence[bool]  # which are


def vmap(f: Callable, flags: Flags) -> Callable:
    """As `jax.vmap`, with axis 0 of every output and of the inputs' leaves that `flags` name.

    Args:
      f: a function for one instance, without collectives.
      flags: for each leaf of the arguments, whether it has the batch.
    """

    def batched(*args):
        leaves, treedef = jax.tree.flatten(args)
        size = next(x.shape[0] for x, b in zip(leaves, flags, strict=True) if b)
        one = [
            jax.ShapeDtypeStruct(x.shape[1:] if b else x.shape, x.dtype)
            for x, b in zip(leaves, flags, strict=True)
        ]
        closed, out = jax.make_jaxpr(f, return_shape=True)(*jax.tree.unflatten(treedef, one))
        values = [jnp.moveaxis(x, 0, -1) if b else x for x, b in zip(leaves, flags, strict=True)]
        values = _full(closed.jaxpr.outvars, *_run(closed, values, flags, size), size)
        values = [jnp.moveaxis(x, -1, 0) for x in values]
        return jax.tree.unflatten(jax.tree.structure(out), values)

    return batched


def _run(closed: core.ClosedJaxpr, values: Values, flags: Flags, size: int) -> tuple[list, list]:
    """The outputs of a traced function for a batch of `size`, and which of them are batched."""
    known = dict(zip(closed.jaxpr.constvars, ((c, False) for c in closed.consts), strict=True))
    known |= zip(closed.jaxpr.invars, zip(values, flags, strict=True), strict=True)

    def read(atom):
        if isinstance(atom, core.Literal):
            return np.asarray(atom.val, atom.aval.dtype), False
        return known[atom]

    for eqn in closed.jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        outs, out_flags = _apply(eqn, [x for x, _ in inputs], [b for _, b in inputs], size)
        known |= zip(eqn.outvars, zip(outs, out_flags, strict=True), strict=True)
    outputs = [read(atom) for atom in closed.jaxpr.outvars]
    return [x for x, _ in outputs], [b for _, b in outputs]


def _apply(eqn, values: Values, flags: Flags, size: int) -> tuple[Sequence, Flags]:
    name, params = eqn.primitive.name, eqn.params
    for inner in ("jaxpr", "call_jaxpr", "call"):
        if name in CALLS and inner in params:
            return _call(params[inner], values, flags, size)
    if not any(flags):
        outs = _evaluate(eqn, values)
        return outs, [False] * len(outs)
    if name in RULES:
        outs = RULES[name](eqn, values, flags, size)
    elif name in ELEMENTWISE:
        shape = eqn.outvars[0].aval.shape
        same = [_spread(x, b, shape, size) for x, b in zip(values, flags, strict=True)]
        outs = eqn.primitive.bind(*same, **params)
    elif name in SAME_AXES:
        outs = eqn.primitive.bind(*_full(eqn.invars, values, flags, size), **params)
    else:
        outs = _any_other(eqn, values, flags, size)
    outs = outs if eqn.primitive.multiple_results else [outs]
    return outs, [True] * len(outs)


def _call(closed, values: Values, flags: Flags, size: int) -> tuple[list, list]:
    """A function of some length is one for XLA, too; a short one is written out."""
    if len(closed.jaxpr.eqns) < MIN_EQUATIONS or not any(flags):
        return _run(closed, values, flags, size)
    out_flags: list[bool] = []

    def f(*values):
        outs, out_flags[:] = _run(closed, values, flags, size)
        return outs

    return not_inlined(f, *values), out_flags


def _evaluate(eqn, values: Values) -> Sequence:
    """An operation without a batch; at once, with NumPy, if all is known and NumPy can."""
    if eqn.primitive.name in KNOWN and all(isinstance(x, np.ndarray) for x in values):
        out = KNOWN[eqn.primitive.name](eqn.params, *values)
        return [np.asarray(out, eqn.outvars[0].aval.dtype)]
    outs = eqn.primitive.bind(*values, **eqn.params)
    return outs if eqn.primitive.multiple_results else [outs]


def _spread(x, batched: bool, shape: Sequence[int], size: int) -> jax.Array:
    """[*shape, size], of a value with or without a batch that has `shape`, ones in it, or none."""
    rank = jnp.ndim(x) - batched
    axes = range(len(shape) - rank, len(shape))
    return lax.broadcast_in_dim(x, (*shape, size), (*axes, *[len(shape)] * batched))


def _full(atoms, values: Values, flags: Flags, size: int) -> list[jax.Array]:
    return [_spread(x, b, a.aval.shape, size) for a, x, b in zip(atoms, values, flags, strict=True)]


def _any_other(eqn, values: Values, flags: Flags, size: int):
    axes = [-1 if batched else None for batched in flags]
    return jax.vmap(lambda *x: eqn.primitive.bind(*x, **eqn.params), axes, -1)(*values)


def _broadcast_in_dim(eqn, values, flags, size):
    shape, axes = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    return lax.broadcast_in_dim(values[0], (*shape, size), (*axes, len(shape)))


def _slice(eqn, values, flags, size):
    p = eqn.params
    strides = p["strides"] and (*p["strides"], 1)
    return lax.slice(values[0], (*p["start_indices"], 0), (*p["limit_indices"], size), strides)


def _dynamic_slice(eqn, values, flags, size):
    if any(flags[1:]):
        return _any_other(eqn, values, flags, size)
    return lax.dynamic_slice(values[0], (*values[1:], 0), (*eqn.params["slice_sizes"], size))


def _pow(eqn, values, flags, size):
    """Of MuJoCo's impedance the power is nearly always 2, and `pow` slow."""
    shape = eqn.outvars[0].aval.shape
    x, y = (_spread(x, b, shape, size) for x, b in zip(values, flags, strict=True))
    if flags[1]:
        return lax.pow(x, y)
    return lax.cond((values[1] == 2).all(), lambda: x * x, lambda: lax.pow(x, y))


def _dot_general(eqn, values, flags, size):
    """A sum of elementwise products of [batch.., left.., right.., size]."""
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left, right = (atom.aval.shape for atom in eqn.invars)
    left_free = [a for a in range(len(left)) if a not in (*left_sum, *left_batch)]
    right_free = [a for a in range(len(right)) if a not in (*right_sum, *right_batch)]
    num_terms, out = math.prod(left[a] for a in left_sum), eqn.outvars[0].aval

    def arrange(x, batched, order, ones, where):
        """[terms, batch.., left.. or ones, right.. or ones, size or 1]"""
        x = lax.transpose(x.astype(out.dtype), (*order, *[len(order)] * batched))
        shape = [num_terms, *x.shape[len(left_sum) : len(order)], size if batched else 1]
        return lax.reshape(x, (*shape[:where], *[1] * ones, *shape[where:]))

    def product(x, y):
        x = arrange(x, flags[0], (*left_sum, *left_batch, *left_free), len(right_free), -1)
        order, where = (*right_sum, *right_batch, *right_free), 1 + len(left_batch)
        y = arrange(y, flags[1], order, len(left_free), where)
        starts = range(0, num_terms, MAX_TERMS)
        parts = [(x[i : i + MAX_TERMS], y[i : i + MAX_TERMS]) for i in starts]
        return sum_(*parts[0]) if len(parts) == 1 else add(not_inlined(sum_, *p) for p in parts)

    add = lambda terms: functools.reduce(operator.add, terms)
    sum_ = lambda x, y: add(x[i] * y[i] for i in range(len(x)))
    if num_terms == 0:
        return jnp.zeros((*out.shape, size), out.dtype)
    return product(*values) if num_terms < MIN_TERMS else not_inlined(product, *values)


def _gather(eqn, values, flags, size):
    numbers, (x, indices) = eqn.params["dimension_numbers"], values
    if flags[1] or numbers.operand_batching_dims:
        return _any_other(eqn, values, flags, size)
    shape, sizes, out = eqn.invars[0].aval.shape, eqn.params["slice_sizes"], eqn.outvars[0].aval
    axis = numbers.start_index_map[0]
    whole = (*shape[:axis], 1, *shape[axis + 1 :]) == tuple(sizes)
    single = tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == (axis,)
    if isinstance(indices, np.ndarray) and single and whole and indices.size:
        rows = indices.reshape(-1)
        if rows.min() >= 0 and rows.max() < shape[axis]:
            ends = [*np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)]
            starts = [0, *ends[:-1]]
            runs = [(int(rows[i]), int(rows[j - 1]) + 1) for i, j in zip(starts, ends, strict=True)]
            taken = lax.concatenate([lax.slice_in_dim(x, *run, axis=axis) for run in runs], axis)
            many = indices.shape[:-1]
            taken = lax.reshape(taken, (*shape[:axis], *many, *shape[axis + 1 :], size))
            offset = [*range(axis), *range(axis + len(many), taken.ndim - 1)]
            order = dict(zip(numbers.offset_dims, offset, strict=True))
            rest = iter(range(axis, axis + len(many)))
            order = [order[d] if d in order else next(rest) for d in range(out.ndim)]
            return lax.transpose(taken, (*order, out.ndim))
    keep = {k: v for k, v in eqn.params.items() if k not in ("dimension_numbers", "slice_sizes")}
    numbers = numbers._replace(offset_dims=(*numbers.offset_dims, out.ndim))
    return eqn.primitive.bind(
        x, indices, dimension_numbers=numbers, slice_sizes=(*sizes, size), **keep
    )


def _scatter(eqn, values, flags, size):
    numbers = eqn.params["dimension_numbers"]
    if flags[1] or numbers.operand_batching_dims:
        return _any_other(eqn, values, flags, size)
    x, updates = _full(eqn.invars[::2], values[::2], flags[::2], size)
    window = (*numbers.update_window_dims, updates.ndim - 1)
    params = eqn.params | {"dimension_numbers": numbers._replace(update_window_dims=window)}
    return eqn.primitive.bind(x, values[1], updates, **params)


def _cond(eqn, values, flags, size):
    """A branch is computed if any instance takes it, unlike `jax.vmap`'s."""
    outvars = eqn.outvars

    def branch(closed):
        return lambda *x: _full(outvars, *_run(closed, x, flags[1:], size), size)

    branches = [branch(closed) for closed in eqn.params["branches"]]
    which, *operands = values
    if not flags[0]:
        return lax.switch(which, branches, *operands)
    which = which.astype(jnp.int32)
    unused = [jnp.zeros((*v.aval.shape, size), v.aval.dtype) for v in outvars]
    cases = [
        lax.cond((which == i).any(), branch, lambda *_: unused, *operands)
        for i, branch in enumerate(branches)
    ]
    return [
        lax.select_n(_spread(which, True, v.aval.shape, size), *case)
        for v, case in zip(outvars, zip(*cases, strict=True), strict=True)
    ]


def _scan(eqn, values, flags, size):
    closed = eqn.params["jaxpr"]
    stacked = lambda atom, of_a_step: atom.aval.ndim > of_a_step.aval.ndim
    num_carry = len(eqn.outvars) - sum(map(stacked, eqn.outvars, closed.jaxpr.outvars))
    num_consts = len(values) - num_carry - sum(map(stacked, eqn.invars, closed.jaxpr.invars))
    split = lambda x: (x[:num_consts], x[num_consts:][:num_carry], x[num_consts + num_carry :])
    (consts, carry, xs), (const_flags, carry_flags, x_flags) = split(values), split(flags)
    in_flags = [*const_flags, *[True] * num_carry, *x_flags]

    def body(carry, x):
        outs = _run(closed, [*consts, *carry, *x], in_flags, size)
        outs = _full(closed.jaxpr.outvars, *outs, size)
        return outs[:num_carry], outs[num_carry:]

    carry = _full(split(eqn.invars)[1], carry, carry_flags, size)
    keep = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(body, carry, list(xs), **keep)
    return [*carry, *ys]


def _while(eqn, values, flags, size):
    """Until all are done; the done ones keep what they have."""
    p = eqn.params
    num_cond, num_consts = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    cond_consts, consts, carry = values[:num_cond], values[num_cond:num_consts], values[num_consts:]
    on = [True] * len(carry)

    def going(carry):
        outs = _run(p["cond_jaxpr"], [*cond_consts, *carry], [*flags[:num_cond], *on], size)
        return _spread(outs[0][0], outs[1][0], (), size)

    def body(carry):
        outs = _run(p["body_jaxpr"], [*consts, *carry], [*flags[num_cond:num_consts], *on], size)
        outs, live = _full(eqn.outvars, *outs, size), going(carry)
        return [
            lax.select(_spread(live, True, x.shape[:-1], size), y, x)
            for x, y in zip(carry, outs, strict=True)
        ]

    carry = _full(eqn.outvars, carry, flags[num_consts:], size)
    return lax.while_loop(lambda carry: going(carry).any(), body, carry)


CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call")
ELEMENTWISE = frozenset(
    """abs acos add and asin atan atan2 cbrt ceil clamp convert_element_type copy cos div eq erf exp
    exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or
    reduce_precision rem round rsqrt select_n sign sin sqrt square sub tan tanh xor""".split()
)
# Whose axes count from the front, so that one more at the end changes nothing.
SAME_AXES = frozenset(
    """argmax argmin concatenate cummax cummin cumprod cumsum reduce_and reduce_max reduce_min
    reduce_or reduce_prod reduce_sum rev sort split squeeze stack""".split()
)
RULES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "cond": _cond,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pow": _pow,
    "reshape": lambda e, x, b, n: lax.reshape(x[0], (*e.params["new_sizes"], n)),
    "scan": _scan,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "scatter-mul": _scatter,
    "slice": _slice,
    "transpose": lambda e, x, b, n: lax.transpose(x[0], (*e.params["permutation"], x[0].ndim - 1)),
    "while": _while,
}
# What turns an index into the form that `gather` takes.
KNOWN: dict[str, Callable] = {
    "add": lambda p, x, y: x + y,
    "lt": lambda p, x, y: x < y,
    "select_n": lambda p, which, *cases: np.choose(which, cases),
    "convert_element_type": lambda p, x: x.astype(p["new_dtype"]),
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "squeeze": lambda p, x: x.squeeze(p["dimensions"]),
    "concatenate": lambda p, *x: np.concatenate(x, p["dimension"]),
    "broadcast_in_dim": lambda p, x: np.broadcast_to(
        np.expand_dims(
            x, [a for a in range(len(p["shape"])) if a not in p["broadcast_dimensions"]]
        ),
        p["shape"],
    ),
}
