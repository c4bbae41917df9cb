"""Claim: mirror descent (MDPO) at least matches PPO on policy, and SAC off policy.

    python experiments/claims/mdpo.py

The presets of PPO and SAC with nothing changed but the objective. How often MDPO's old policy is
renewed off policy was chosen among every 10, 100 and 1000 updates with other seeds on
pendulum_swingup, as SAC's preset was: within these budgets there are but some thousand updates.
Raw numbers: experiments/results/mdpo.json.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from presets import PPO, SAC

import envs
from jaxrl.cli import script
from jaxrl.learners.off_policy import mdpo, sac
from jaxrl.learners.on_policy import ppo
from jaxrl.run import runtime

NAME = "mdpo"
OFF_POLICY_STEPS = {"pendulum_swingup": 32_000, "half_cheetah": 160_000}
REFRESH_EVERY = 10.0


@dataclass
class Args:
    on_policy: tuple[str, ...] = ("pendulum_swingup", "inverted_double_pendulum")
    off_policy: tuple[str, ...] = tuple(OFF_POLICY_STEPS)
    seeds: int = 12  # an even number of runs: two devices share them


def main() -> int:
    args = tyro.cli(Args)
    devices = runtime.default_devices(args.seeds)
    runtime.setup(devices)
    options = dict(seeds=args.seeds, num_evals=4, eval_episodes=16, devices=devices)
    for task in args.on_policy:
        preset = PPO[task]
        env = envs.make(task, **preset.env)
        config = preset.config.replace(schedule_steps=float(preset.total_steps))
        for variant, objective in (("ppo", "clip"), ("mdpo, on policy", "mdpo")):
            chosen = config.replace(objective=objective)
            make = lambda env=env, config=chosen: ppo.make(env, config)
            common.measure(
                NAME, task, variant, make, preset.total_steps, learner_name="ppo", **options
            )
    for task in args.off_policy:
        env = envs.make(task, **SAC[task].env)
        base = SAC[task].config.replace(replay_size=OFF_POLICY_STEPS[task])
        shared = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
        makes = {
            "sac": lambda env=env, config=base: sac.make(env, config),
            "mdpo, off policy": lambda env=env, shared=shared: mdpo.make(
                env, mdpo.Config(**shared, refresh_every=REFRESH_EVERY)
            ),
        }
        for variant, make in makes.items():
            common.measure(
                NAME,
                task,
                variant,
                make,
                OFF_POLICY_STEPS[task],
                learner_name="sac" if variant == "sac" else "mdpo",
                **options,
            )
    common.report(NAME, "return")
    return 0


if __name__ == "__main__":
    script.run(main)
