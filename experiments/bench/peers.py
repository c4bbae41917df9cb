"""Our learners against other JAX libraries: same task, settings, networks and steps, in turn.

    python experiments/bench/peers.py
    python experiments/bench/peers.py --groups sac --venvs ~/peers --out peers.json

Each peer lives in a virtual environment of its own, which this script makes (`--venvs` keeps
them) because they pin libraries that we and each other do not. A trainer is a process
(drivers/) that waits for its turn: all train a round, then all the next. Rounds of warm-up,
which hold compilation and the first random steps, are not counted. How long XLA compiled, all
rounds together, stands apart from the seconds until an evaluation found the task solved. The seconds
of a user's wait until then, imports and compilation included, stand beside them.

purejaxrl is no package: download its repository and name the folder that holds `ppo.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from bench import Args as BenchArgs
from bench import ratio, spread, write

from jaxrl.report import terminal

DRIVERS = Path(__file__).parent / "drivers"
OURS = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")  # of the environment
VENVS: dict[str, tuple[str, ...]] = {
    "sbx": ("sbx-rl==0.28.0", "torch==2.13.0", "gymnasium[mujoco]==1.4.0", "jax==0.10.2"),
    "sb3": ("stable-baselines3==2.9.2", "torch==2.13.0", "gymnasium[mujoco]==1.4.0"),
    "rejax": ("rejax==0.1.3", "gymnax==0.0.9", "jax==0.10.2"),  # its newest gymnax breaks it
    # The newest jax has no `device_put_replicated`, which this trainer calls.
    "brax": ("brax==0.14.2", "jax==0.7.2", "jaxlib==0.7.2", "mujoco==3.3.7", "mujoco-mjx==3.3.7"),
}

SOLVED = {"Pendulum-v1": -200.0, "CartPole-v1": 475.0, "inverted_pendulum": 900.0}  # returns


@dataclass(frozen=True)
class Trainer:
    driver: str
    venv: str = ""  # "": ours
    seeds: int = 1
    matmul_precision: str = "default"  # of ours


@dataclass(frozen=True)
class Group:
    """Trainers of one task, `jaxrl` first."""

    counts: str  # what is compared: "updates" or "steps" per second
    settings: dict[str, Any]
    trainers: dict[str, Trainer]


PPO = {
    "learner": "ppo",
    "env_options": {},
    "fresh": True,
    "unroll_length": 64,
    "num_minibatches": 4,
    "num_epochs": 4,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_ratio": 0.2,
    "value_coef": 0.5,
    "entropy_coef": 0.01,
    "max_grad_norm": 0.5,
    "normalize_obs": False,
    "activation": "tanh",
    "hidden": (64, 64),
}
GROUPS = {
    "sac": Group(
        "updates",
        {
            "learner": "sac",
            "task": "Pendulum-v1",
            "env": "gymnax/Pendulum-v1",
            "env_options": {},
            "fresh": False,
            "num_envs": 1,
            "updates_per_step": 1,
            "batch_size": 256,
            "hidden": (256, 256),
            "learning_rate": 1e-3,
            "gamma": 0.99,
            "tau": 0.005,
            "replay_size": 131_072,
            "round_steps": 1_000,
        },
        {
            "jaxrl": Trainer("jaxrl_run.py"),
            "jaxrl_bfloat16": Trainer("jaxrl_run.py", matmul_precision="bfloat16"),
            "sbx": Trainer("sbx_sac.py", "sbx"),
            "rejax": Trainer("rejax_sac.py", "rejax"),
            "8_seeds": Trainer("jaxrl_run.py", seeds=8),
        },
    ),
    "ppo": Group(
        "steps",
        PPO
        | {
            "task": "CartPole-v1",
            "env": "gymnax/CartPole-v1",
            "num_envs": 64,
            "round_steps": 64 * 64 * 64,
        },
        {
            "jaxrl": Trainer("jaxrl_run.py"),
            "rejax": Trainer("rejax_ppo.py", "rejax"),
            "purejaxrl": Trainer("purejaxrl_ppo.py", "rejax"),
        },
    ),
    "brax_ppo": Group(
        "steps",
        PPO
        | {
            "task": "inverted_pendulum",
            "env": "brax/inverted_pendulum",
            "env_options": {"backend": "mjx"},
            "fresh": False,
            # The sizes that brax gives this task; its 16 unrolls of 5 steps are one of 80.
            "num_envs": 2_048,
            "unroll_length": 80,
            "num_minibatches": 32,
            "learning_rate": 3e-4,
            "gamma": 0.97,
            "normalize_obs": True,
            "activation": "swish",
            "hidden": (32,) * 4,
            "critic_hidden": (256,) * 5,
            "round_steps": 2_048 * 80 * 2,
        },
        {
            "jaxrl": Trainer("jaxrl_run.py"),
            "jaxrl_bfloat16": Trainer("jaxrl_run.py", matmul_precision="bfloat16"),
            "brax": Trainer("brax_ppo.py", "brax"),
        },
    ),
}


@dataclass
class Args(BenchArgs):
    rounds: int = 6
    warmup: int = 2  # rounds before those; the first is of random actions in SAC
    groups: tuple[str, ...] = tuple(GROUPS)
    round_steps: int = 0  # environment steps a round; 0: the group's
    eval_episodes: int = 16
    venvs: Path | None = None  # folder for the peers' virtual environments; None: a temporary one
    purejaxrl: Path | None = None  # the folder `purejaxrl` of its repository


class Process:
    """A driver, waiting for its turn. It gets no XLA flags of ours, and no cache of programs."""

    def __init__(self, python: Path | str, driver: str, settings: dict[str, Any]):
        began = time.perf_counter()
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [str(python), str(DRIVERS / driver), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={k: v for k, v in os.environ.items() if k not in OURS},
            text=True,
        )
        self.versions = self._answer()["versions"]
        self.start_seconds = time.perf_counter() - began  # imports, mostly

    def ask(self, word: str) -> dict[str, Any]:
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # else a library said something while it was imported
                return json.loads(line)
        self._errors.seek(0)
        raise RuntimeError((self._errors.read().strip() or "it ended silently").splitlines()[-1])


def python_of(venv: str, folder: Path) -> Path:
    """The interpreter of a peer's virtual environment, which is made if it is not there."""
    path = folder / venv
    python = path / "bin" / "python"
    if not (path / "ready").exists():
        print(f"installing {' '.join(VENVS[venv])} into {path}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", path], check=True)
        pip = [python, "-m", "pip", "install", "-q", *VENVS[venv]]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        (path / "ready").touch()
    return python


