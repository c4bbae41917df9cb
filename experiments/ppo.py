"""Trains PPO on one environment, any number of seeds, in one program.

    python experiments/ppo.py
    python experiments/ppo.py --env half_cheetah --seeds 5 --run-dir runs/cheetah
    python experiments/ppo.py --env half_cheetah --seeds 5 --run-dir runs/cheetah --resume

Flags default to the environment's preset (experiments/presets.py); --help shows them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from presets import PPO, Preset

import envs
from jaxrl import runs, runtime, script
from jaxrl.learners import ppo
from jaxrl.train import train, validate


@dataclass
class Args:
    env: str = "inverted_pendulum"  # one of envs.names(), or SUITE/NAME (brax, playground, gymnax)
    env_options: dict[str, str] = field(default_factory=dict)  # e.g. --env-options physics fast
    seeds: int = 1  # runs that train side by side
    seed: int = 0  # of the first run; the others count up
    total_steps: float = 1e6  # environment steps per seed
    num_evals: int = 20  # evaluations, each followed by a checkpoint
    eval_episodes: int = 32  # per evaluation and seed
    run_dir: Path | None = None  # default: runs/ppo_ENV_TIME
    resume: bool = False  # go on with the run in --run-dir
    devices: int = 0  # to shard the environments over; 0: every CPU core, or one accelerator
    profile: Path | None = None  # write a profiler trace of a second of training here
    video: bool = True  # film an episode of the best seed at the end
    wandb: str | None = None  # Weights & Biases project
    config: ppo.Config = field(default_factory=ppo.Config)


def defaults(env: str) -> Args:
    preset = PPO.get(env, Preset(total_steps=1024 * 16 * 61, config=ppo.Config()))
    options = {k: str(v) for k, v in preset.env.items()}
    return Args(env=env, env_options=options, total_steps=preset.total_steps, config=preset.config)


def main() -> int:
    args = script.parse(defaults, Args.env)
    config = script.with_schedule(args.config, args.total_steps)
    ppo.validate(config)
    devices = args.devices or runtime.default_devices(config.num_envs)
    runtime.setup(devices)

    env_options = script.numbers(args.env_options)
    env = envs.make(args.env, **env_options)
    learner = ppo.make(env, config)

    run_dir = args.run_dir or Path("runs") / f"ppo_{args.env}_{time.strftime('%Y%m%d-%H%M%S')}"
    settings = {
        "total_steps": int(args.total_steps),
        "seeds": args.seeds,
        "num_evals": args.num_evals,
        "eval_episodes": args.eval_episodes,
        "devices": devices,
    }
    validate(learner, **settings)
    settings["seed"] = args.seed
    description = runs.describe("ppo", args.env, env_options, config, settings)
    script.open_run(run_dir, description, args.resume)
    result = train(
        learner,
        **settings,
        run_dir=run_dir,
        resume=args.resume,
        profile=args.profile,
        wandb=args.wandb,
    )
    if result.interrupted:
        print(f"saved; go on with --run-dir {run_dir} --resume")
        return 130
    script.report(run_dir, learner, result, args.video)
    return 0


if __name__ == "__main__":
    script.run(main)
