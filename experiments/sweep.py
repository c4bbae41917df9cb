"""Sweeps hyper-parameters x seeds of PPO in one compiled program, and plots them.

    python experiments/sweep.py --learning-rates 1e-4 3e-4 1e-3 --gammas 0.98 0.99 --seeds 4

The grid is an array axis like the seeds: 3 rates x 2 gammas x 4 seeds are one program of 24 runs.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import math
from dataclasses import dataclass, field

from train import defaults as train_defaults

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.learners import registry
from jaxrl.learners.on_policy import ppo


@dataclass
class Args(script.Args):
    env: str = "cartpole_swingup"  # one of envs.names(), or SUITE/NAME
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    gammas: tuple[float, ...] = ()  # (): not varied, the configuration's
    entropy_coefs: tuple[float, ...] = ()
    seeds: int = 3  # per setting
    num_evals: int = 10
    video: bool = False
    config: ppo.Config = field(default_factory=ppo.Config)


def defaults(env: str) -> Args:
    base = train_defaults("ppo", env)
    return Args(env, base.env_options, total_steps=base.total_steps, config=base.config)


def main() -> int:
    args = script.parse(defaults, env=Args.env)
    config = script.with_schedule(args.config, args.total_steps)
    check(config)
    grid = {
        "learning_rate": list(args.learning_rates),
        "gamma": list(args.gammas),
        "entropy_coef": list(args.entropy_coefs),
    }
    grid = {name: values for name, values in grid.items() if values}
    preset = defaults(args.env).config
    for name in grid:
        if getattr(args.config, name) != getattr(preset, name):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag}: this is swept, add its value to {flag}s")
    num_runs = args.seeds * math.prod(map(len, grid.values()))
    env = script.prepare(args, registry.default_devices(config, num_runs, args.eval_episodes))
    return script.launch("ppo", args, ppo.make(env, config), sweep=grid)


if __name__ == "__main__":
    script.run(main)
