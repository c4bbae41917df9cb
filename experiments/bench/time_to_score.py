"""Seconds from the start of a process until Gymnasium's v5 task pays a fixed return.

    python experiments/bench/time_to_score.py
    python experiments/bench/time_to_score.py --tasks hopper --trainers sac_320k sb3_ppo --limit 240

Each trainer is a process (drivers/), as in `peers.py`, and the trainers of a task take turns: all
train a tenth of their steps, then all the next tenth. After each tenth the policy is scored in
Gymnasium's own environment. The clock of a trainer counts its imports, its compilation and its
training. Evaluations do not count, because every trainer has the same ones. Ours use the presets
of experiments/presets/. Peers use the settings that their authors publish for the task, whose rates
are constant: a shorter run is the beginning of a longer one. A trainer stops at the task's highest
return, or where its clock passes `--limit`.

With `--seeds 5` ours trains five runs in one program, and the best peer would need five runs: its
seconds are multiplied by the seeds. A score is the mean over the seeds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import tyro
from bench import Args as BenchArgs
from bench import write

from envs.adapters.originals import ORIGINALS
from jaxrl.report import terminal

TARGETS = {
    "half_cheetah": (3_000.0, 5_000.0),
    "hopper": (2_000.0,),
    "walker2d": (3_000.0,),
    "ant": (2_000.0,),
    "inverted_double_pendulum": (9_000.0,),
}
TURNS = 10  # evaluations of each trainer
USUAL = ("ppo_1m", "sac_320k", "sb3_ppo", "sbx_sac")


@dataclass(frozen=True)
class Trainer:
    driver: str
    venv: str = ""  # "": ours
    learner: str = ""
    total_steps: int = 0  # 0: the preset's


OURS = ("ppo", "ppo_1m", "reppo", "sac", "sac_320k", "td3", "crossq", "simbav2", "bro")  # presets
TRAINERS = {name: Trainer("jaxrl_score.py", learner=name) for name in OURS} | {
    "sb3_ppo": Trainer("sb3_score.py", "sb3", "ppo", 400_000),
    "sbx_sac": Trainer("sb3_score.py", "sbx", "sac", 200_000),
    "sbx_crossq": Trainer("sb3_score.py", "sbx", "crossq", 200_000),
}


@dataclass
class Args(BenchArgs):
    rounds: int = TURNS  # evaluations of each trainer
    tasks: tuple[str, ...] = tuple(TARGETS)
    trainers: tuple[str, ...] = USUAL  # of TRAINERS
    seeds: int = 1  # of ours, at once
    total_steps: int = 0  # of every trainer and seed; 0: the trainer's own
    episodes: int = 10  # of an evaluation, of every seed
    limit: float = 0.0  # seconds of its clock after which a trainer stops; 0: none
    venvs: Path | None = None  # folder for the peers' virtual environments; None: a temporary one


def start(name: str, task: str, args: Args, venvs: Path) -> peers.Process | None:
    """The trainer's process, or None and a line that says why there is none."""
    trainer = TRAINERS[name]
    settings = {
        "task": task,
        "original": ORIGINALS[task],
        "learner": trainer.learner,
        "seed": args.seed,
        "seeds": 1 if trainer.venv else args.seeds,
        "total_steps": args.total_steps or trainer.total_steps,
        "turns": args.rounds,
        "episodes": args.episodes,
    }
    try:
        python = peers.python_of(trainer.venv, venvs) if trainer.venv else sys.executable
        return peers.Process(python, trainer.driver, settings)
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        print(f"{name} on {task}: skipped; {error}")
        return None


def measure(task: str, args: Args, venvs: Path) -> list[dict[str, Any]]:
    """A row for each trainer: its clock and its score after every turn."""
    running = {n: process for n in args.trainers if (process := start(n, task, args, venvs))}
    answers: dict[str, list[dict]] = {name: [] for name in running}
    going = set(running)
    for _ in range(args.rounds):
        for name, process in list(running.items()):
            if name not in going:
                continue
            try:
                answers[name].append(process.ask("train") | process.ask("evaluate"))
            except (RuntimeError, BrokenPipeError) as error:
                print(f"{name} on {task}: dropped; {error}")
                del running[name]
                continue
            clock = process.start_seconds + sum(a["seconds"] for a in answers[name])
            best = answers[name][-1]["return"] >= max(TARGETS[task])
            if best or 0 < args.limit <= clock:
                going.remove(name)
    rows = []
    for name, process in running.items():
        process.close()
        runs = args.seeds if TRAINERS[name].venv else 1  # a peer's seeds are runs one by one
        clock, steps = [], []
        for answer in answers[name]:
            clock.append((clock[-1] if clock else process.start_seconds) + answer["seconds"])
            steps.append((steps[-1] if steps else 0) + answer["steps"])
        rows.append(
            {
                "task": task,
                "trainer": name,
                "start_seconds": process.start_seconds,
                "compile_seconds": sum(a["compile_seconds"] for a in answers[name]),
                "clock": [runs * t for t in clock],
                "env_steps": steps,
                "returns": [a["return"] for a in answers[name]],
                "memory_bytes": answers[name][-1]["memory_bytes"],
                "versions": process.versions,
            }
        )
    return rows


def seconds_to(row: dict[str, Any], target: float) -> float | None:
    """The clock of the first evaluation of at least `target`; None: there was none."""
    reached = (t for t, r in zip(row["clock"], row["returns"], strict=True) if r >= target)
    return next(reached, None)


def ratios_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Our fastest trainer's seconds over the fastest peer's, for each task and target that both
    reached."""
    ratios = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        for target in TARGETS[task]:
            best: dict[bool, float] = {}
            for row in rows:
                seconds = seconds_to(row, target)
                if row["task"] == task and seconds is not None:
                    peer = bool(TRAINERS[row["trainer"]].venv)
                    best[peer] = min(seconds, best.get(peer, seconds))
            if len(best) == 2:
                ratios[f"{task}/{target:g}/ours_over_best_peer"] = best[False] / best[True]
    return ratios


def main(args: Args) -> list[dict[str, Any]]:
    for what, given, allowed in (
        ("tasks", args.tasks, TARGETS),
        ("trainers", args.trainers, TRAINERS),
    ):
        if unknown := sorted(set(given) - set(allowed)):
            raise SystemExit(f"--{what} {unknown[0]}: allowed are {', '.join(allowed)}")
    with tempfile.TemporaryDirectory() as temporary:
        venvs = args.venvs.expanduser().absolute() if args.venvs else Path(temporary)
        rows = [row for task in args.tasks for row in measure(task, args, venvs)]
    ratios = ratios_of(rows)
    write(args.out, "time_to_score", args, rows, ratios)
    text = lambda seconds: "-" if seconds is None else f"{seconds:.0f}"
    terminal.table(
        "Seconds from the start to a return in Gymnasium's v5 task",
        ["task", "trainer", "seconds to a return", "last return", "start s", "compile s", "MB"],
        [
            [
                row["task"],
                row["trainer"],
                ", ".join(f"{x:g}: {text(seconds_to(row, x))}" for x in TARGETS[row["task"]]),
                terminal.number(row["returns"][-1]),
                text(row["start_seconds"]),
                text(row["compile_seconds"]),
                f"{row['memory_bytes'] / 1e6:,.0f}",
            ]
            for row in rows
        ],
    )
    terminal.table("Ratios", ["", "seconds"], [[k, f"{v:.2f}"] for k, v in ratios.items()])
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
