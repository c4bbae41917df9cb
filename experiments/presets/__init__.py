"""Settings of every script, one file per family. README.md shows what PPO, SAC and TD3 reach.

Batches of environments are small, because seeds run side by side: five seeds of 64 environments use
a machine as well as 320 environments, and each seed learns from far fewer steps.
"""

from __future__ import annotations

import dataclasses

from jaxrl.learners import registry
from jaxrl.learners.off_policy import sac, td3

from .imitation import REFINE, road
from .off_policy import (
    BRO,
    CRITICS,
    CROSSQ,
    DRQ,
    FAST_SAC,
    FAST_TD3,
    OFF_POLICY,
    RLPD,
    SAC,
    SAC_320K,
    SIMBAV2,
    TD3,
)
from .on_policy import FEW_STEPS, MILLION, PPO, PPO_1M, REPPO
from .preset import BALANCED, FAST, Preset
from .residual import LONGER, RESIDUAL

__all__ = [
    "BALANCED",
    "BRO",
    "CRITICS",
    "CROSSQ",
    "DRQ",
    "FAST",
    "FAST_SAC",
    "FAST_TD3",
    "LONGER",
    "PPO",
    "PPO_1M",
    "REFINE",
    "REPPO",
    "RESIDUAL",
    "RLPD",
    "SAC",
    "SAC_320K",
    "SIMBAV2",
    "TD3",
    "Preset",
    "of",
    "road",
]

BY_TASK = {
    "ppo": PPO,
    "ppo_1m": PPO_1M,
    "reppo": REPPO,
    "sac": SAC,
    "sac_320k": SAC_320K,
    "td3": TD3,
    "bro": BRO,
    "crossq": CROSSQ,
    "drq": DRQ,
    "simbav2": SIMBAV2,
    "rlpd": RLPD,
    "fast_td3": FAST_TD3,
    "fast_sac": FAST_SAC,
}
# Names of settings, and the learner that has them.
VARIANTS = {"ppo_1m": "ppo", "sac_320k": "sac", "rlpd": "sac", "fast_td3": "td3", "fast_sac": "sac"}
ANY_TASK = {
    "rlpd": Preset(250_000, sac.RLPD),
    "fast_td3": Preset(10_240_000, td3.FAST),
    "fast_sac": Preset(20_480_000, sac.FAST),
    "ppo_1m": Preset(MILLION, FEW_STEPS),
    "sac_320k": Preset(320_000, sac.Config(**OFF_POLICY)),
}
STEPS = {"on_policy": 1024 * 16 * 61, "off_policy": 1_000_000}  # by family, for any task
UPDATES = 100_000  # of an offline learner
# Learners whose preset for any task is that of experiments/refine.py, schedules included.
ROAD = {"imitation": {"num_evals": 5, "eval_episodes": 128}}


def names() -> list[str]:
    """Returns the names of all learners and variants."""
    return sorted({*registry.LEARNERS, *VARIANTS})


def of(learner: str, env: str) -> Preset:
    """Returns the preset of a learner or variant for a task.

    Without one it is the preset of the learner that it extends, or else the learner's defaults.

    Raises:
      ValueError: there is no such learner.
    """
    if env in BY_TASK.get(learner, {}):
        return BY_TASK[learner][env]
    module = registry.module(VARIANTS.get(learner, learner))
    family = module.__name__.split(".")[-2]
    steps = STEPS.get(family, UPDATES)
    if learner in ROAD:
        return dataclasses.replace(road(env), flags=ROAD[learner])
    if learner in ANY_TASK:
        return ANY_TASK[learner]
    for name in ("ppo", "sac", "td3"):
        extended = registry.module(name)
        if family in STEPS and env in BY_TASK[name] and issubclass(module.Config, extended.Config):
            preset, plain = BY_TASK[name][env], extended.Config()
            values = {f.name: getattr(preset.config, f.name) for f in dataclasses.fields(plain)}
            said = {k: v for k, v in values.items() if v != getattr(plain, k)}
            return dataclasses.replace(preset, config=module.Config(**said))
    return Preset(steps, module.Config())
