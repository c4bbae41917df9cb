"""Hints and options for XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jaxlib
from jax.experimental.xla_metadata import set_xla_metadata


def not_inlined(f: Callable, *args) -> Any:
    """`f(*args)`, computed once and apart on a CPU, where XLA's fusion would compute it anew in
    each of its users."""
    if jax.default_backend() != "cpu":
        return f(*args)
    with set_xla_metadata(inlineable="false"):
        return jax.jit(f)(*args)


def seldom() -> dict[str, bool] | None:
    """Options of `jax.jit` and of `compile` for a program that runs seldom, such as an evaluation.

    On a CPU, XLA's older emitters compile it. They are faster, and the program that they make is slower.
    jaxlib 0.11 does not let one choose.
    """
    can = jaxlib.__version__.startswith("0.10.") and jax.default_backend() == "cpu"
    return {"xla_cpu_use_fusion_emitters": False} if can else None
