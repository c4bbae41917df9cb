"""Claim: at equal environment steps SAC returns more than PPO on half_cheetah and hopper.

    python experiments/claims/sac_sample_efficiency.py

Both learn from 320,000 steps with the presets of experiments/presets.py, PPO's learning-rate
schedule ending where the budget does. Raw numbers: experiments/results/sac_sample_efficiency.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from presets import PPO, SAC

import envs
from jaxrl.cli import script
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.run import runtime

NAME = "sac_sample_efficiency"


@dataclass
class Args:
    tasks: tuple[str, ...] = ("half_cheetah", "hopper")
    seeds: int = 6  # an even number: two devices share them
    total_steps: int = 320_000


def main() -> int:
    args = tyro.cli(Args)
    devices = runtime.default_devices(args.seeds)
    runtime.setup(devices)
    options = dict(seeds=args.seeds, devices=devices)
    for task in args.tasks:
        env = envs.make(task, **SAC[task].env)
        config = PPO[task].config
        per = config.num_envs * config.unroll_length
        ppo_steps = -(-args.total_steps // per) * per  # at least as many as SAC
        config = config.replace(schedule_steps=float(ppo_steps))
        make_ppo = lambda env=env, config=config: ppo.make(env, config)
        make_sac = lambda env=env, task=task: sac.make(env, SAC[task].config)
        common.measure(NAME, task, "ppo", make_ppo, ppo_steps, **options)
        common.measure(NAME, task, "sac", make_sac, args.total_steps, **options)
    common.report(NAME, "return at equal environment steps")
    return 0


if __name__ == "__main__":
    script.run(main)
