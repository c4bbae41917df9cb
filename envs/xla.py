"""Hints to XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def not_inlined(f: Callable, *args) -> Any:
    """`f(*args)`, computed once and apart on a CPU, where XLA's fusion would compute it anew in
    each of its users."""
    if jax.default_backend() != "cpu":
        return f(*args)
    with set_xla_metadata(inlineable="false"):
        return jax.jit(f)(*args)
