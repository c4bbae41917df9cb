"""From nothing to the first update: cold and warm starts of every learner, and how often it compiles.

    python experiments/bench/compile.py
    python experiments/bench/compile.py --learners ppo sac --env hopper

Each start is a process of its own: with an empty compilation cache, then with the one that
the first has filled. Imports are timed apart. Afterwards the program runs on, in chunks of
other lengths and with evaluations; every function must have been compiled once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import tyro
from bench import Args as BenchArgs
from bench import make_env, peak_memory, write

import envs.physics  # noqa: F401  MJX is an import, too: tasks load it when they are made
from jaxrl import data, runtime, terminal
from jaxrl.program import Program, configs_of

ONLINE = ("ppo", "sac", "td3", "dsac", "mdpo", "pmoe")
OFFLINE = ("bc", "td3_bc", "iql")
FUNCTIONS = ("init", "step", "<lambda>")  # of `jaxrl.program`; the last evaluates
CHILD = "--child"


@dataclass
class Args(BenchArgs):
    learners: tuple[str, ...] = ONLINE + OFFLINE
    env: str = "inverted_pendulum"


def learner_of(name: str, env: Any):
    """With the settings it comes with, except for a small replay."""
    module = import_module(f"jaxrl.learners.{name}")
    if name in OFFLINE:
        size, rng = 1_000, np.random.default_rng(0)
        obs = rng.normal(size=(size, *env.observation_space.shape))
        action = rng.uniform(
            env.action_space.lows, env.action_space.highs, (size, *env.action_space.shape)
        )
        no = np.zeros(size, bool)
        return module.make(env, module.Config(), data.from_arrays(obs, action, no, obs, no, no))
    small = {} if name == "ppo" else {"replay_size": 10_000}
    return module.make(env, module.Config(**small))


def child(name: str, env_name: str) -> dict[str, Any]:
    """One start, in this process."""
    imported = time.time() - psutil.Process().create_time()
    runtime.setup(1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilations: Counter[str] = Counter()

    def count(event: str, duration: float, **about) -> None:
        if event.endswith("/backend_compile_duration"):
            compilations[about["fun_name"].removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    clock = {"import_seconds": imported}

    def lap(label: str, since: float) -> float:
        now = time.perf_counter()
        clock[label] = now - since
        return now

    begin = time.perf_counter()
    learner = learner_of(name, make_env(env_name))
    program = Program(learner, 1, 1, 8)
    now = lap("build_seconds", begin)
    program.compile()
    now = lap("compile_seconds", now)
    keys = jnp.stack([jax.random.key(0)])
    state = program.init(keys, configs_of(learner.config, {}, 1, 1))
    state, sums = jax.block_until_ready(program.step(state, program.zero_sums(), 1))
    lap("first_update_seconds", now)
    lap("start_seconds", begin)  # all of that
    for n in (2, 3, 1):
        state, sums = program.step(state, sums, n)
        jax.block_until_ready(program.evaluate(state))
    clock["compilations"] = {k: compilations[k] for k in FUNCTIONS}
    clock["memory_bytes"] = program.memory_bytes
    clock["peak_memory_bytes"] = peak_memory()
    return clock


def start(name: str, env: str, cache: Path) -> dict[str, Any]:
    """One start, in a process of its own."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, CHILD, name, env]
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return {"learner": name, "process_seconds": time.perf_counter() - begin} | answer


def main(args: Args) -> dict[str, float]:
    rows, ratios = [], {}
    for name in args.learners:
        with tempfile.TemporaryDirectory() as cache:
            cold = start(name, args.env, Path(cache)) | {"cache": "empty"}
            warm = start(name, args.env, Path(cache)) | {"cache": "full"}
        rows += [cold, warm]
        ratios[f"{name}/warm_over_cold"] = warm["start_seconds"] / cold["start_seconds"]
        ratios[f"{name}/compilations"] = max(cold["compilations"].values())
    write(args.out, "compile", args, rows, ratios)
    seconds = lambda r, k: f"{r[f'{k}_seconds']:.1f}"
    terminal.table(
        f"Seconds to the first update on {args.env}",
        ["", "cache", "imports", "build", "compile", "first update", "all but imports", "compiled"],
        [
            [
                r["learner"],
                r["cache"],
                *(seconds(r, k) for k in ("import", "build", "compile", "first_update", "start")),
                " ".join(str(x) for x in r["compilations"].values()),
            ]
            for r in rows
        ],
    )
    return ratios


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(child(*sys.argv[2:])))
    else:
        main(tyro.cli(Args))
