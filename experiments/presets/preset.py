"""The type of a preset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A learner's settings for one task, or for any task."""

    total_steps: int  # per seed
    config: Any
    env: dict[str, Any] = field(default_factory=dict)  # overrides of `envs.make`
    flags: dict[str, Any] = field(default_factory=dict)  # other flags of the script


FAST = {"physics": "fast"}
BALANCED = {"physics": "balanced"}  # ports of Gymnasium's tasks; carries over to the originals
