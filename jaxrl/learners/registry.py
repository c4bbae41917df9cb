"""Every learner by name. Adding one is one line here."""

from __future__ import annotations

import importlib
import inspect
import math
from types import ModuleType
from typing import Any

from jaxrl.loops import off_policy
from jaxrl.loops.unroll import OnPolicy
from jaxrl.run import runtime

# Name: the module, which has `Config` and `make`.
LEARNERS = {
    "bc": "jaxrl.learners.offline.bc",
    "bro": "jaxrl.learners.off_policy.bro",
    "cal_ql": "jaxrl.learners.offline.cal_ql",
    "crossq": "jaxrl.learners.off_policy.crossq",
    "discrete_sac": "jaxrl.learners.off_policy.discrete_sac",
    "dpo": "jaxrl.learners.on_policy.dpo",
    "dqn": "jaxrl.learners.off_policy.dqn",
    "drq": "jaxrl.learners.off_policy.drq",
    "dsac": "jaxrl.learners.off_policy.dsac",
    "expo": "jaxrl.learners.off_policy.expo",
    "fql": "jaxrl.learners.offline.fql",
    "her": "jaxrl.learners.goals.her",
    "idql": "jaxrl.learners.offline.idql",
    "imitation": "jaxrl.learners.imitation.chunks",
    "ippo": "jaxrl.learners.multi_agent.ippo",
    "iql": "jaxrl.learners.offline.iql",
    "mdpo": "jaxrl.learners.off_policy.mdpo",
    "pa_rl": "jaxrl.learners.off_policy.pa_rl",
    "pmoe": "jaxrl.learners.off_policy.pmoe",
    "ppo": "jaxrl.learners.on_policy.ppo",
    "ppo_lagrangian": "jaxrl.learners.safe.ppo_lagrangian",
    "ppo_mdpo": "jaxrl.learners.on_policy.mdpo",
    "ppo_transformer": "jaxrl.learners.on_policy.ppo_transformer",
    "qc": "jaxrl.learners.off_policy.qc",
    "recurrent_sac": "jaxrl.learners.off_policy.recurrent_sac",
    "reinflow": "jaxrl.learners.on_policy.reinflow",
    "reppo": "jaxrl.learners.on_policy.reppo",
    "sac": "jaxrl.learners.off_policy.sac",
    "simbav2": "jaxrl.learners.off_policy.simbav2",
    "td3": "jaxrl.learners.off_policy.td3",
    "td3_bc": "jaxrl.learners.offline.td3_bc",
}


def module(name: str) -> ModuleType:
    """The module of the learner `name`: of this registry, or MODULE:make for one of your own.

    Raises:
      ValueError: there is no such learner.
    """
    own, colon, function = name.partition(":")
    if name not in LEARNERS and not colon:
        allowed = ", ".join(sorted(LEARNERS))
        raise ValueError(f"learner={name!r}: allowed are {allowed}, or MODULE:make")
    path = LEARNERS.get(name, own)
    try:
        found = importlib.import_module(path)
    except (ImportError, ValueError) as error:
        raise ValueError(f"learner={name!r}: cannot import {path!r} ({error})") from None
    if (colon and function != "make") or not hasattr(found, "make") or not hasattr(found, "Config"):
        raise ValueError(f"learner={name!r}: {path} must have `Config` and `make`")
    return found


def takes(name: str) -> str:
    """What recorded data `make` of the learner takes: "dataset" to learn from, "prior" to mix into
    what it collects, or "" for none."""
    parameters = inspect.signature(module(name).make).parameters
    return next((kind for kind in ("dataset", "prior") if kind in parameters), "")


def name_of(config: Any) -> str:
    """The name under which `module` finds the learner that has this config."""
    own = type(config).__module__
    return next((name for name, path in LEARNERS.items() if path == own), f"{own}:make")


def is_offline(name: str) -> bool:
    """Whether the learner `name` learns from recorded data alone: its `make` takes a `dataset`."""
    return takes(name) == "dataset"


def default_devices(config: Any, num_runs: int, eval_episodes: int) -> int:
    """How many devices suit `num_runs` runs of a learner with this config.

    Devices share whole runs, or the environments and batches of each where its engine can.
    """
    if isinstance(config, OnPolicy):
        parts = math.gcd(config.num_blocks, eval_episodes)
        return runtime.default_devices(num_runs, config.num_envs, parts)
    if isinstance(config, off_policy.Collect):
        parts = off_policy.num_parts(config)
        return runtime.default_devices(num_runs, config.batch_size, math.gcd(parts, eval_episodes))
    return runtime.default_devices(num_runs)
