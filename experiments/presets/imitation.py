"""Demonstrations, and the clone that a refinement starts from, by task.

`experiments/demos.py`, `experiments/imitate.py` and `experiments/refine.py` read their defaults from
`road`.
"""

from __future__ import annotations

import dataclasses

from jaxrl.learners.imitation import chunks as imitation

from .preset import Preset

DEMOS = {"demos": 50, "noise": 0.3}  # episodes, and noise of the expert (`policies.scripted`)

# A clone that succeeds in about half of the episodes. `flags` are what differs from `DEMOS`.
REFINE: dict[str, Preset] = {
    "peg_insertion": Preset(5_000, imitation.Config(learning_rate=5e-4), {"hole_noise": 0.005}),
    "peg_insertion_3d": Preset(5_000, imitation.Config(), {"hole_noise": 0.003}),
    "pick_place": Preset(5_000, imitation.Config(horizon=8, execute=4)),
    # Two insertions in one episode. The expert succeeds in a third of the episodes.
    "assembly": Preset(
        10_000, imitation.Config(learning_rate=5e-4), {"hole_noise": 0.003}, {"demos": 150}
    ),
    # At noise 0.3 the expert fails in half of the episodes. Success ends an episode, so a residual
    # that is paid for coverage would learn to avoid it.
    "push_t": Preset(
        10_000,
        imitation.Config(learning_rate=4e-3, horizon=4, execute=2),
        {"reward": "sparse"},
        {"demos": 200, "noise": 0.1},
    ),
}


def road(task: str) -> Preset:
    """Returns the preset of a task, also of one that has none. Its `flags` have every entry of `DEMOS`."""
    preset = REFINE.get(task, Preset(5_000, imitation.Config()))
    return dataclasses.replace(preset, flags=DEMOS | preset.flags)
