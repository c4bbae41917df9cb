"""Sweeps hyper-parameters x seeds of PPO in one compiled program, and plots them.

    python experiments/sweep.py --learning-rates 1e-4 3e-4 1e-3 --gammas 0.99 --seeds 4

The grid is an array axis like the seeds, so a 3 x 4 sweep is one program of 12 runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ppo import defaults as ppo_defaults

from jaxrl import runtime, script
from jaxrl.learners import ppo


@dataclass
class Args(script.Args):
    env: str = "cartpole_swingup"  # one of envs.names(), or SUITE/NAME
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    gammas: tuple[float, ...] = (0.99,)
    entropy_coefs: tuple[float, ...] = (0.0,)
    seeds: int = 3  # per setting
    num_evals: int = 10
    video: bool = False
    config: ppo.Config = field(default_factory=ppo.Config)


def defaults(env: str) -> Args:
    base = ppo_defaults(env)
    return Args(
        env=env,
        env_options=base.env_options,
        total_steps=base.total_steps,
        config=base.config,
    )


def main() -> int:
    args = script.parse(defaults, env=Args.env)
    config = script.with_schedule(args.config, args.total_steps)
    grid = {
        "learning_rate": list(args.learning_rates),
        "gamma": list(args.gammas),
        "entropy_coef": list(args.entropy_coefs),
    }
    for name, values in grid.items():
        for value in values:
            ppo.validate(config.replace(**{name: value}))
    num_runs = args.seeds * math.prod(map(len, grid.values()))
    env = script.prepare(args, runtime.default_devices(num_runs, config.num_envs))
    return script.launch("ppo", args, ppo.make(env, config), sweep=grid)


if __name__ == "__main__":
    script.run(main)
