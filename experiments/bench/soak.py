"""A long run that is killed, told to stop, starved of disk and damaged, against one left alone.

    python experiments/bench/soak.py --out soak.json   # an hour on two cores
    python experiments/bench/soak.py --total-steps 4.096e6 --num-evals 20 --mean-seconds 15

The same training is run twice, side by side. One is left alone; the other gets a kill -9 or a
SIGTERM after a random while, again and again, each time going on with --resume. Once it may write
no file beyond a few bytes, as on a full disk; once files may be as long as its records, but not as
its checkpoints; and once the newest checkpoint is damaged. At the end every array of both last
checkpoints must be the same, bit for bit. Exit code 1 if not, or if a run printed a traceback.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from bench import write

from jaxrl.cli import script
from jaxrl.run import checkpoint

ROOT = Path(__file__).parents[2]
SIGNALS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
TOLD = {  # once each, in this order: what the run must say then
    "full disk": "cannot write",
    "full disk at a checkpoint": "cannot write checkpoint",
    "damaged checkpoint": "is damaged",
}


@dataclass
class Args:
    learner: str = "ppo"  # the script in experiments/
    env: str = "pendulum_swingup"
    total_steps: float = 4096 * 26_000
    num_evals: int = 200  # and as many checkpoints
    flags: str = ""  # more of the script's, as in "--flags=--seeds 2"
    mean_seconds: float = 60.0  # between a start and the next kill
    seed: int = 0  # of what happens when
    folder: Path | None = None  # for both runs; default: a temporary one
    out: Path | None = None  # JSON file for the outcome


def command(args: Args, run_dir: Path, resume: bool) -> list[str]:
    words = [sys.executable, str(ROOT / f"experiments/{args.learner}.py"), "--env", args.env]
    words += ["--total-steps", str(args.total_steps), "--num-evals", str(args.num_evals)]
    words += [*args.flags.split(), "--no-video", "--run-dir", str(run_dir)]
    return words + ["--resume"] * resume


def limit_files(size: int) -> None:
    """In the new process: every write beyond the first `size` bytes of a file fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def largest_file(path: Path) -> Path:
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def damage(path: Path, chance: random.Random) -> None:
    """Flips bits in the largest file below `path`."""
    largest = largest_file(path)
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


def start(args: Args, run_dir: Path, resume: bool = False, **how) -> subprocess.Popen:
    """With a compilation cache of its own, since a kill may leave half an entry."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(run_dir.with_suffix(".cache"))}
    return subprocess.Popen(command(args, run_dir, resume), cwd=ROOT, env=environment, **how)


def disturb(args: Args, run_dir: Path, alone: subprocess.Popen) -> dict[str, int]:
    """Runs to the end in spite of everything; returns what happened how often.

    Raises:
      RuntimeError: it did not do as it should, or the run left `alone` has failed.
    """
    chance = random.Random(args.seed)
    happened = dict.fromkeys((*SIGNALS, *TOLD, "traceback"), 0)
    once = list(TOLD)
    resume = False
    while True:
        if alone.poll():
            raise RuntimeError(f"the run left alone ended with exit code {alone.returncode}")
        saved = checkpoint.steps(run_dir / "checkpoints")
        trouble = once.pop(0) if once and len(saved) > 1 else None
        full_disk, limit = trouble is not None and "full disk" in trouble, None
        newest = run_dir / f"checkpoints/{saved[-1]:012d}" if saved else run_dir
        if trouble == "damaged checkpoint":
            damage(newest, chance)
        if full_disk:
            size = 512 if trouble == "full disk" else largest_file(newest).stat().st_size * 3 // 4
            limit = partial(limit_files, size)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = start(args, run_dir, resume, preexec_fn=limit, **pipes)
        wait = chance.expovariate(1 / args.mean_seconds)
        if trouble == "damaged checkpoint":
            until_it_writes(process, run_dir / "metrics.jsonl")
        begun = time.time()
        try:
            out, err = process.communicate(timeout=None if full_disk else wait)
            what = trouble
        except subprocess.TimeoutExpired:
            new = [x for x in SIGNALS if not happened[x]]  # first one of each
            name = new[0] if new else chance.choice(list(SIGNALS))
            process.send_signal(SIGNALS[name])
            out, err = process.communicate()
            happened[name] += 1
            what = f"{trouble}, {name}" if trouble else name
        code = process.returncode
        if what is not None:
            seconds = time.time() - begun
            print(f"{what} after {seconds:.0f} s: exit code {code}; {told(out + err)}", flush=True)
        if trouble is not None:
            happened[trouble] += 1
            if TOLD[trouble] not in out + err or (full_disk and code != 2):
                raise RuntimeError(f"{trouble}: exit code {code}, {told(out + err)}")
        if full_disk and checkpoint.steps(run_dir / "checkpoints") != saved:
            raise RuntimeError(f"{trouble}: the checkpoints are no longer {saved}")
        if "Traceback" in err:
            happened["traceback"] += 1
            print(f"  it printed {err.count('Traceback')} tracebacks", flush=True)
        if what is None and code != 0:
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
    begun = time.time()
    alone = start(args, folder / "alone", stdout=subprocess.DEVNULL)
    try:
        happened = disturb(args, folder / "disturbed", alone)
        print(f"disturbed: {time.time() - begun:.0f} s", flush=True)
        if alone.wait():
            raise RuntimeError(f"the run left alone ended with exit code {alone.returncode}")
    finally:
        alone.kill()
    seconds = time.time() - begun
    arrays = last_arrays(folder / "alone")
    same = arrays == last_arrays(folder / "disturbed")
    row = {"seconds": seconds, "happened": happened, "arrays": len(arrays), "same": same}
    write(args.out, "soak", args, [row], {})
    troubles = ", ".join(f"{count} x {name}" for name, count in happened.items())
    print(
        f"{seconds:.0f} s; {troubles}: the {len(arrays)} arrays of the last checkpoints"
        f" {'are the same, bit for bit' if same else 'DIFFER'} ({folder})"
    )
    if missed := [name for name in (*SIGNALS, *TOLD) if happened[name] == 0]:
        raise RuntimeError(f"too short for {', '.join(missed)}: more steps or fewer seconds")
    return 0 if same and not happened["traceback"] else 1


if __name__ == "__main__":
    script.run(main)