def start(name: str, trainer: Trainer, settings: dict[str, Any], args: Args, venvs: Path):
    """The trainer's process, or None and a line that says why there is none."""
    if name == "purejaxrl" and args.purejaxrl is None:
        print("purejaxrl: skipped; it is no package, give --purejaxrl FOLDER")
        return None
    try:
        python = python_of(trainer.venv, venvs) if trainer.venv else sys.executable
        round_steps = settings["round_steps"] // trainer.seeds  # of each seed: equal work
        own = {"seeds": trainer.seeds, "round_steps": round_steps, "learning_starts": round_steps}
        own["matmul_precision"] = trainer.matmul_precision
        return Process(python, trainer.driver, settings | own)
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        print(f"{name}: skipped; {error}")
        return None


def measure(name: str, group: Group, args: Args, venvs: Path) -> list[dict[str, Any]]:
    settings = group.settings | {
        "seed": args.seed,
        "eval_episodes": args.eval_episodes,
        "total_rounds": args.warmup + args.rounds,
        "purejaxrl": str(args.purejaxrl),
    }
    settings["round_steps"] = args.round_steps or settings["round_steps"]
    running = {
        k: process
        for k, trainer in group.trainers.items()
        if (process := start(k, trainer, settings, args, venvs))
    }
    answers: dict[str, list[dict]] = {k: [] for k in running}
    for _ in range(args.warmup + args.rounds):
        for k, process in list(running.items()):
            try:
                answers[k].append(process.ask("train") | process.ask("evaluate"))
            except (RuntimeError, BrokenPipeError) as error:
                print(f"{k}: dropped; {error}")
                del running[k]
    rows = []
    for k, process in running.items():
        process.close()
        counted = answers[k][args.warmup :]
        rows.append(
            {
                "group": name,
                "trainer": k,
                "task": settings["task"],
                "counts": group.counts,
                "per_second": [a[group.counts] / a["seconds"] for a in counted],
                "steps_per_second": [a["steps"] / a["seconds"] for a in counted],
                "seconds": [a["seconds"] for a in answers[k]],  # with those of compilation
                "compile_seconds": sum(a["compile_seconds"] for a in answers[k]),
                "returns": [a["return"] for a in answers[k]],
                "start_seconds": process.start_seconds,
                "seconds_to_return": seconds_to_return(answers[k], settings),
                "seconds_to_solve": seconds_to_solve(answers[k], settings, process.start_seconds),
                "memory_bytes": answers[k][-1]["memory_bytes"],
                "versions": process.versions,
            }
        )
    return rows


