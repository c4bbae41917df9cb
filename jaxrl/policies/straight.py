"""Rewrites a traced function for converters: one list of plain operations, without calls and keys.

Converters know the common operations of `jax.lax`. They do not know calls with rules of their own, and
they replace JAX's random bits by random numbers of their own, so that a key means nothing to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.extend.random import threefry_prng_impl
from jax.interpreters.partial_eval import dce_jaxpr

from jaxrl.run.threefry import threefry_2x32

LONGEST = 64  # turns of a loop that is written out
CALLS = {  # primitives that call a function once, and the parameter that holds it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}
SAME = ("random_wrap", "random_unwrap", "random_clone", "copy", "copy_p", "optimization_barrier")
ONE = 0x3F800000  # the bits of 1.0
FRACTION = 0x7FFFFF  # the bits of a float32 behind the point


def straight(f: Callable[..., Any], *args: Any) -> ClosedJaxpr:
    """Traces `f` with arguments like `args`, arrays without keys, and returns the operations.

    Calls and loops of up to `LONGEST` turns are written out, and what depends on no argument is a
    constant. Random numbers are integer operations on the two words of a key, every bit as
    `jax.random` gives it.

    Raises:
      ValueError: the keys are not of the Threefry generator.
    """
    traced = jax.make_jaxpr(f)(*args)
    return jax.make_jaxpr(lambda *xs: _run(traced.jaxpr, traced.consts, xs))(*args)


def live(program: ClosedJaxpr, outputs: list[bool]) -> tuple[ClosedJaxpr, list[bool]]:
    """Returns the part of a program that these outputs need, and which inputs it reads.

    The part takes only the inputs that it reads.
    """
    jaxpr, read = dce_jaxpr(program.jaxpr, outputs)
    return ClosedJaxpr(jaxpr, program.consts), list(read)


def _run(jaxpr: Jaxpr, consts: Any, args: Any) -> list[Any]:
    """Evaluates `jaxpr` in the operations that `straight` allows. A key is its words, [..., 2]."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    known = {var: _words(x) for var, x in known.items()}
    made_by = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
    read = lambda var: var.val if isinstance(var, Literal) else known[var]
    for eqn in jaxpr.eqns:
        values = [read(var) for var in eqn.invars]
        if any(isinstance(x, jax.core.Tracer) for x in values):
            outs = _operation(eqn, values, made_by)
        else:
            with jax.ensure_compile_time_eval():
                outs = _operation(eqn, values, made_by)
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _operation(eqn: Any, values: list[Any], made_by: dict[Any, Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in SAME:
        return values
    if name in CALLS:
        inner = params[CALLS[name]]
        return _run(inner.jaxpr, inner.consts, values)
    if name == "scan" and params["length"] <= LONGEST:
        return _written_out(params, values)
    if name == "threefry2x32":
        return list(threefry_2x32(*values))
    if name in DRAWS:
        _check_generator(eqn.invars[0].aval.dtype)
        return [DRAWS[name](*values, params)]
    if name == "bitcast_convert_type" and _is_fraction(eqn, made_by):
        return [1.0 + (values[0] & np.uint32(FRACTION)).astype(jnp.float32) * np.float32(2.0**-23)]
    if name == "select_n" and not isinstance(values[0], jax.core.Tracer):
        which = np.unique(values[0])
        if len(which) == 1:  # such as `deterministic`: the other case need not be computed
            return [values[1 + int(which[0])]]
    apply = lambda *xs: eqn.primitive.bind(*xs, **params)
    if any(_is_key(var) for var in (*eqn.invars, *eqn.outvars)):  # moves keys
        # The words are an axis more, so the operation is done for each of the two.
        apply = jax.vmap(apply, [-1 if _is_key(var) else None for var in eqn.invars], -1)
    outs = apply(*values)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _written_out(params: dict[str, Any], values: list[Any]) -> list[Any]:
    """Every turn of a scan, one after another."""
    body, length = params["jaxpr"], params["length"]
    consts, carry, rows = _split(values, params["num_consts"], params["num_carry"])
    made = [None] * length
    for i in reversed(range(length)) if params["reverse"] else range(length):
        outs = _run(body.jaxpr, body.consts, [*consts, *carry, *(x[i] for x in rows)])
        carry, made[i] = outs[: len(carry)], outs[len(carry) :]
    return [*carry, *(jnp.stack(column) for column in zip(*made, strict=True))]


def _split(values: list[Any], first: int, second: int) -> tuple[list[Any], list[Any], list[Any]]:
    return values[:first], values[first : first + second], values[first + second :]


# --- Keys ---


def _is_key(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jax.dtypes.prng_key)


def _words(x: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        return x
    _check_generator(x.dtype)
    return jax.random.key_data(x)


def _check_generator(dtype: Any) -> None:
    if "fry" not in str(dtype):
        raise ValueError(f"the policy draws with {dtype}: only Threefry's keys can be exported")


def _each(f: Callable[..., Any], words: Any, *more: Any) -> Any:
    """`f` of every key in `words` [*B, 2], in the operations that `straight` allows."""
    for _ in range(words.ndim - 1):
        f = jax.vmap(f)
    traced = jax.make_jaxpr(f)(words, *more)
    (out,) = _run(traced.jaxpr, traced.consts, [words, *more])
    return out


DRAWS = {
    "random_split": lambda words, params: _each(
        lambda w: threefry_prng_impl.split(w, params["shape"]), words
    ),
    "random_bits": lambda words, params: _each(
        lambda w: threefry_prng_impl.random_bits(w, params["bit_width"], params["shape"]), words
    ),
    "random_fold_in": lambda words, data, params: _each(
        threefry_prng_impl.fold_in, words, jnp.asarray(data, jnp.uint32)
    ),
}


def _is_fraction(eqn: Any, made_by: dict[Any, Any]) -> bool:
    """Whether an operation reads random bits as a float in [1, 2), as `jax.random.uniform` does.

    ONNX has no operation that reads integers as floats in versions that are in use.
    """
    maker = made_by.get(eqn.invars[0])
    to_float = np.dtype(eqn.params["new_dtype"]) == np.float32
    if not to_float or maker is None or maker.primitive.name != "or":
        return False
    return any(isinstance(var, Literal) and int(var.val) == ONE for var in maker.invars)


def as_function(program: ClosedJaxpr) -> Callable[..., tuple[Any, ...]]:
    """Returns the function that a program is."""
    f = jaxpr_as_fun(program)
    return lambda *args: tuple(f(*args))
