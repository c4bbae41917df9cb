"""Every learner by name. Adding one is one line here."""

from __future__ import annotations

import importlib
from types import ModuleType

# Name: the module, which has `Config` and `make`.
LEARNERS = {
    "bc": "jaxrl.learners.offline.bc",
    "dsac": "jaxrl.learners.off_policy.dsac",
    "imitation": "jaxrl.learners.imitation.chunks",
    "iql": "jaxrl.learners.offline.iql",
    "mdpo": "jaxrl.learners.off_policy.mdpo",
    "pmoe": "jaxrl.learners.off_policy.pmoe",
    "ppo": "jaxrl.learners.on_policy.ppo",
    "sac": "jaxrl.learners.off_policy.sac",
    "td3": "jaxrl.learners.off_policy.td3",
    "td3_bc": "jaxrl.learners.offline.td3_bc",
}


def module(name: str) -> ModuleType:
    """The module of the learner `name`.

    Raises:
      ValueError: there is no such learner.
    """
    if name not in LEARNERS:
        raise ValueError(f"learner={name!r}: allowed are {', '.join(sorted(LEARNERS))}")
    return importlib.import_module(LEARNERS[name])
