"""Trains TD3 on one environment, any number of seeds, in one program.

    python experiments/td3.py --env pendulum_swingup
    python experiments/td3.py --env half_cheetah --seeds 5 --run-dir runs/td3_cheetah

Flags default to the environment's preset (experiments/presets.py); --help shows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from presets import TD3, Preset

from jaxrl import runtime, script
from jaxrl.learners import td3


@dataclass
class Args(script.Args):
    env: str = "pendulum_swingup"  # one of envs.names(), or SUITE/NAME (brax, playground, gymnax)
    config: td3.Config = field(default_factory=td3.Config)


def defaults(env: str) -> Args:
    preset = TD3.get(env, Preset(total_steps=1_000_000, config=td3.Config()))
    options = {k: str(v) for k, v in preset.env.items()}
    return Args(env=env, env_options=options, total_steps=preset.total_steps, config=preset.config)


def main() -> int:
    args = script.parse(defaults, env=Args.env)
    td3.validate(args.config)
    env = script.prepare(args, runtime.default_devices(args.seeds))
    return script.launch("td3", args, td3.make(env, args.config))


if __name__ == "__main__":
    script.run(main)
