"""Trains PPO on one environment, any number of seeds, in one program.

    python experiments/ppo.py
    python experiments/ppo.py --env half_cheetah --seeds 5 --run-dir runs/cheetah
    python experiments/ppo.py --env half_cheetah --seeds 5 --run-dir runs/cheetah --resume
    python experiments/ppo.py --env half_cheetah --learner ppo_1m --seeds 5

It is experiments/train.py for PPO. Flags default to the environment's preset
(experiments/presets/on_policy.py); --help shows them. The presets of "ppo" are made for seconds, those
of "ppo_1m" for a million steps and for scores in Gymnasium's own tasks.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import train

from jaxrl.cli import script

LEARNERS = ("ppo", "ppo_1m")


def main() -> int:
    return train.main("ppo", env="inverted_pendulum", allowed=LEARNERS)


if __name__ == "__main__":
    script.run(main)
