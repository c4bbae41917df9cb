"""A long run that is killed, told to stop, starved of disk and damaged, against one left alone.

    python experiments/bench/soak.py --total-steps 4.096e7   # half an hour or more

The same training is run twice, side by side. One is left alone; the other gets a kill -9 or a
SIGTERM after a random while, again and again, each time going on with --resume; once it may write no file
beyond a few bytes, as on a full disk, and once the newest checkpoint is damaged. At the end
every array of both last checkpoints must be the same, bit for bit. Exit code 1 if not.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxrl import checkpoint, script

ROOT = Path(__file__).parents[2]
SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


@dataclass
class Args:
    learner: str = "ppo"  # the script in experiments/
    env: str = "pendulum_swingup"
    total_steps: float = 4096 * 10_000
    num_evals: int = 200  # and as many checkpoints
    flags: str = ""  # more of the script's, as in "--flags=--seeds 2"
    mean_seconds: float = 60.0  # between a start and the next kill
    seed: int = 0  # of what happens when
    folder: Path | None = None  # for both runs; default: a temporary one


def command(args: Args, run_dir: Path, resume: bool) -> list[str]:
    words = [sys.executable, str(ROOT / f"experiments/{args.learner}.py"), "--env", args.env]
    words += ["--total-steps", str(args.total_steps), "--num-evals", str(args.num_evals)]
    words += [*args.flags.split(), "--no-video", "--run-dir", str(run_dir)]
    return words + ["--resume"] * resume


def no_disk() -> None:
    """In the new process: every write beyond a few bytes fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))


def damage(path: Path, chance: random.Random) -> None:
    """Flips bits in the largest file below `path`."""
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    for _ in range(8):
        content[chance.randrange(len(content))] ^= 0xFF
    largest.write_bytes(content)


def until_it_writes(process: subprocess.Popen, path: Path) -> None:
    """Waits until a run has read its checkpoint and gone on."""
    before = path.stat().st_mtime
    while process.poll() is None and path.stat().st_mtime == before:
        time.sleep(0.5)


def last_arrays(run_dir: Path) -> dict[str, str]:
    """Digests of the last checkpoint, but for the seconds it took."""
    folder = run_dir / "checkpoints"
    found = checkpoint.digests(folder, checkpoint.steps(folder)[-1])
    return {name: digest for name, digest in found.items() if "seconds" not in name}


def disturb(args: Args, run_dir: Path, alone: subprocess.Popen) -> dict[str, int]:
    """Runs to the end in spite of everything; returns what happened how often.

    Raises:
      RuntimeError: it did not do as it should, or the run left `alone` has failed.
    """
    chance = random.Random(args.seed)
    happened = {"kill -9": 0, "SIGTERM": 0, "full disk": 0, "damaged checkpoint": 0}
    once = ["full disk", "damaged checkpoint"]
    resume = False
    while True:
        if alone.poll():
            raise RuntimeError(f"the run left alone ended with exit code {alone.returncode}")
        saved = checkpoint.steps(run_dir / "checkpoints")
        trouble = once.pop(0) if once and len(saved) > 1 else None
        if trouble == "damaged checkpoint":
            damage(run_dir / "checkpoints" / f"{saved[-1]:012d}", chance)
        process = subprocess.Popen(
            command(args, run_dir, resume),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=no_disk if trouble == "full disk" else None,
        )
        wait = chance.expovariate(1 / args.mean_seconds)
        if trouble == "damaged checkpoint":
            until_it_writes(process, run_dir / "metrics.jsonl")
        try:
            out, err = process.communicate(timeout=None if trouble == "full disk" else wait)
            what = trouble
        except subprocess.TimeoutExpired:
            name = "kill -9" if not happened["kill -9"] else chance.choice(list(SIGNALS))
            process.send_signal(SIGNALS[name])
            out, err = process.communicate()
            happened[name] += 1
            what = f"{trouble}, {name}" if trouble else name
        code = process.returncode
        if what is not None:
            print(f"{what} after {wait:.0f} s: exit code {code}; {told(out + err)}", flush=True)
        if trouble is not None:
            happened[trouble] += 1
        if trouble == "full disk" and (code != 2 or "cannot write" not in err):
            raise RuntimeError(f"a run that could not write: exit code {code}, {told(err)}")
        if trouble == "damaged checkpoint" and "is damaged" not in out + err:
            raise RuntimeError("a damaged checkpoint was not noticed")
        if "Traceback" in err or (what is None and code != 0):
            print(err, file=sys.stderr)
            raise RuntimeError(f"exit code {code}, see above")
        if code == 0:
            return happened
        resume = resume or (run_dir / "config.json").exists()


def told(text: str) -> str:
    lines = [x for x in text.splitlines() if x.startswith(("error", "warning", "resumed"))]
    return "; ".join(lines) or "nothing told"


def main() -> int:
    args = tyro.cli(Args)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    start = time.time()
    alone = subprocess.Popen(
        command(args, folder / "alone", False), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        happened = disturb(args, folder / "disturbed", alone)
        print(f"disturbed: {time.time() - start:.0f} s", flush=True)
        if alone.wait():
            raise RuntimeError(f"the run left alone ended with exit code {alone.returncode}")
    finally:
        alone.kill()
    print(f"both: {time.time() - start:.0f} s")
    same = last_arrays(folder / "alone") == last_arrays(folder / "disturbed")
    troubles = ", ".join(f"{count} x {name}" for name, count in happened.items())
    print(
        f"{troubles}: last checkpoints {'are the same, bit for bit' if same else 'DIFFER'} ({folder})"
    )
    if missed := [name for name, count in happened.items() if count == 0]:
        raise RuntimeError(f"too short for {', '.join(missed)}: more steps or fewer seconds")
    return 0 if same else 1


if __name__ == "__main__":
    script.run(main)
