"""Training speed of this checkout against another one, an earlier commit for example.

    git worktree add ../before COMMIT
    python experiments/bench/paired.py --against ../before
    python experiments/bench/paired.py --against ../before --ppo ant --sac --rounds 9

A process of each checkout compiles the same presets. Then they take turns (A B, B A, ...), a call
at a time, so that a machine whose speed drifts slows both alike. While one works the other sleeps.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parents[2]


@dataclass
class Args:
    against: Path  # another checkout, whose files lie where those of this one do
    ppo: tuple[str, ...] = ("hopper", "half_cheetah", "cartpole_swingup")  # tasks with a preset
    sac: tuple[str, ...] = ("hopper", "half_cheetah", "pendulum_swingup")
    seeds: int = 2  # side by side
    rounds: int = 8
    seconds: float = 2.0  # of a call, at least
    out: Path | None = None  # results, as JSON


class Side:
    """A process that trains one preset of one checkout, a call for every line that it is sent."""

    def __init__(self, checkout: Path, algorithm: str, task: str, args: Args):
        folders = [checkout / p for p in ("", "experiments", "experiments/bench")]
        command = [sys.executable, "-P", __file__, "--serve", algorithm, task, str(args.seeds)]
        self.process = subprocess.Popen(
            command,
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps, self.compile_seconds = map(float, self.answer())

    def answer(self) -> list[str]:
        """The words of the next line for us; others of the process's output are left out."""
        for line in self.process.stdout:
            if line.startswith("paired "):
                return line.split()[1:]
        raise RuntimeError(f"{' '.join(self.process.args)} ended")

    def call(self, times: int) -> float:
        """Seconds of so many calls."""
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        return float(self.answer()[0])

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(algorithm: str, task: str, seeds: str) -> None:
    """What a `Side` runs, with the modules of its checkout."""
    import jax
    import overhead
    from bench import Run, make_env
    from overhead import runtime

    args = overhead.Args(seeds=int(seeds))
    config = overhead.config_of(algorithm, task, args)
    devices = overhead.devices_of(algorithm, config, args)
    runtime.setup(devices, cache=False)
    learner = getattr(overhead, algorithm).make(make_env(task), config)
    run = Run(learner, seeds=args.seeds, devices=devices)
    print("paired", run.steps, run.compile_seconds, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            out = run()
        jax.block_until_ready(out)
        print("paired", time.perf_counter() - start, flush=True)


def measure(algorithm: str, task: str, args: Args) -> dict:
    """Steps per second of both in every round."""
    sides = {"ours": Side(HERE, algorithm, task, args)}
    sides["theirs"] = Side(args.against.resolve(), algorithm, task, args)
    for side in sides.values():
        side.call(1)  # warm
    one = max(sides["ours"].call(1), 1e-3)
    times = max(1, round(args.seconds / one))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(args.rounds):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            seconds[name].append(sides[name].call(times))
    for side in sides.values():
        side.close()
    ours, theirs = np.array(seconds["ours"]), np.array(seconds["theirs"])
    return {
        "learner": algorithm,
        "task": task,
        "seeds": args.seeds,
        "calls": times,
        **{
            f"{name}_steps_per_second": sides[name].steps * times / np.array(x)
            for name, x in seconds.items()
        },
        **{f"{name}_compile_seconds": side.compile_seconds for name, side in sides.items()},
        "speed": float(np.median(theirs / ours)),
        "compile": sides["ours"].compile_seconds / sides["theirs"].compile_seconds,
    }


def main(args: Args) -> dict[str, float]:
    from bench import spread, write

    from jaxrl.report import terminal

    rows, ratios = [], {}
    for algorithm, task in [("ppo", t) for t in args.ppo] + [("sac", t) for t in args.sac]:
        rows.append(measure(algorithm, task, args))
        for k in ("speed", "compile"):
            ratios[f"{algorithm}/{task}/{k}"] = rows[-1][k]
        write(args.out, "paired", args, rows, ratios)
    terminal.table(
        "Training steps per second of all seeds, and seconds of compilation",
        ["", "ours", "theirs", "ours/theirs", "compile", "theirs", "ours/theirs"],
        [
            [
                f"{r['learner']} {r['task']}",
                spread(r["ours_steps_per_second"]),
                spread(r["theirs_steps_per_second"]),
                f"{r['speed']:.2f}",
                f"{r['ours_compile_seconds']:.1f}",
                f"{r['theirs_compile_seconds']:.1f}",
                f"{r['compile']:.2f}",
            ]
            for r in rows
        ],
    )
    return ratios


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        import tyro

        main(tyro.cli(Args))
