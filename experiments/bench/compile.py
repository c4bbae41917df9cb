"""From nothing to the first update: cold and warm starts of every learner, and how often it compiles.

    python experiments/bench/compile.py
    python experiments/bench/compile.py --learners ppo sac --env hopper

Each start is a process of its own that sets up JAX and makes the environment and the learner as
the training script would with no flag but the environment's: its preset, its devices, what it keeps
in the compilation cache (programs that took half a second). The cache is empty, then
the one that the first has filled. Data sets are random. Imports are timed apart. Afterwards
the program runs on, in chunks of other lengths and with evaluations; every function must have been
compiled once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import tyro
from bench import Args as BenchArgs
from bench import peak_memory, write
from train import defaults

import envs.mjx.simulator  # noqa: F401  MJX is an import, too: tasks load it when they are made
from jaxrl.cli import script
from jaxrl.data import dataset as data
from jaxrl.learners import registry
from jaxrl.report import terminal
from jaxrl.run.program import Program, configs_of
from jaxrl.types import Learner

FUNCTIONS = ("init", "step", "<lambda>")  # of `jaxrl.run.program`; the last evaluates
CHILD = "--child"
# For learners that need discrete actions, goals, agents or costs, in place of --env.
ENVS = {
    "discrete_sac": "gymnax/CartPole-v1",
    "dqn": "gymnax/CartPole-v1",
    "her": "point_maze_open",
    "drq": "pixels/point_maze_open",
    "ippo": "meeting",
    "ppo_lagrangian": "cruise",
}


@dataclass
class Args(BenchArgs):
    learners: tuple[str, ...] = tuple(registry.LEARNERS)
    env: str = "inverted_pendulum"


def args_of(name: str, env: str) -> script.Args:
    """The flags of the script that trains this learner, as they are by default."""
    args = defaults(name, env)
    return replace(args, config=script.with_schedule(args.config, args.total_steps))


def learner_of(name: str, env: Any, config: Any) -> Learner:
    module = registry.module(name)
    if registry.takes(name) != "dataset":
        return module.make(env, config)
    size, rng = 1_000, np.random.default_rng(0)
    obs = rng.normal(size=(size, *env.observation_space.shape))
    action = rng.uniform(
        env.action_space.lows, env.action_space.highs, (size, *env.action_space.shape)
    )
    no = np.zeros(size, bool)
    return module.make(env, config, data.from_arrays(obs, action, no, obs, no, no))


def child(name: str, env_name: str) -> dict[str, Any]:
    """One start, in this process."""
    imported = time.time() - psutil.Process().create_time()
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
    args = args_of(name, env_name)
    env = script.prepare(
        args, registry.default_devices(args.config, args.seeds, args.eval_episodes)
    )
    learner = learner_of(name, env, args.config)
    program = Program(learner, args.seeds, args.devices, args.eval_episodes)
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
    clock["devices"] = args.devices
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
            env = ENVS.get(name, args.env)
            cold = start(name, env, Path(cache)) | {"cache": "empty"}
            warm = start(name, env, Path(cache)) | {"cache": "full"}
        rows += [cold, warm]
        ratios[f"{name}/warm_over_cold"] = warm["start_seconds"] / cold["start_seconds"]
        ratios[f"{name}/compilations"] = max(cold["compilations"].values())
    write(args.out, "compile", args, rows, ratios)
    seconds = lambda r, k: f"{r[f'{k}_seconds']:.1f}"
    terminal.table(
        f"Seconds to the first update on {args.env}"
        + "".join(f", of {name} on {ENVS[name]}" for name in args.learners if name in ENVS),
        ["", "devices", "cache", "imports", "build", "compile", "first update", "all but imports"]
        + ["compiled"],
        [
            [
                r["learner"],
                str(r["devices"]),
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
