"""Claim: DSAC-T is more robust than SAC to the scale of rewards.

    python experiments/claims/dsac_reward_scale.py

Both learn with rewards times 0.1, 1 and 10 (returns are reported unscaled) and SAC's preset, but
that the temperature learns at 3e-3, on half_cheetah ten times the preset's: within these budgets it
would else never come down to what rewards times 0.1 ask for, whatever the critic. What counts is every
seed's worst return over the three scales. Raw numbers: experiments/results/dsac_reward_scale.json.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from presets import SAC

import envs
from jaxrl.cli import script
from jaxrl.learners.off_policy import dsac, sac
from jaxrl.run import runtime

NAME = "dsac_reward_scale"
SCALES = [0.1, 1.0, 10.0]
STEPS = {"pendulum_swingup": 64_000, "half_cheetah": 160_000}


@dataclass
class Args:
    tasks: tuple[str, ...] = tuple(STEPS)
    seeds: int = 6  # an even number of runs: two devices share them


def main() -> int:
    args = tyro.cli(Args)
    devices = runtime.default_devices(args.seeds * len(SCALES))
    runtime.setup(devices)
    for task in args.tasks:
        env = envs.make(task, **SAC[task].env)
        base = SAC[task].config.replace(replay_size=STEPS[task], alpha_lr=3e-3)
        shared = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
        configs = {"sac": base, "dsac": dsac.Config(**shared)}
        for (variant, config), module in zip(configs.items(), (sac, dsac), strict=True):
            make = lambda env=env, config=config, module=module: module.make(env, config)
            common.measure(
                NAME,
                task,
                variant,
                make,
                STEPS[task],
                seeds=args.seeds,
                num_evals=4,
                eval_episodes=16,
                devices=devices,
                sweep=("reward_scale", SCALES),
            )
            parts = [f"{variant} reward_scale={scale:g}" for scale in SCALES]
            common.derive(NAME, task, f"{variant}, worst scale", parts, lambda x: x.min(0))
    common.report(NAME, "return, unscaled")
    return 0


if __name__ == "__main__":
    script.run(main)
