"""Errors name the field, its value and what is allowed."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl import checks


@dataclass
class Fields:
    x: Any
    y: Any = 1


@pytest.mark.parametrize("value", [0, -3, 1.0, True, "4", None, np.float32(2)])
def test_positive_wants_a_whole_number_from_1(value):
    with pytest.raises(ValueError) as error:
        checks.positive(Fields(1, value), "x", "y")
    assert str(error.value) == f"y={value!r}: must be a whole number, at least 1"


def test_positive_takes_whole_numbers_of_numpy_too():
    checks.positive(Fields(1, np.int64(7)), "x", "y")


def test_whole_has_a_bound_of_its_own():
    checks.whole(Fields(0), 0, "x")
    with pytest.raises(ValueError, match="^x=-1: must be a whole number, at least 0$"):
        checks.whole(Fields(-1), 0, "x")


def test_whole_numbers_are_those_of_an_int32():
    checks.whole(Fields(2**31 - 1), 0, "x")
    with pytest.raises(ValueError, match="^x=2147483648: must be a whole number, at most 2147483"):
        checks.whole(Fields(2**31), 0, "x")


@pytest.mark.parametrize("value", [16, [16], (16, 0), (16.0,), (True,), None])
def test_sizes_want_a_tuple_of_whole_numbers_from_1(value):
    checks.sizes(Fields(()), "x")
    with pytest.raises(ValueError) as error:
        checks.sizes(Fields((16, np.int64(8)), value), "x", "y")
    assert str(error.value) == f"y={value!r}: must be a tuple of whole numbers, at least 1 each"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e39, np.array([0.0, -math.inf])])
def test_finite_refuses_nan_and_infinity(value):
    with pytest.raises(ValueError) as error:
        checks.finite(Fields(-1e30, value), "x", "y")
    assert str(error.value) == f"y={value}: must be finite"


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, np.array([0.5, 2.0])])
def test_in_range_names_both_bounds(value):
    with pytest.raises(ValueError) as error:
        checks.in_range(Fields(0.5, value), 0.0, 1.0, "x", "y")
    assert str(error.value) == f"y={value}: must be between 0 and 1"


def test_in_range_without_an_upper_bound_says_at_least():
    with pytest.raises(ValueError, match=r"^x=-1: must be at least 0$"):
        checks.in_range(Fields(-1), 0.0, math.inf, "x")


@pytest.mark.parametrize("value", [0, -1.0, math.nan, np.array([1.0, 0.0])])
def test_above_excludes_its_bound(value):
    with pytest.raises(ValueError) as error:
        checks.above(Fields(value), 0.0, "x")
    assert str(error.value) == f"x={value}: must be above 0"


def test_one_of_lists_what_is_allowed():
    with pytest.raises(ValueError, match="^x='c': allowed are 'a', 'b'$"):
        checks.one_of(Fields("c"), "x", ("a", "b"))


@pytest.mark.parametrize("value", ["fast", [1.0, [2.0]], {}, 10**400])
@pytest.mark.parametrize("check", [checks.above, lambda c, low, x: checks.in_range(c, low, 1, x)])
def test_what_is_not_a_number_is_named(check, value):
    with pytest.raises(ValueError) as error:
        check(Fields(value), 0.0, "x")
    assert str(error.value) == f"x={value!r}: must be a number"


def test_bounds_themselves_arrays_and_allowed_values_pass():
    fields = Fields(0.0, np.array([0.0, 0.5, 1.0]))
    checks.in_range(fields, 0.0, 1.0, "x", "y")
    checks.above(Fields(math.inf, np.array([1e-9])), 0.0, "x", "y")
    checks.one_of(Fields("a"), "x", {"a": 1})


def test_tracers_pass_as_they_cannot_be_looked_at():
    def traced(x):
        checks.in_range(Fields(x), 0.0, 1.0, "x")
        checks.above(Fields(x), 0.0, "x")
        return x

    assert jax.jit(traced)(-5.0) == -5.0
