"""What the benchmarks share: contenders timed in turn, a training program to advance, results."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import envs
from envs.types import Env, sample_actions
from envs.vector import VecState, fold_keys, vectorize
from jaxrl.loops import collect as rollout
from jaxrl.ops.moments import psum_over
from jaxrl.report import terminal
from jaxrl.run import runtime
from jaxrl.run.program import Program, configs_of, memory_of
from jaxrl.types import Learner, Metrics, Sharing

sys.path.append(str(Path(__file__).parent.parent))

from presets import PPO, SAC  # noqa: E402

PACKAGES = ("jax", "jaxlib", "mujoco", "mujoco-mjx", "flax", "numpy")


@dataclass
class Args:
    """The flags that every benchmark has."""

    rounds: int = 5  # times that every contender is measured, in turn
    seed: int = 0
    out: Path | None = None  # JSON file for the results


# --- Timing ---


def interleave(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round, [rounds].

    In turn, A B C A B C ..., so that a machine whose speed drifts slows all of them alike;
    an uncounted round goes first. A contender returns what its time ends with.
    """
    for run in contenders.values():
        jax.block_until_ready(run())
    seconds = {name: np.zeros(rounds) for name in contenders}
    for i in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name][i] = time.perf_counter() - start
    return seconds


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Median over rounds of a / b, so that each pair was measured side by side."""
    return float(np.median(a / b))


def spread(x: np.ndarray) -> str:
    """'median (min..max)'."""
    return f"{terminal.short(float(np.median(x)))} ({terminal.short(x.min())}..{terminal.short(x.max())})"


# --- Programs ---


def compiled(function: Any, *args: Any) -> tuple[Any, float, int]:
    """What `jax.jit` made, compiled for such arguments; seconds of that; bytes it needs."""
    start = time.perf_counter()
    program = function.lower(*args).compile()
    return program, time.perf_counter() - start, memory_of(program)


def make_env(task: str, physics: str = "") -> Env:
    """A task with the physics of its preset, or another: "accurate" or "fast"."""
    presets = PPO.get(task) or SAC.get(task)
    options = {"physics": physics} if physics else presets.env if presets else {}
    return envs.make(task, **options)


class Run:
    """The program that `jaxrl.run.train` makes of a learner, advanced some iterations at a call."""

    def __init__(
        self,
        learner: Learner,
        *,
        seeds: int = 1,
        seed: int = 0,
        devices: int = 1,
        iterations: int = 1,
        sweep: dict[str, list[float]] | None = None,
    ):
        num_runs = seeds * int(np.prod([len(v) for v in (sweep or {}).values()]))
        self.steps = num_runs * iterations * learner.steps_per_iteration  # of one call
        # Without its `compile`, which would also compile an evaluation that is not run here.
        program = Program(learner, num_runs, devices, devices)
        put = program._replicate
        keys = jnp.stack([jax.random.key(seed + i % seeds) for i in range(num_runs)])
        configs = configs_of(learner.config, sweep or {}, seeds, num_runs)
        self._init = lambda: program._init(put(keys), put(configs))
        self.reset()
        self._sums, self._n = program.zero_sums(), put(np.int32(iterations))
        self._data = put(program._data)
        args = (self.state, self._sums, self._n, *self._data)
        self._step, self.compile_seconds, self.memory_bytes = compiled(program._step, *args)

    def reset(self) -> None:
        self.state = self._init()

    def __call__(self) -> Any:
        self.state, self._sums = self._step(self.state, self._sums, self._n, *self._data)
        return self._sums


@struct.dataclass
class NoConfig:
    """Of a learner that learns nothing."""


@struct.dataclass
class RandomState:
    env: VecState
    key: jax.Array


def random_stepping(
    env: Env, num_envs: int, unroll_length: int, resets: str = "pool", axis_name: str | None = None
) -> Learner:
    """Uniformly random actions as a learner that learns nothing: what stepping alone costs."""
    vec = vectorize(env, num_envs, resets)
    psum = psum_over(axis_name)

    def init(key: jax.Array, config: Any = None) -> RandomState:
        k_env, key = jax.random.split(key)
        return RandomState(vec.reset(k_env), key)

    def step(state: RandomState) -> tuple[RandomState, Metrics]:
        def one_step(env_state, key):
            keys = fold_keys(key, env_state.index)
            action = jax.vmap(lambda k: sample_actions(env, k))(keys)
            stepped = vec.step(env_state, action)
            return stepped, rollout.episode_metrics(stepped)

        key, k_act = jax.random.split(state.key)
        keys = jax.random.split(k_act, unroll_length)
        env_state, episodes = jax.lax.scan(one_step, state.env, keys)
        return RandomState(env_state, key), rollout.over_time(episodes, psum)

    def env_axis(state: RandomState) -> Any:
        env_leaves = jax.tree.map(lambda _: 0, state.env).replace(key=-1, time=-1)
        return RandomState(env_leaves, -1)

    return Learner(
        init=init,
        step=step,
        policy=lambda state: None,
        config=NoConfig(),
        env=env,
        steps_per_iteration=num_envs * unroll_length,
        sharing=Sharing(
            env_axis,
            lambda axis: random_stepping(env, num_envs, unroll_length, resets, axis),
            num_envs,
        ),
    )


# --- Results ---


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    return {p: metadata.version(p) for p in packages}


def peak_memory() -> int:
    """Most bytes that this process has held: on the device, or in main memory on a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stats.get("peak_bytes_in_use", own * (1 if sys.platform == "darwin" else 1024))


def write(
    path: Path | None, name: str, args: Args, rows: list[dict], ratios: dict[str, float]
) -> None:
    """The results file, a row a line, without this machine's paths; nothing without a path."""
    if path is None:
        return
    settings = {k: v for k, v in asdict(args).items() if not isinstance(v, Path)}
    about = {
        "benchmark": name,
        "hardware": runtime.hardware(),
        "versions": versions(),
        "settings": settings,
        "peak_memory_bytes": peak_memory(),
        "ratios": rounded(ratios),
    }
    lines = ",\n".join(json.dumps(rounded(r), default=str) for r in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about, default=str)[:-1] + f',\n"rows": [\n{lines}\n]}}\n')


def rounded(tree: Any) -> Any:
    """Four significant digits; arrays become lists."""
    if isinstance(tree, dict):
        return {k: rounded(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple | np.ndarray):
        return [rounded(x) for x in tree]
    return float(f"{tree:.4g}") if isinstance(tree, float | np.floating) else tree
