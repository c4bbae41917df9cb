"""Trains TD3, or FastTD3, on one environment: any number of seeds, one program.

    python experiments/td3.py --env pendulum_swingup
    python experiments/td3.py --env half_cheetah --seeds 5 --run-dir runs/td3_cheetah
    python experiments/td3.py --env hopper --learner fast_td3 --v-max 100

Flags default to the environment's preset (experiments/presets.py) or, for FastTD3, to `td3.FAST`,
which wants a GPU and a range of values (--v-min, --v-max) that holds every discounted return;
--help shows them.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass
from typing import Any

from presets import TD3, Preset

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.learners.off_policy import td3
from jaxrl.loops import off_policy

LEARNERS = ("td3", "fast_td3")
FAST_STEPS = 10_240_000


@dataclass
class Args(script.Args):
    env: str = "pendulum_swingup"  # one of envs.names(), or SUITE/NAME (brax, playground, gymnax)
    learner: str = "td3"  # td3 or fast_td3


def defaults(env: str, learner: str) -> Any:
    """`Args` with the learner's settings as its last field."""
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: allowed are {', '.join(LEARNERS)}")
    preset = TD3.get(env, Preset(total_steps=1_000_000, config=td3.Config()))
    fast = learner == "fast_td3"
    return script.with_config(
        Args,
        td3.FAST if fast else preset.config,
        env=env,
        learner=learner,
        env_options={k: str(v) for k, v in preset.env.items()},
        total_steps=FAST_STEPS if fast else preset.total_steps,
    )


def main() -> int:
    args = script.parse(defaults, env=Args.env, learner=Args.learner)
    check(args.config)
    devices = off_policy.default_devices(args.seeds, args.config, args.eval_episodes)
    env = script.prepare(args, devices)
    return script.launch("td3", args, td3.make(env, args.config))


if __name__ == "__main__":
    script.run(main)
