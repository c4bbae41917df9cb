"""Which kinds of kernels take the time of a training program, from a profiler trace of it.

    python experiments/bench/traces.py --out experiments/results/bench_traces.json

Three learners, each for about a second at its preset, on one device, so that none waits for
another. A share is of the time that XLA's worker threads spent, tracing itself included, each
kernel without those that it calls; a kind is a kernel's name without its number.
"""

from __future__ import annotations

import collections
import gzip
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from bench import Run, make_env, write
from presets import PPO, SAC

from jaxrl.cli import script
from jaxrl.data import recording
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.policies.scripted import scripted
from jaxrl.report import terminal
from jaxrl.run import runtime
from jaxrl.types import Learner

TASKS = {"ppo": "hopper", "sac": "half_cheetah", "imitation": "peg_insertion"}
EPISODES = 200  # of a scripted expert, to imitate


@dataclass
class Args:
    learners: tuple[str, ...] = tuple(TASKS)
    seconds: float = 1.0  # to trace
    kinds: int = 8  # how many of each learner to tell
    seed: int = 0
    out: Path | None = None  # JSON file for the results


def learner_of(name: str) -> Learner:
    env = make_env(TASKS[name])
    if name == "ppo":
        preset = PPO[TASKS[name]]
        return ppo.make(env, script.with_schedule(preset.config, preset.total_steps))
    if name == "sac":
        return sac.make(env, SAC[TASKS[name]].config.replace(learning_starts=0))
    demos = recording.record(scripted(env), env, EPISODES, jax.random.key(0))
    return imitation.make(env, imitation.Config(), demos)


def trace(name: str, args: Args) -> list[dict[str, Any]]:
    """The events of so many seconds, the program being compiled and warm."""
    run = Run(learner_of(name), seed=args.seed)
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            end = time.perf_counter() + args.seconds
            while time.perf_counter() < end:
                jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.trace.json.gz")
        return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def own_times(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Milliseconds of every call of each kernel on a thread of XLA's, without what it called.

    Waiting is no work: the thread that starts a program waits until its workers have done it.
    """
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"
    }
    calls = collections.defaultdict(list)
    for event in (e for e in events if e.get("ph") == "X"):
        thread = (event["pid"], event["tid"])
        if "python" not in threads.get(thread, "") and "(wait " not in event["name"]:
            calls[thread].append(event)
    times = collections.defaultdict(list)
    for on_thread in calls.values():
        open_calls: list[dict[str, Any]] = []
        for event in sorted(on_thread, key=lambda e: (e["ts"], -e["dur"])):
            while open_calls and open_calls[-1]["ts"] + open_calls[-1]["dur"] <= event["ts"]:
                open_calls.pop()
            event["own"] = event["dur"]
            if open_calls:
                open_calls[-1]["own"] -= event["dur"]
            open_calls.append(event)
        for event in on_thread:
            times[event["name"]].append(event["own"] / 1e3)
    return times


def measure(name: str, args: Args) -> dict[str, Any]:
    times = own_times(trace(name, args))
    kinds: collections.Counter[str] = collections.Counter()
    for kernel, own in times.items():
        kinds[kernel.split(".")[0]] += sum(own)
    total = sum(kinds.values())
    dearest = max((k for k in times if "fusion" in k), key=lambda k: sum(times[k]))
    calls, ms = len(times[dearest]), sum(times[dearest])
    return {
        "what": f"{name}, {TASKS[name]}",
        "worker_ms": total,
        "share": {kind: own / total for kind, own in kinds.most_common(args.kinds)},
        "dearest_fusion": {"name": dearest, "calls": calls, "ms": ms, "share": ms / total},
    }


def main() -> None:
    args = tyro.cli(Args)
    runtime.setup(1)
    rows = [measure(name, args) for name in args.learners]
    write(args.out, "traces", args, rows, {})
    for row in rows:
        fusion = row["dearest_fusion"]
        shares = [[kind, f"{share:.1%}"] for kind, share in row["share"].items()]
        shares.append([f"of which {fusion['name']}: {fusion['calls']}", f"{fusion['share']:.1%}"])
        title = f"{row['what']}: {row['worker_ms']:,.0f} ms of XLA's threads"
        terminal.table(title, ["kernels", "share"], shares)


if __name__ == "__main__":
    script.run(main)
