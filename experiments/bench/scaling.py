"""Steps per second against the number of environments, with a picture.

    python experiments/bench/scaling.py --out experiments/results/bench_scaling.json
    python experiments/bench/scaling.py --tasks ant --num-envs 1024 4096 16384 --out scaling.json
    python experiments/bench/scaling.py --draw experiments/results/bench_scaling.json

Each point is a measurement of `overhead.py`: PPO's preset with another number of environments, random
actions in the same environments, and the limit, which is that stepping plus the networks' products.
The number of minibatches stays, so batches grow with the environments. The picture stands beside the
results, with the ending .png; `--draw` draws it again and measures nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import overhead
import tyro
from bench import Args as BenchArgs
from bench import spread, write
from matplotlib.ticker import EngFormatter, NullFormatter

from jaxrl.report import terminal
from jaxrl.run import runtime

# What is drawn, in colours that colour-blind readers tell apart.
LINES = {"random": "#999999", "limit": "#E69F00", "training": "#0072B2"}
NAMES = {"random": "random actions", "limit": "limit", "training": "PPO"}


@dataclass
class Args(BenchArgs):
    tasks: tuple[str, ...] = ("hopper", "half_cheetah", "reacher")
    num_envs: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    seeds: int = 1
    rounds: int = 3
    draw: Path | None = None  # a results file of this script: draw it, measure nothing


def draw(results: dict[str, Any], path: Path) -> None:
    """Writes the picture: a panel for each task; medians over rounds, and their range."""
    rows = results["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    fig, axes = plt.subplots(
        1, len(tasks), figsize=(3.4 * len(tasks), 3.2), layout="constrained", squeeze=False
    )
    for ax, task in zip(axes.flat, tasks, strict=True):
        mine = sorted((r for r in rows if r["task"] == task), key=lambda r: r["num_envs"])
        sizes = [row["num_envs"] for row in mine]
        for what, color in LINES.items():
            rates = np.array([row[f"{what}_steps_per_second"] for row in mine])  # [sizes, rounds]
            ax.plot(sizes, np.median(rates, 1), "o-", color=color, lw=1.6, ms=3, label=NAMES[what])
            ax.fill_between(sizes, rates.min(1), rates.max(1), color=color, alpha=0.2, lw=0)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.yaxis.set_major_formatter(EngFormatter(sep=""))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_title(task, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25, lw=0.6)
    axes.flat[0].legend(frameon=False, fontsize=8)
    fig.supxlabel(f"environments ({results['hardware']})", fontsize=9)
    fig.supylabel("environment steps per second", fontsize=9)
    fig.savefig(path, dpi=80)
    plt.close(fig)


def main(args: Args) -> None:
    if args.draw is not None:
        draw(json.loads(args.draw.read_text()), args.draw.with_suffix(".png"))
        return
    same = {"rounds": args.rounds, "seed": args.seed, "seeds": args.seeds}
    sizes = [overhead.Args(num_envs=n, **same) for n in args.num_envs]
    points = [(task, size) for task in args.tasks for size in sizes]
    devices = [overhead.devices_of("ppo", overhead.config_of("ppo", *p), p[1]) for p in points]
    runtime.setup(max(devices))
    rows, ratios = [], {}
    for task, point in points:
        row = overhead.measure("ppo", task, point)
        rows.append(row)
        first = next(r for r in rows if r["task"] == task)["training_steps_per_second"]
        over = np.median(row["training_steps_per_second"]) / np.median(first)
        ratios[f"{task}/{point.num_envs}_over_{args.num_envs[0]}"] = float(over)
        write(args.out, "scaling", args, rows, ratios)
    if args.out is not None:
        draw(json.loads(args.out.read_text()), args.out.with_suffix(".png"))
    terminal.table(
        "Environment steps per second",
        ["task", "num_envs", "PPO", "random actions", "limit", "compile s", "MB"],
        [
            [
                r["task"],
                r["num_envs"],
                *(spread(r[f"{k}_steps_per_second"]) for k in ("training", "random", "limit")),
                f"{r['compile_seconds']:.1f}",
                f"{r['memory_bytes'] / 1e6:,.0f}",
            ]
            for r in rows
        ],
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
