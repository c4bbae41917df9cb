"""Trains TD3, or FastTD3, on one environment: any number of seeds, one program.

    python experiments/td3.py --env pendulum_swingup
    python experiments/td3.py --env half_cheetah --seeds 5 --run-dir runs/td3_cheetah
    python experiments/td3.py --env hopper --learner fast_td3 --v-max 100

It is experiments/train.py for these. Flags default to the environment"s preset
(experiments/presets/off_policy.py) or, for FastTD3, to `td3.FAST`, which wants a GPU and a range of
values (--v-min, --v-max) that holds every discounted return; --help shows them.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import train

from jaxrl.cli import script

LEARNERS = ("td3", "fast_td3")


def main() -> int:
    return train.main("td3", env="pendulum_swingup", allowed=LEARNERS)


if __name__ == "__main__":
    script.run(main)
