"""What more seeds, and a grid of hyper-parameters, cost in one program.

    python experiments/bench/seeds.py
    python experiments/bench/seeds.py --learner sac --env pendulum_swingup --seeds 1 8

The cost of N vmapped runs is their time over the time of one, which takes turns with each of
them; N separate runs cost N, and compile N times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from bench import Args as BenchArgs
from bench import Run, interleave, make_env, ratio, spread, write

from jaxrl.learners import registry
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.report import terminal
from jaxrl.run import runtime

GRID = {
    "ppo": {"learning_rate": [1e-4, 3e-4, 1e-3, 3e-3], "entropy_coef": [0.0, 1e-3, 3e-3, 1e-2]},
    "sac": {"critic_lr": [1e-4, 3e-4, 1e-3, 3e-3], "tau": [0.003, 0.005, 0.01, 0.02]},
}


@dataclass
class Args(BenchArgs):
    learner: str = "ppo"  # or sac
    env: str = "hopper"
    seeds: tuple[int, ...] = (1, 4, 8, 16, 64)  # the first is what costs are compared with
    grid: bool = True  # a 4x4 grid too
    iterations: int = 1  # of PPO a call; SAC's are many times smaller: 32 times as many
    num_envs: int = 64
    batch_size: int = 256  # of SAC
    hidden: tuple[int, ...] = (256, 256)  # of SAC; PPO keeps its own


def config_of(args: Args) -> ppo.Config | sac.Config:
    if args.learner == "ppo":
        config = ppo.Config(num_envs=args.num_envs, unroll_length=64, num_epochs=8)
        return config.replace(num_minibatches=min(8, args.num_envs))
    return sac.Config(
        num_envs=min(32, args.num_envs),
        updates_per_step=4,
        batch_size=args.batch_size,
        replay_size=32_000,
        learning_starts=0,
        actor_hidden=args.hidden,
        critic_hidden=args.hidden,
    )


def main(args: Args) -> dict[str, float]:
    if args.learner not in GRID:
        raise SystemExit(f"--learner {args.learner}: allowed are {', '.join(GRID)}")
    is_ppo = args.learner == "ppo"
    module, config = (ppo if is_ppo else sac), config_of(args)
    choose = lambda n: registry.default_devices(config, n, eval_episodes=0)
    devices = {n: choose(n) for n in (*args.seeds, 16)}
    runtime.setup(max(devices.values()))
    learner = module.make(make_env(args.env), config)
    iterations = args.iterations * (1 if is_ppo else 32)
    jobs = {f"{n} seeds": (n, {"seeds": n}) for n in args.seeds}
    if args.grid:
        jobs["4x4 grid"] = (16, {"sweep": GRID[args.learner]})
    first = next(iter(jobs))
    runs, rows, ratios = {}, [], {}
    for name, (count, what) in jobs.items():
        settings = {"seed": args.seed, "devices": devices[count], "iterations": iterations}
        run = Run(learner, **settings, **what)
        runs = {first: runs.get(first, run), name: run}
        seconds = interleave(runs, args.rounds)
        cost = ratio(seconds[name], seconds[first]) * jobs[first][0]
        label = f"{args.learner}/{name.replace(' ', '_')}"
        ratios[f"{label}/cost"] = cost
        ratios[f"{label}/separate_over_vmapped"] = count / cost
        rows.append(
            {
                "runs": name,
                "count": count,
                "seconds": seconds[name],
                "steps_per_second": run.steps / seconds[name],
                "cost": cost,
                "compile_seconds": run.compile_seconds,
                "memory_bytes": run.memory_bytes,
            }
        )
        write(args.out, "seeds", args, rows, ratios)
    report(args, rows)
    return ratios


def report(args: Args, rows: list[dict[str, Any]]) -> None:
    terminal.table(
        f"{args.learner} on {args.env}: runs side by side",
        ["runs", "steps/s", "cost", "of separate runs", "compile s", "MB"],
        [
            [
                r["runs"],
                spread(np.array(r["steps_per_second"])),
                f"{r['cost']:.2f}",
                f"{r['cost'] / r['count']:.0%}",
                f"{r['compile_seconds']:.1f}",
                f"{r['memory_bytes'] / 1e6:,.0f}",
            ]
            for r in rows
        ],
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
