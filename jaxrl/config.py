"""Settings of learners: floats are data, everything else is static, ranges are types.

    @config
    class Config:
        gamma: Share = 0.99  # a leaf of the pytree: a sweep is a `vmap` over it
        num_envs: Count = 32  # static: it shapes the program

        def rules(self) -> None:  # optional: what two fields must satisfy together
            at_most(self, "low", "high")

`check(config)` raises a ValueError that names the first bad field, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
from flax import struct

MOST = 2**31 - 1  # the largest int32


@dataclass(frozen=True)
class Whole:
    """Integers from `least` to the largest int32."""

    least: int

    def check(self, name: str, value: Any) -> None:
        if not _is_whole(value, self.least):
            too_large = _is_int(value) and value > MOST
            allowed = f"at most {MOST}" if too_large else f"at least {self.least}"
            raise ValueError(f"{name}={value!r}: must be a whole number, {allowed}")


@dataclass(frozen=True)
class Real:
    """Real numbers from `low` to `high`. Arrays are checked entry by entry, tracers not at all."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # `low` itself is not allowed
    finite: bool = True  # infinity is not allowed

    def check(self, name: str, value: Any) -> None:
        x = _number(name, value)
        if x is None:
            return
        if not ((x > self.low) if self.above else (x >= self.low) & (x <= self.high)).all():
            if self.above:
                allowed = f"above {self.low:g}"
            elif np.isinf(self.low) or np.isinf(self.high):
                allowed = "finite" if np.isinf(self.low) else f"at least {self.low:g}"
            else:
                allowed = f"between {self.low:g} and {self.high:g}"
            raise ValueError(f"{name}={value}: must be {allowed}")
        if self.finite and not np.isfinite(x).all():
            raise ValueError(f"{name}={value}: must be finite")


@dataclass(frozen=True)
class Widths:
    """Tuples of whole numbers >= 1, such as the widths of layers."""

    def check(self, name: str, value: Any) -> None:
        if not (isinstance(value, tuple) and all(_is_whole(x, 1) for x in value)):
            raise ValueError(f"{name}={value!r}: must be a tuple of whole numbers, at least 1 each")


@dataclass(frozen=True)
class Static:
    """Marks a float that shapes the program: it is static, and cannot be swept."""


Count = Annotated[int, Whole(1)]
Natural = Annotated[int, Whole(0)]
Sizes = Annotated[tuple[int, ...], Widths()]
Share = Annotated[float, Real(0.0, 1.0)]
FixedShare = Annotated[float, Real(0.0, 1.0), Static()]
Finite = Annotated[float, Real()]
Fixed = Annotated[float, Real(), Static()]
NonNegative = Annotated[float, Real(0.0)]
Positive = Annotated[float, Real(0.0, above=True)]
Limit = Annotated[float, Real(0.0, above=True, finite=False)]  # infinity: no limit
Duration = Annotated[float, Real(0.0, finite=False)]  # a number of steps; infinity: for ever


def config(cls: type) -> type:
    """A frozen pytree dataclass whose float fields are leaves and whose other fields are static.

    Raises:
      TypeError: a number, text or tuple without a type, which a dataclass would not count as a field.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    typed = cls.__dict__.get("__annotations__", {})
    for name, value in cls.__dict__.items():
        if isinstance(value, int | float | str | tuple) and name not in typed and name[0] != "_":
            raise TypeError(f"{cls.__name__}.{name} = {value!r}: has no type, such as NonNegative")
    for name in typed:
        default = cls.__dict__.get(name, dataclasses.MISSING)
        kind, *marks = typing.get_args(hints[name]) or (hints[name],)
        is_data = kind is float and Static() not in marks
        if not is_data and not isinstance(default, dataclasses.Field):
            setattr(cls, name, struct.field(pytree_node=False, default=default))
    return struct.dataclass(cls)


def numbers(settings: Any) -> list[str]:
    """The names of the fields that are data."""
    fields = dataclasses.fields(settings)
    return [f.name for f in fields if f.metadata.get("pytree_node", True)]


def check(settings: Any) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    if "__dataclass_fields__" not in vars(type(settings)):
        raise ValueError(f"{type(settings).__qualname__}: is not decorated with @config")
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        _check_field(field.name, getattr(settings, field.name), hints[field.name])
    if hasattr(settings, "rules"):
        settings.rules()


def at_most(settings: Any, low: str, high: str, strictly: bool = False) -> None:
    """Raises ValueError if the field `low` is above the field `high` (`strictly`: or equal)."""
    a, b = (_number(name, getattr(settings, name)) for name in (low, high))
    if a is None or b is None:
        return
    if not ((a < b) if strictly else (a <= b)).all():
        allowed = "below" if strictly else "at most"
        raise ValueError(
            f"{low}={getattr(settings, low)}: must be {allowed} {high}={getattr(settings, high)}"
        )


def _check_field(name: str, value: Any, hint: Any) -> None:
    kind, ranges = hint, ()
    if typing.get_origin(hint) is Annotated:
        kind, *ranges = typing.get_args(hint)
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if not any(type(value) is type(x) and value == x for x in allowed):
            raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")
    elif kind is float and not ranges:
        Real().check(name, value)
    elif kind is bool and not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r}: must be True or False")
    elif kind == tuple[str, ...] and not (
        isinstance(value, tuple) and all(isinstance(x, str) for x in value)
    ):
        raise ValueError(f"{name}={value!r}: must be a tuple of names")
    for allowed in ranges:
        if hasattr(allowed, "check"):
            allowed.check(name, value)


def _number(name: str, value: Any) -> np.ndarray | None:
    """`value` in float64 after rounding to float32; None for a tracer."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, str | bytes | bool | list | tuple):  # which NumPy would read, too
        raise ValueError(f"{name}={value!r}: must be a number")
    try:
        with np.errstate(over="ignore"):  # a number that float32 cannot hold counts as infinite
            return np.asarray(value, np.float32).astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r}: must be a number") from None


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_whole(value: Any, least: int) -> bool:
    return _is_int(value) and least <= value <= MOST
