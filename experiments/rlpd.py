"""SAC from scratch with recorded data mixed into every batch (RLPD, Ball et al. 2023).

    python experiments/rlpd.py --data data/hopper_medium.npz --seeds 5

It is experiments/train.py for SAC with settings like `sac.RLPD`. The environment is the one that the
data set names, with the options it was recorded with, unless flags say others; its preset gives the
rest.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import train

from jaxrl.cli import script

LEARNERS = ("rlpd",)


def main() -> int:
    return train.main("rlpd", env="", allowed=LEARNERS)


if __name__ == "__main__":
    script.run(main)
