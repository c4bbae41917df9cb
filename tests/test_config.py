"""Settings: floats are data, the rest is static, errors name field, value and what is allowed."""

import math
from typing import Any, Literal

import jax
import numpy as np
import pytest

from jaxrl.config import (
    Count,
    Duration,
    Finite,
    Fixed,
    Limit,
    Natural,
    NonNegative,
    Positive,
    Share,
    Sizes,
    at_most,
    check,
    config,
    numbers,
)


@config
class Base:
    share: Share = 0.5
    count: Count = 3


@config
class Settings(Base):
    natural: Natural = 0
    sizes: Sizes = (16,)
    finite: Finite = 0.0
    fixed: Fixed = 0.1
    rate: NonNegative = 0.0
    scale: Positive = 1.0
    limit: Limit = math.inf
    duration: Duration = math.inf
    plain: float = 1.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0

    def rules(self) -> None:
        at_most(self, "low", "high")


def test_floats_are_leaves_and_the_rest_is_static():
    settings = Settings()
    assert numbers(settings) == [
        "share",
        *("finite", "rate", "scale", "limit", "duration", "plain", "low", "high"),
    ]
    leaves, _ = jax.tree.flatten(settings)
    assert len(leaves) == len(numbers(settings))
    swept = jax.vmap(lambda x: Settings(share=x))(np.linspace(0, 1, 3))
    assert swept.share.shape == (3,) and swept.count == 3


def test_settings_are_frozen_inherit_and_replace():
    settings = Settings(share=0.25).replace(count=7)
    assert (settings.share, settings.count) == (0.25, 7)
    with pytest.raises(Exception, match="frozen|cannot assign"):
        settings.count = 1


def test_what_is_allowed_passes():
    check(Settings())
    check(
        Settings(count=np.int64(7), share=np.array([0.0, 1.0]), limit=2.0, sizes=(1, np.int64(2)))
    )
    check(Settings(natural=2**31 - 1, names=("a", "b"), kind="b", flag=True))


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        *(("count", x, "must be a whole number, at least 1") for x in (0, 1.0, True, "4", None)),
        ("natural", -1, "must be a whole number, at least 0"),
        ("natural", 2**31, "must be a whole number, at most 2147483647"),
        *(
            ("sizes", x, "must be a tuple of whole numbers, at least 1 each")
            for x in (16, [16], (16, 0), (16.0,), (True,), None)
        ),
        *(("share", x, "must be between 0 and 1") for x in (-0.1, 1.1, math.nan, math.inf)),
        *(("finite", x, "must be finite") for x in (math.nan, math.inf, 1e39)),
        ("fixed", math.inf, "must be finite"),
        ("plain", -math.inf, "must be finite"),
        ("rate", -1.0, "must be at least 0"),
        ("rate", math.inf, "must be finite"),
        *(("scale", x, "must be above 0") for x in (0, -1.0, math.nan)),
        ("scale", math.inf, "must be finite"),
        ("limit", 0.0, "must be above 0"),
        ("duration", -1.0, "must be at least 0"),
        *(("kind", x, "allowed are 'a', 'b'") for x in ("c", ["a"], np.ones(2), None)),
        ("flag", 1, "must be True or False"),
        ("names", "ab", "must be a tuple of names"),
        ("low", 2.0, "must be at most high=1.0"),
        *(("rate", x, "must be a number") for x in ("fast", "0.5", True, {}, [0.5], (1,), 10**400)),
        ("rate", [1.0, [2.0]], "must be a number"),
    ],
)
def test_an_error_names_the_field_its_value_and_what_is_allowed(
    name: str, value: Any, allowed: str
):
    with pytest.raises(ValueError) as error:
        check(Settings(**{name: value}))
    shown = (str(value), repr(value))
    assert str(error.value) in [f"{name}={x}: {allowed}" for x in shown]


def test_every_value_of_a_sweep_is_checked():
    with pytest.raises(ValueError, match=r"^share=.*must be between 0 and 1$"):
        check(Settings(share=np.array([0.5, 2.0])))


def test_tracers_pass_because_they_cannot_be_looked_at():
    def traced(x):
        check(Settings(share=x, scale=x, low=x))
        return x

    assert jax.jit(traced)(-5.0) == -5.0


def test_a_default_without_a_type_is_refused():
    """A dataclass would keep the parent's default, and a sweep over it would do nothing."""
    with pytest.raises(TypeError, match=r"Mine.share = 0.1: has no type"):

        @config
        class Mine(Base):
            share = 0.1


def test_a_subclass_that_is_no_config_is_refused():
    class Mine(Base):
        rate: NonNegative = 0.1

    with pytest.raises(ValueError, match="Mine: is not decorated with @config"):
        check(Mine())
