"""A program of plain operations as data, which `run_policy.py` evaluates with NumPy alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxrl.policies.run_policy import OPERATIONS

PARAMS = {  # of an operation in `OPERATIONS`: which of its parameters in JAX it needs
    "argmax": ("axes", "index_dtype"),
    "argmin": ("axes", "index_dtype"),
    "bitcast_convert_type": ("new_dtype",),
    "broadcast_in_dim": ("shape", "broadcast_dimensions"),
    "concatenate": ("dimension",),
    "convert_element_type": ("new_dtype",),
    "cumsum": ("axis", "reverse"),
    "dot_general": ("dimension_numbers",),
    "dynamic_slice": ("slice_sizes",),
    "expand_dims": ("dimensions",),
    "integer_pow": ("y",),
    "iota": ("dtype", "shape", "dimension"),
    "reduce_and": ("axes",),
    "reduce_max": ("axes",),
    "reduce_min": ("axes",),
    "reduce_or": ("axes",),
    "reduce_prod": ("axes",),
    "reduce_sum": ("axes",),
    "reshape": ("new_sizes",),
    "rev": ("dimensions",),
    "slice": ("start_indices", "limit_indices", "strides"),
    "split": ("sizes", "axis"),
    "squeeze": ("dimensions",),
    "stack": ("axis",),
    "transpose": ("permutation",),
    "unstack": ("axis",),
}


def numpy_form(call: Callable[..., tuple], specs: Sequence[jax.ShapeDtypeStruct]) -> bytes:
    """Returns the program of `call` as an `.npz`: its constants, and its operations as JSON.

    Args:
      call: plain operations on arrays like `specs`, such as `Exported.call`.

    Raises:
      ValueError: an operation or a type of numbers that `run_policy.py` does not have.
    """
    traced = jax.make_jaxpr(call)(*specs)
    number: dict[Any, int] = {}  # of a variable: where its value is kept
    constants: dict[int, np.ndarray] = {}
    new = lambda var: number.setdefault(var, len(number))

    def read(var: Any) -> int:
        if not isinstance(var, Literal):
            return number[var]
        where = new(object())
        constants[where] = _known(np.asarray(var.val, var.aval.dtype))
        return where

    inputs = [new(var) for var in traced.jaxpr.invars]
    for var, x in zip(traced.jaxpr.constvars, traced.consts, strict=True):
        constants[new(var)] = _known(np.asarray(x))
    steps = []
    for eqn in traced.jaxpr.eqns:
        name = eqn.primitive.name
        if name not in OPERATIONS:
            raise ValueError(f"run_policy.py has no operation {name!r}")
        params = {key: _plain(eqn.params[key]) for key in PARAMS.get(name, ())}
        steps.append([name, [*map(read, eqn.invars)], params, [*map(new, eqn.outvars)]])
    outputs = [*map(read, traced.jaxpr.outvars)]
    program = {"inputs": inputs, "constants": [*constants], "steps": steps, "outputs": outputs}
    file = io.BytesIO()
    arrays = {f"c{i}": x for i, x in enumerate(constants.values())}
    np.savez(file, program=np.array(json.dumps(program)), **arrays)
    return file.getvalue()


def _known(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "fiub":  # bfloat16 is of kind V
        raise ValueError(f"run_policy.py has no numbers of type {x.dtype}")
    return x


def _plain(x: Any) -> Any:
    """Parameters of an operation as JSON has them."""
    if isinstance(x, (list, tuple)):
        return [_plain(y) for y in x]
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    if isinstance(x, np.integer):
        return int(x)
    _known(np.zeros(0, x))
    return np.dtype(x).name
