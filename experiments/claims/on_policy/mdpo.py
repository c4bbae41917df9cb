"""Mirror descent (MDPO) matches PPO on policy and SAC off policy.

    python experiments/claims/on_policy/mdpo.py

"Matches" means at most 5% worse. The presets are those of PPO and SAC, and only the objective
changes. Off policy, the old policy is renewed every ten updates. Ten was chosen among 10, 100 and
1000 with other seeds on pendulum_swingup, because these budgets have only a few thousand updates.
One of MDPO's twelve seeds failed in the swing-up on policy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.presets import PPO, SAC
from jaxrl.cli import script
from jaxrl.learners.off_policy import mdpo, sac
from jaxrl.learners.on_policy import mdpo as on_policy_mdpo
from jaxrl.learners.on_policy import ppo
from jaxrl.run import runtime

NAME = "mdpo"
COMPARISONS = (
    Comparison("On-policy MDPO matches PPO", "mdpo, on policy", "ppo", tolerance=0.05),
    Comparison("Off-policy MDPO matches SAC", "mdpo, off policy", "sac", tolerance=0.05),
)
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
        proximal = on_policy_mdpo.Config(**vars(config))
        makes = {
            "ppo": lambda env=env, config=config: ppo.make(env, config),
            "mdpo, on policy": lambda env=env, config=proximal: on_policy_mdpo.make(env, config),
        }
        for variant, make in makes.items():
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
    common.report(NAME, "return", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
