"""Clones demonstrations by chunks of actions: flow matching, diffusion or a Gaussian.

    python experiments/imitate.py --data data/peg.npz
    python experiments/imitate.py --data data/t.npz --head diffusion --trunk transformer --seeds 5
    python experiments/imitate.py --data data/t.npz --mode streaming

It calls experiments/train.py. The environment is the one that the data set names, unless --env gives
another. The settings of the clone default to those of experiments/refine.py for that environment.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import train

from jaxrl.cli import script

LEARNERS = ("imitation",)


def main() -> int:
    return train.main("imitation", env="", allowed=LEARNERS)


if __name__ == "__main__":
    script.run(main)
