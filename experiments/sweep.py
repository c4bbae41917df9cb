"""Sweeps hyper-parameters x seeds of PPO in one compiled program, and plots them.

    python experiments/sweep.py --learning-rates 1e-4 3e-4 1e-3 --gammas 0.99 --seeds 4

The grid is an array axis like the seeds, so a 3 x 4 sweep is one program of 12 runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ppo import defaults as ppo_defaults

import envs
from jaxrl import runs, runtime, script
from jaxrl.learners import ppo
from jaxrl.train import train, validate


@dataclass
class Args:
    env: str = "cartpole_swingup"  # one of envs.names(), or SUITE/NAME
    env_options: dict[str, str] = field(default_factory=dict)  # e.g. --env-options physics fast
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    gammas: tuple[float, ...] = (0.99,)
    entropy_coefs: tuple[float, ...] = (0.0,)
    seeds: int = 3  # per setting
    seed: int = 0
    total_steps: float = 1e6  # environment steps per run
    num_evals: int = 10
    eval_episodes: int = 32
    run_dir: Path | None = None  # default: runs/sweep_ENV_TIME
    resume: bool = False  # go on with the sweep in --run-dir
    devices: int = 0  # 0: every CPU core, or one accelerator
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
    args = script.parse(defaults, Args.env)
    config = script.with_schedule(args.config, args.total_steps)
    grid = {
        "learning_rate": list(args.learning_rates),
        "gamma": list(args.gammas),
        "entropy_coef": list(args.entropy_coefs),
    }
    for name, values in grid.items():
        for value in values:
            ppo.validate(config.replace(**{name: value}))
    devices = args.devices or runtime.default_devices(config.num_envs)
    runtime.setup(devices)

    env_options = script.numbers(args.env_options)
    learner = ppo.make(envs.make(args.env, **env_options), config)
    settings = {
        "total_steps": int(args.total_steps),
        "seeds": args.seeds,
        "sweep": grid,
        "num_evals": args.num_evals,
        "eval_episodes": args.eval_episodes,
        "devices": devices,
    }
    validate(learner, **settings)
    settings["seed"] = args.seed
    run_dir = args.run_dir or Path("runs") / f"sweep_{args.env}_{time.strftime('%Y%m%d-%H%M%S')}"
    description = runs.describe("ppo", args.env, env_options, config, settings)
    script.open_run(run_dir, description, args.resume)
    result = train(learner, **settings, run_dir=run_dir, resume=args.resume)
    if result.interrupted:
        print(f"saved; go on with --run-dir {run_dir} --resume")
        return 130
    script.report(run_dir, learner, result, video=False, sweep=grid)
    return 0


if __name__ == "__main__":
    script.run(main)
