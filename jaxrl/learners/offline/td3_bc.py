"""TD3+BC (Fujimoto & Gu 2021): TD3 from data alone, whose actor also imitates the data."""

from __future__ import annotations

from typing import Any

from flax import struct

from envs.types import Env
from jaxrl.learners.off_policy import td3
from jaxrl.loops import offline
from jaxrl.types import Learner


@struct.dataclass
class Config(td3.Config):
    """TD3's settings with the paper's defaults.

    Observations are divided by sqrt(var + 1e-8), as in every learner here, and entries that do not
    vary in the data are only centred. The authors divide by std + 1e-3, which amplifies entries
    that hardly vary less.
    """

    clone: bool = struct.field(pytree_node=False, default=True)
    normalize_obs: bool = struct.field(pytree_node=False, default=True)
    updates_per_step: int = struct.field(pytree_node=False, default=100)


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """TD3+BC on a `jaxrl.data.Dataset`; see `jaxrl.loops.offline.learner`."""
    return offline.learner(env, config, td3.algorithm, validate, dataset)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    offline.validate(config)
    td3.validate(config)
