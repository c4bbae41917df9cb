"""The clones that a road begins with, by task."""

from __future__ import annotations

from jaxrl.learners.imitation import chunks as imitation

from .preset import Preset

# The base of the refinement road: a clone of 50 noisy demonstrations that succeeds in about every
# second episode.
REFINE: dict[str, Preset] = {
    "peg_insertion": Preset(5_000, imitation.Config(learning_rate=5e-4), {"hole_noise": 0.005}),
    "peg_insertion_3d": Preset(5_000, imitation.Config(), {"hole_noise": 0.003}),
    "pick_place": Preset(5_000, imitation.Config(horizon=8, execute=4)),
}