def seconds_to_return(answers: list[dict], settings: dict[str, Any]) -> float | None:
    """Of training, without compilation, until the first evaluation that found the task solved;
    None: never. Where every round is a run of its own, of the first run that solved it."""
    i = first_solved(answers, settings)
    if i is None:
        return None
    seconds = [a["seconds"] - a["compile_seconds"] for a in answers]
    return seconds[i] if settings["fresh"] else sum(seconds[: i + 1])


def seconds_to_solve(
    answers: list[dict], settings: dict[str, Any], start_seconds: float
) -> float | None:
    """`seconds_to_return` with imports and all compilation until then: what a user waits."""
    i, training = first_solved(answers, settings), seconds_to_return(answers, settings)
    if i is None:
        return None
    return start_seconds + training + sum(a["compile_seconds"] for a in answers[: i + 1])


def first_solved(answers: list[dict], settings: dict[str, Any]) -> int | None:
    """The first round whose evaluation found the task solved; None: there was none."""
    solved = SOLVED[settings["task"]]
    return next((i for i, a in enumerate(answers) if a["return"] >= solved), None)


def ratios_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Ours over each peer, in bfloat16, too; and ours in bfloat16, and of 8 seeds, over one."""
    ratios = {}
    for group in dict.fromkeys(r["group"] for r in rows):
        rates = {r["trainer"]: np.array(r["per_second"]) for r in rows if r["group"] == group}
        peers = [name for name in rates if GROUPS[group].trainers[name].venv]
        pairs = [(ours, peer) for ours in ("jaxrl", "jaxrl_bfloat16") for peer in peers]
        pairs += [("jaxrl_bfloat16", "jaxrl"), ("8_seeds", "jaxrl")]
        for a, b in pairs:
            if a in rates and b in rates:
                ratios[f"{group}/{a}_over_{b}"] = ratio(rates[a], rates[b])
    return ratios


def main(args: Args) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        venvs = args.venvs.expanduser().absolute() if args.venvs else Path(temporary)
        rows = [r for name in args.groups for r in measure(name, GROUPS[name], args, venvs)]
    ratios = ratios_of(rows)
    write(args.out, "peers", args, rows, ratios)
    columns = ["group", "trainer", "per second", "last return", "training s to solve"]
    columns += ["s to solve in all", "compile s", "MB"]
    seconds = lambda x: f"{x:.1f}" if x else "-"
    terminal.table(
        "Gradient updates per second (sac), environment steps per second (ppo)",
        [*columns, "versions"],
        [
            [
                r["group"],
                r["trainer"],
                spread(np.array(r["per_second"])),
                terminal.number(r["returns"][-1]),
                seconds(r["seconds_to_return"]),
                seconds(r["seconds_to_solve"]),
                f"{r['compile_seconds']:.1f}",
                f"{r['memory_bytes'] / 1e6:,.0f}",
                " ".join(f"{k} {v}" for k, v in r["versions"].items()),
            ]
            for r in rows
        ],
    )
    terminal.table("Ratios", ["", "median"], [[k, f"{v:.2f}"] for k, v in ratios.items()])
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
