"""Every task, stepped at random for its share of the time: nothing may hang.

    python experiments/bench/tasks.py --minutes 30 --out tasks.json

With every physics that a task has, in a process of its own, which is ended when no call returns for
`--hang-seconds`. Exit code 1 if one hung or died.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import tyro
from bench import Run, random_stepping, write

import envs
from envs.registry import TASKS
from jaxrl.cli import script
from jaxrl.report import terminal
from jaxrl.run import runtime


@dataclass
class Args:
    minutes: float = 30.0  # of stepping, of all of them together; compiling comes on top
    tasks: tuple[str, ...] = tuple(envs.names())
    physics: tuple[str, ...] = ("accurate", "fast")  # of tasks that have any
    num_envs: int = 256
    steps: int = 16  # control steps a call
    hang_seconds: float = 180.0  # without a call that returns, or until the first one is compiled
    seed: int = 0
    out: Path | None = None  # JSON file for the results


def physics_of(task: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those `wanted` if the task is MJX's, else none, as the empty word."""
    module, name, *_ = TASKS[task]
    return wanted if hasattr(getattr(import_module(module), name), "simulator") else ("",)


def step(task: str, physics: str, args: Args, calls: Connection) -> None:
    """In a process of its own: steps for ever, and tells of each call."""
    devices = runtime.default_devices(1, args.num_envs)
    runtime.setup(devices)
    env = envs.make(task, **({"physics": physics} if physics else {}))
    learner = random_stepping(env, args.num_envs, args.steps)
    run = Run(learner, seed=args.seed, devices=devices)
    while True:
        start = time.perf_counter()
        sums = jax.device_get(run())
        nonfinite = int(sums["nonfinite_count"].sum())
        calls.send((time.perf_counter() - start, run.steps, nonfinite))


def watch(task: str, physics: str, args: Args, seconds: float) -> dict[str, Any]:
    """Steps one task for so long after its first call; returns its row."""
    context = multiprocessing.get_context("spawn")
    calls, theirs = context.Pipe(duplex=False)
    process = context.Process(target=step, args=(task, physics, args, theirs), daemon=True)
    process.start()
    theirs.close()
    took, steps, nonfinite, outcome, end = [], 0, 0, "ran", math.inf
    while time.time() < end:
        try:
            if not calls.poll(args.hang_seconds):
                outcome = "hung"
                break
            elapsed, more, nonfinite = calls.recv()
        except EOFError:
            outcome = "died"
            break
        end = min(end, time.time() + seconds)
        took.append(elapsed)
        steps += more
    process.kill()
    process.join()
    return {
        "task": task,
        "physics": physics,
        "outcome": outcome,
        "calls": len(took),
        "steps": steps,
        "steps_per_second": steps / sum(took) if took else 0.0,
        "nonfinite": nonfinite,
        "longest_call_seconds": max(took, default=0.0),
    }


def main(args: Args) -> int:
    cases = [(task, p) for task in args.tasks for p in physics_of(task, args.physics)]
    rows = []
    for task, physics in cases:
        rows.append(watch(task, physics, args, 60 * args.minutes / len(cases)))
        print(f"{task} {physics}: {rows[-1]['outcome']}, {rows[-1]['steps']:,} steps", flush=True)
    write(args.out, "tasks", args, rows, {})
    columns = ("physics", "outcome", "steps", "steps_per_second", "nonfinite")
    terminal.table(
        "Random actions",
        ["task", *columns, "longest call, s"],
        [
            [
                r["task"],
                *(terminal.short(r[k]) if "steps" in k else r[k] for k in columns),
                f"{r['longest_call_seconds']:.2f}",
            ]
            for r in rows
        ],
    )
    return 0 if all(r["outcome"] == "ran" for r in rows) else 1


if __name__ == "__main__":
    script.run(lambda: main(tyro.cli(Args)))
