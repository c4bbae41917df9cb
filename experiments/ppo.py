"""Trains PPO on one environment, any number of seeds, in one program.

    python experiments/ppo.py
    python experiments/ppo.py --env half_cheetah --seeds 5 --run-dir runs/cheetah
    python experiments/ppo.py --env half_cheetah --seeds 5 --run-dir runs/cheetah --resume

Flags default to the environment's preset (experiments/presets.py); --help shows them.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass, field

from presets import PPO, Preset

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.learners.on_policy import ppo


@dataclass
class Args(script.Args):
    env: str = "inverted_pendulum"  # one of envs.names(), or SUITE/NAME (brax, playground, gymnax)
    config: ppo.Config = field(default_factory=ppo.Config)


def defaults(env: str) -> Args:
    preset = PPO.get(env, Preset(total_steps=1024 * 16 * 61, config=ppo.Config()))
    options = {k: str(v) for k, v in preset.env.items()}
    return Args(env=env, env_options=options, total_steps=preset.total_steps, config=preset.config)


def main() -> int:
    args = script.parse(defaults, env=Args.env)
    config = script.with_schedule(args.config, args.total_steps)
    check(config)
    env = script.prepare(args, ppo.default_devices(args.seeds, config, args.eval_episodes))
    learner = ppo.make(env, config)
    return script.launch("ppo", args, learner)


if __name__ == "__main__":
    script.run(main)
