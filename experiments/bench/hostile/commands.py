"""Command lines whose flags have numbers beyond their range, or no numbers.

A flag out of its range ends the command with exit code 2 and one line that names it. Commands run in
forks, see `bench/forks.py`.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from experiments.bench import forks
from experiments.bench.hostile import Case, Draw, check_line, numbered, small_run

ROOT = Path(__file__).parents[3]
SECONDS = 200.0  # for one command, until it counts as a hang
NUMBERS = (
    *("-1", "-2147483649", "0", "1", "0.5", "3", "1e8", "100000", "2147483648", "1e20", "1e39"),
    *("9223372036854775808", "18446744073709551616", "1e400", "-1e400", "1e-400", "9" * 400),
    *("nan", "inf", "-inf", "0x10", "½", "", " ", "1,5", "true", "None"),
)
TINY = (
    "--env point_maze_open --num-envs 4 --unroll-length 2 --num-minibatches 1 --num-epochs 1"
    " --actor-hidden 4 --critic-hidden 4 --eval-episodes 2 --num-evals 1 --devices 1 --no-video"
    " --total-steps 16 --run-dir {new}"
)
PPO = f"experiments/ppo.py {TINY}"
SWEEP = f"experiments/sweep.py {TINY} --learning-rates 1e-3"
DEMOS = "experiments/demos.py --env point_maze_open --episodes 2 --out {new}.npz"
RECORD = "experiments/record.py {run} --kinds expert --episodes 2 --out {new}"
REFINE = "experiments/refine.py --env point_maze_open --run-dir {new} --no-video"
PLAY = "-m jaxrl.play {run} --episodes 2 --no-video"
LARGEST = 3.4e38  # that float32 holds
COUNT, SEED, REAL = (1, 2**31 - 1), (0, 2**32 - 1), (0, LARGEST)
ALL, NEVER = math.inf, -math.inf


@dataclass(frozen=True)
class Flag:
    """A flag of a command and the values that it takes.

    `most` is the largest value that is tried for a run that works: others take minutes.
    """

    command: str
    name: str
    kind: type
    low: float
    high: float
    most: float = 1000

    def takes(self, text: str) -> bool:
        try:
            return self.low <= self.kind(text) <= self.high
        except ValueError:
            return False


FLAGS = (
    Flag(PPO, "seeds", int, 1, 65_536),
    Flag(PPO, "seed", int, *SEED, ALL),
    Flag(PPO, "num-evals", int, 0, 10_000),
    Flag(PPO, "eval-episodes", int, 1, 1e6),
    Flag(PPO, "devices", int, 0, 256),
    Flag(PPO, "keep-checkpoints", int, 0, math.inf, ALL),
    Flag(PPO, "total-steps", float, 1, 1.7e10),
    Flag(PPO, "stop-at-return", float, -math.inf, math.inf, ALL),
    Flag(PPO, "gamma", float, 0, 1),
    Flag(PPO, "learning-rate", float, 1e-38, LARGEST, ALL),
    Flag(PPO, "num-envs", int, 1, 1e6),
    Flag(PPO, "entropy-coef", float, *REAL, ALL),
    Flag(SWEEP, "gammas", float, 0, 1),
    Flag(DEMOS, "episodes", int, *COUNT),
    Flag(DEMOS, "noise", float, *REAL, ALL),
    Flag(DEMOS, "bias", float, *REAL, ALL),
    Flag(DEMOS, "delay", int, 0, 100),
    Flag(DEMOS, "mode", int, 0, 0),
    Flag(DEMOS, "seed", int, *SEED, ALL),
    Flag(RECORD, "episodes", int, *COUNT),
    Flag(RECORD, "medium", float, 0, 1),
    Flag(RECORD, "seed-index", int, 0, 1),
    Flag(RECORD, "seed", int, *SEED, ALL),
    Flag(REFINE, "demos", int, *COUNT, NEVER),
    Flag(REFINE, "noise", float, *REAL, NEVER),
    Flag(REFINE, "bc-updates", int, *COUNT, NEVER),
    Flag(REFINE, "rl-steps", int, *COUNT, NEVER),
    Flag(REFINE, "scale", float, 1e-38, LARGEST, NEVER),
    Flag(REFINE, "episodes", int, *COUNT, NEVER),
    Flag(PLAY, "episodes", int, *COUNT),
    Flag(PLAY, "seed-index", int, 0, 1),
    Flag(PLAY, "width", int, 1, 2**14),
    Flag(PLAY, "height", int, 1, 2**14),
    Flag(PLAY, "seed", int, *SEED, ALL),
)
# Command lines that ask for more than can be, each with a word that its refusal has.
TOO_MUCH = (
    (f"{PPO} --seeds 3000000", "seeds"),
    (f"{PPO} --eval-episodes 2000000000", "eval_episodes"),
    (f"{PPO} --num-envs 2000000000", "bytes"),
    (f"{SWEEP} --gammas {' '.join(['0.9'] * 300)} --seeds 1000", "seeds"),
    (f"{PPO} --wandb=", "wandb"),
    (f"{PPO} --env-options mass 1e400", "mass"),
    (f"{PPO} --env-options mass {'-' * 10_000}1", "env_options"),
)


def prepare(root: Path) -> Draw:
    run, _ = small_run(root)
    return lambda number: draw(number, root, run)


def draw(number: int, root: Path, run: Path) -> Case:
    rng, pick = numbered(number, 23)
    if rng.random() < 0.1:
        line, word = pick(TOO_MUCH)
        words, names, must = line.split(), {word}, True
    else:
        flag, text = _flag(pick)
        words = [*flag.command.split(), f"--{flag.name}={text}"]
        if flag.name == "gammas":  # of several values
            words[-1:] = ["--gammas", text]
        name = flag.name.replace("-", "_")
        names = {flag.name, name, name.rstrip("s"), f"num_{name}", *name.split("_")[1:]}
        must = not flag.takes(text)
    new = tempfile.mkdtemp(dir=root)
    words = [word.format(run=run, new=f"{new}/made") for word in words]
    shown = f"{words[0]} {' '.join(words[-2:])[:60]}"
    return Case(shown, lambda: check(run_command(words), names, must))


def _flag(pick: Callable) -> tuple[Flag, str]:
    """A flag and a value: out of range, or small enough for a command that ends soon."""
    for _ in itertools.count():
        flag, text = pick(FLAGS), pick(NUMBERS)
        if not flag.takes(text) or flag.kind(text) <= flag.most:
            return flag, text


def run_command(
    words: list[str], env: dict[str, str] | None = None, given: forks.Given | None = None
) -> subprocess.CompletedProcess:
    """Runs a command line of Python, compiled quickly."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    return forks.run(words, ROOT, os.environ | quick | (env or {}), SECONDS, given)


def check(
    done: subprocess.CompletedProcess,
    names: Iterable[str],
    must: bool,
    codes: Iterable[int] = (0, 2),
) -> str:
    """Returns "refused" or "ran".

    Args:
      done: the process that ended.
      names: a refusal must have one of these among its words; (): it may name anything.
      must: it must be refused.
      codes: the exit codes that are right.

    Raises:
      RuntimeError: a traceback, another exit code, a refusal that is not one line, or none.
    """
    lines = [x for x in done.stderr.strip().splitlines() if not x.lower().startswith("warning")]
    said = lines[-1] if lines else ""
    if any(word in done.stderr + done.stdout for word in ("Traceback", "Exception ignored")):
        raise RuntimeError(f"traceback: {said}")
    if done.returncode not in codes:
        raise RuntimeError(f"exit code {done.returncode}: {said}")
    if must and done.returncode != 2:
        raise RuntimeError("nonsense was accepted")
    if done.returncode != 2:
        return "ran" if done.returncode == 0 else "ended by a signal"
    if len(lines) != 1 or not said.startswith("error: "):
        raise RuntimeError(f"not one line: {lines[:3]}")
    if names:
        check_line(said, names)
    return "refused"
