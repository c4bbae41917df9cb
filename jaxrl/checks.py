"""Errors that name the field, its value and what is allowed.

Fields may hold arrays (a sweep), all of whose values are checked, or tracers, which
cannot be and are not.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

MOST = 2**31 - 1  # what an int32 holds


def _values(config: Any, name: str) -> np.ndarray | None:
    value = getattr(config, name)
    if isinstance(value, jax.core.Tracer):
        return None
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is not finite to us
            return np.asarray(value, np.float32).astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r}: must be a number") from None


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return _is_int(value) and least <= value <= MOST


def whole(config: Any, least: int, *names: str) -> None:
    """Whole numbers >= `least` that an int32 holds."""
    for name in names:
        value = getattr(config, name)
        if not _is_whole(value, least):
            too_large = _is_int(value) and value > MOST
            allowed = f"at most {MOST}" if too_large else f"at least {least}"
            raise ValueError(f"{name}={value!r}: must be a whole number, {allowed}")


def positive(config: Any, *names: str) -> None:
    """Whole numbers >= 1."""
    whole(config, 1, *names)


def sizes(config: Any, *names: str) -> None:
    """Tuples of whole numbers >= 1, such as the widths of layers."""
    for name in names:
        value = getattr(config, name)
        if not (isinstance(value, tuple) and all(_is_whole(x, 1) for x in value)):
            raise ValueError(f"{name}={value!r}: must be a tuple of whole numbers, at least 1 each")


def finite(config: Any, *names: str) -> None:
    for name in names:
        x = _values(config, name)
        if x is not None and not np.isfinite(x).all():
            raise ValueError(f"{name}={getattr(config, name)}: must be finite")


def in_range(config: Any, low: float, high: float, *names: str) -> None:
    for name in names:
        x = _values(config, name)
        if x is not None and not ((x >= low) & (x <= high)).all():
            bounds = f"at least {low:g}" if np.isinf(high) else f"between {low:g} and {high:g}"
            raise ValueError(f"{name}={getattr(config, name)}: must be {bounds}")


def above(config: Any, low: float, *names: str) -> None:
    for name in names:
        x = _values(config, name)
        if x is not None and not (x > low).all():
            raise ValueError(f"{name}={getattr(config, name)}: must be above {low:g}")


def ordered(config: Any, low: str, high: str, strictly: bool = False) -> None:
    """The field `low` is not above `high`; `strictly`: it is below."""
    a, b = _values(config, low), _values(config, high)
    if a is None or b is None:
        return
    if not ((a < b) if strictly else (a <= b)).all():
        allowed = "below" if strictly else "at most"
        raise ValueError(
            f"{low}={getattr(config, low)}: must be {allowed} {high}={getattr(config, high)}"
        )


def one_of(config: Any, name: str, allowed) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")
