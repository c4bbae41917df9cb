"""SAC and PPO learn as well with the networks' products in bfloat16 as in float32.

    python experiments/claims/engine/bfloat16.py

Both use their presets, with and without `--matmul-precision bfloat16`, for equal environment steps.
"As well" means at most 10% worse. Where the seeds of one variant differ by half, twelve seeds
cannot resolve 10%. Other work shared the machine, so the seconds in the results file mean nothing.
`experiments/bench/peers.py` measures the speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.presets import PPO, SAC
from jaxrl.cli import script
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.run import runtime

NAME = "bfloat16"
COMPARISONS = (
    Comparison("SAC learns as well in bfloat16", "sac, bfloat16", "sac, float32", tolerance=0.1),
    Comparison("PPO learns as well in bfloat16", "ppo, bfloat16", "ppo, float32", tolerance=0.1),
)


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
    common.report(NAME, "return at equal environment steps", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
