"""Learns from a recorded data set alone: bc, td3_bc or iql.

    python experiments/offline.py --data data/hopper_medium.npz --learner iql --seeds 5
    python experiments/offline.py --data data/hopper_replay.npz --learner bc --weighted 0.1

It is experiments/train.py for these. The environment is the one that the data set names, unless --env
says another.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import train

from jaxrl.cli import script

LEARNERS = ("bc", "td3_bc", "iql")


def main() -> int:
    return train.main("iql", env="", allowed=LEARNERS)


if __name__ == "__main__":
    script.run(main)
