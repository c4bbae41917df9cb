"""Trains SAC, or a learner that extends it, on one environment: any number of seeds, one program.

    python experiments/sac.py --env pendulum_swingup
    python experiments/sac.py --env half_cheetah --seeds 6 --run-dir runs/sac_cheetah
    python experiments/sac.py --env hopper --learner dsac

Flags default to SAC's preset for the environment (experiments/presets.py) and, where that says
nothing, to the learner's own; --help shows them.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import dataclasses
from dataclasses import dataclass
from typing import Any

from presets import SAC, Preset

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.learners.off_policy import dsac, mdpo, pmoe, sac
from jaxrl.loops import off_policy

LEARNERS = {"sac": sac, "dsac": dsac, "mdpo": mdpo, "pmoe": pmoe}


@dataclass
class Args(script.Args):
    env: str = "pendulum_swingup"  # one of envs.names(), or SUITE/NAME (brax, playground, gymnax)
    learner: str = "sac"  # sac, dsac, mdpo or pmoe


def defaults(env: str, learner: str) -> Any:
    """`Args` with the settings of one learner as its last field."""
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: allowed are {', '.join(LEARNERS)}")
    plain = sac.Config()
    preset = SAC.get(env, Preset(total_steps=1_000_000, config=plain))
    values = {f.name: getattr(preset.config, f.name) for f in dataclasses.fields(plain)}
    said = {name: value for name, value in values.items() if value != getattr(plain, name)}
    return script.with_config(
        Args,
        LEARNERS[learner].Config(**said),
        env=env,
        learner=learner,
        env_options={k: str(v) for k, v in preset.env.items()},
        total_steps=preset.total_steps,
    )


def main() -> int:
    args = script.parse(defaults, env=Args.env, learner=Args.learner)
    module = LEARNERS[args.learner]
    check(args.config)
    devices = off_policy.default_devices(args.seeds, args.config, args.eval_episodes)
    env = script.prepare(args, devices)
    return script.launch(args.learner, args, module.make(env, args.config))


if __name__ == "__main__":
    script.run(main)
