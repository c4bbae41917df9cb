"""Claim: networks whose products are in bfloat16 learn as well as in float32.

    python experiments/claims/bfloat16.py

The presets of SAC and PPO, with and without `--matmul-precision bfloat16`, at equal environment
steps. Raw numbers: experiments/results/bfloat16.json. How much faster it is:
experiments/bench/peers.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from presets import PPO, SAC

import envs
from jaxrl.cli import script
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.run import runtime

NAME = "bfloat16"


@dataclass
class Args:
    sac: tuple[str, ...] = ("half_cheetah", "hopper")
    ppo: tuple[str, ...] = ("half_cheetah", "inverted_double_pendulum")
    seeds: int = 12
    sac_steps: int = 160_000
    ppo_steps: int = 64 * 64 * 250


def main() -> int:
    args = tyro.cli(Args)
    devices = runtime.default_devices(args.seeds)
    runtime.setup(devices, matmul_precision="bfloat16")

    def both(learner: str, task: str, make, total_steps: int) -> None:
        for precision in ("bfloat16", "float32"):
            with jax.default_matmul_precision(precision):
                common.measure(
                    NAME,
                    task,
                    f"{learner}, {precision}",
                    make,
                    total_steps,
                    seeds=args.seeds,
                    devices=devices,
                    learner_name=learner,
                )

    for task in args.sac:
        env = envs.make(task, **SAC[task].env)
        make = lambda env=env, task=task: sac.make(env, SAC[task].config)
        both("sac", task, make, args.sac_steps)
    for task in args.ppo:
        env = envs.make(task, **PPO[task].env)
        config = PPO[task].config.replace(schedule_steps=float(args.ppo_steps))
        both("ppo", task, lambda env=env, config=config: ppo.make(env, config), args.ppo_steps)
    common.report(NAME, "return at equal environment steps")
    return 0


if __name__ == "__main__":
    script.run(main)
