"""DSAC-T is more robust than SAC to the scale of the reward.

    python experiments/claims/off_policy/dsac_reward_scale.py

Both learn with the reward multiplied by 0.1, 1 and 10. The score of a seed is its worst return over
the three scales, without the multiplier. Both have SAC's learning rates, delay and activation, not
those of DSAC-T's authors. Their temperature learns at 3e-3, on half_cheetah ten times the preset's
rate: at the preset's rate it cannot come down in these budgets where the reward is small.

Both solve the swing-up at all three scales. Both lose a fifth to a quarter of the return on
half_cheetah where the reward is ten times as large.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.presets import SAC
from jaxrl.cli import script
from jaxrl.learners.off_policy import dsac, sac
from jaxrl.run import runtime

NAME = "dsac_reward_scale"
COMPARISONS = (
    Comparison(
        "DSAC-T returns more than SAC at its worst reward scale",
        "dsac, worst scale",
        "sac, worst scale",
        relative_margin=0.05,
    ),
)
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
    common.report(NAME, "return, unscaled", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
