"""Settings of the clone that a refinement starts from, by task."""

from __future__ import annotations

from jaxrl.learners.imitation import chunks as imitation

from .preset import Preset

# A clone of 50 noisy demonstrations, which succeeds in about half of the episodes.
REFINE: dict[str, Preset] = {
    "peg_insertion": Preset(5_000, imitation.Config(learning_rate=5e-4), {"hole_noise": 0.005}),
    "peg_insertion_3d": Preset(5_000, imitation.Config(), {"hole_noise": 0.003}),
    "pick_place": Preset(5_000, imitation.Config(horizon=8, execute=4)),
}
