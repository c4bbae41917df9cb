"""Trains SAC, or a learner that extends it, on one environment: any number of seeds, one program.

    python experiments/sac.py --env pendulum_swingup
    python experiments/sac.py --env half_cheetah --seeds 6 --run-dir runs/sac_cheetah
    python experiments/sac.py --env hopper --learner dsac

It calls experiments/train.py. Flags default to SAC's preset for the environment
(experiments/presets/off_policy.py) and, without one, to the learner's own; --help shows
them.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import train

from jaxrl.cli import script

LEARNERS = ("sac", "sac_320k", "fast_sac", "dsac", "mdpo", "pmoe")


def main() -> int:
    return train.main("sac", env="pendulum_swingup", allowed=LEARNERS)


if __name__ == "__main__":
    script.run(main)
