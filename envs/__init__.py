"""Environments as pure functions: thousands of instances are one `vmap`."""

from envs.contract import check
from envs.registry import made_by, make, names, nearest, register
from envs.types import Box, Discrete, Env, MultiDiscrete, State
from envs.vector import VecEnv, VecState, vectorize

__all__ = [
    "Box",
    "Discrete",
    "MultiDiscrete",
    "Env",
    "State",
    "VecEnv",
    "VecState",
    "check",
    "made_by",
    "make",
    "names",
    "nearest",
    "register",
    "vectorize",
]
