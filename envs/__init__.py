"""Environments as pure functions: thousands of instances are one `vmap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envs.contract import check
from envs.registry import made_by, make, names, nearest, register
from envs.types import Box, Discrete, Env, MultiDiscrete, State
from envs.vector import VecEnv, VecState, vectorize

if TYPE_CHECKING:
    from envs.menagerie import from_menagerie
    from envs.mjcf import from_mjcf

__all__ = [
    "Box",
    "Discrete",
    "MultiDiscrete",
    "Env",
    "State",
    "VecEnv",
    "VecState",
    "check",
    "from_menagerie",
    "from_mjcf",
    "made_by",
    "make",
    "names",
    "nearest",
    "register",
    "vectorize",
]


def __getattr__(name: str) -> Any:
    """Imports MuJoCo with `from_mjcf` and `from_menagerie`, and not before."""
    if name == "from_mjcf":
        from envs.mjcf import from_mjcf

        return from_mjcf
    if name == "from_menagerie":
        from envs.menagerie import from_menagerie

        return from_menagerie
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
