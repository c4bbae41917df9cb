"""Physics throughput: our environments against plain MJX and against C MuJoCo.

    python experiments/bench/physics.py
    python experiments/bench/physics.py --tasks ant --batches 256 1024 --physics fast

Control steps per second under random actions of five things in turn. ours: `vectorize`d
stepping, with observations, rewards, time limits and resets. mjx: `vmap(mjx.step)` in a loop
over whole `mjx.Data`, nothing else, under the same XLA flags, the same small-matrix routines
and on as many devices. shipped: the same loop as MJX comes, in a process without our flags and
routines, on one device. warp: as shipped, with `impl="warp"`, on a GPU where warp-lang is
installed. rollout: C MuJoCo's `mujoco.rollout` on every core, from the same start states, as
many substeps. Nothing but ours is ever reset. Of a process that fails only its own numbers are
missing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from bench import Args as BenchArgs
from bench import NoConfig, Run, interleave, make_env, random_stepping, ratio, spread, write
from flax import struct
from mujoco import rollout
from peers import Process

from envs.mjx.simulator import mjx
from envs.types import Env
from jaxrl.report import terminal
from jaxrl.run import runtime
from jaxrl.types import Learner, Sharing

OTHERS = ("mjx", "shipped", "warp", "rollout")


@dataclass
class Args(BenchArgs):
    tasks: tuple[str, ...] = ("hopper", "half_cheetah")
    physics: tuple[str, ...] = ("accurate", "fast")
    batches: tuple[int, ...] = (64, 512)
    steps: int = 16  # control steps a call
    rounds: int = 3


@struct.dataclass
class MjxState:
    leaves: list[jax.Array]  # [N, ...] of an `mjx.Data`, without those of size 0
    ctrl_range: tuple[jax.Array, jax.Array]
    key: jax.Array


def plain_mjx(env: Env, num_envs: int, unroll_length: int) -> Learner:
    """`vmap(mjx.step)` in a scan, as a learner that learns nothing."""
    task = unwrapped(env)
    sim = task.sim

    def init(key: jax.Array, config: Any = None) -> MjxState:
        keys = jax.random.split(key, num_envs)
        data = jax.vmap(lambda k: sim.data(task.reset(k).data))(keys)
        leaves = [x for x in jax.tree.leaves(data) if x.size]
        bounds = jnp.asarray(sim.mj_model.actuator_ctrlrange, jnp.float32).T
        return MjxState(leaves, (bounds[0], bounds[1]), key)

    def data_of(state: MjxState) -> mjx.Data:
        count, given = state.leaves[0].shape[0], iter(state.leaves)
        like = jax.tree.map(jnp.asarray, sim.template)
        full = lambda x: next(given) if x.size else jnp.zeros((count, *x.shape), x.dtype)
        return jax.tree.map(full, like)

    def step(state: MjxState):
        low, high = state.ctrl_range
        data = data_of(state)
        shape = data.ctrl.shape

        def control_step(data, key):
            data = data.replace(ctrl=jax.random.uniform(key, shape, minval=low, maxval=high))
            substep = lambda _, d: jax.vmap(mjx.step, (None, 0))(sim.model, d)
            return jax.lax.fori_loop(0, task.frame_skip, substep, data), None

        key, k_act = jax.random.split(state.key)
        data, _ = jax.lax.scan(control_step, data, jax.random.split(k_act, unroll_length))
        leaves = [x for x in jax.tree.leaves(data) if x.size]
        return state.replace(leaves=leaves, key=key), {"qpos": data.qpos.mean()}

    def env_axis(state: MjxState):
        none = jax.tree.map(lambda _: -1, state)
        return none.replace(leaves=[0] * len(state.leaves))

    return Learner(
        init=init,
        step=step,
        policy=lambda state: None,
        config=NoConfig(),
        env=env,
        steps_per_iteration=num_envs * unroll_length,
        sharing=Sharing(env_axis, lambda axis: plain_mjx(env, num_envs, unroll_length), num_envs),
    )


def unwrapped(env: Env) -> Any:
    """The task inside its time limit."""
    while not hasattr(env, "sim"):
        env = env.env
    return env


def starts(task: Any, num_envs: int, seed: int) -> Any:
    """Physics of so many resets, on the host."""
    keys = jax.random.split(jax.random.key(seed), num_envs)
    return jax.device_get(jax.jit(jax.vmap(task.reset))(keys).data)


class Shipped:
    """A process that steps MJX as it comes (drivers/mjx_step.py), once at a call.

    Of one that fails `error` says why, and its calls do nothing.
    """

    def __init__(self, impl: str, settings: dict[str, Any]):
        self.about, self.error = {}, ""
        try:
            self._process = Process(sys.executable, "mjx_step.py", settings | {"impl": impl})
        except RuntimeError as error:
            self.error = str(error)

    def __call__(self) -> None:
        if not self.error:
            try:
                self.about = self._process.ask("train")
            except (RuntimeError, BrokenPipeError) as error:
                self.error = str(error)

    def close(self) -> None:
        if not self.error:
            self._process.close()


def shipped_settings(env: Env, num_envs: int, args: Args, folder: Path) -> dict[str, Any]:
    """For `Shipped`, with the model and start states in files in `folder`."""
    task, start = unwrapped(env), starts(unwrapped(env), num_envs, args.seed)
    files = {"model": str(folder / "model.mjb"), "start": str(folder / "start.npz")}
    mujoco.mj_saveModel(task.sim.mj_model, files["model"], None)
    np.savez(files["start"], qpos=start.qpos, qvel=start.qvel)
    return files | {"substeps": task.frame_skip, "steps": args.steps, "seed": args.seed}


def implementations() -> dict[str, str]:
    """MJX's by the names that they have here, as far as this machine has them."""
    has_warp = jax.default_backend() == "gpu" and importlib.util.find_spec("warp")
    return {"shipped": "jax"} | ({"warp": "warp"} if has_warp else {})


def c_mujoco(env: Env, num_envs: int, unroll_length: int, seed: int):
    """A call is `mujoco.rollout` on every core, over the same substeps, from resets."""
    task = unwrapped(env)
    model, rng = task.sim.mj_model, np.random.default_rng(seed)
    start = starts(task, num_envs, seed)
    workers = [mujoco.MjData(model) for _ in range(os.cpu_count())]
    states = np.zeros((num_envs, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
    for i in range(num_envs):
        workers[0].qpos[:], workers[0].qvel[:] = start.qpos[i], start.qvel[i]
        mujoco.mj_getState(model, workers[0], states[i], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    low, high = model.actuator_ctrlrange.T
    ctrl = rng.uniform(low, high, (num_envs, unroll_length, model.nu))
    ctrl = np.repeat(ctrl, task.frame_skip, axis=1)
    pool = rollout.Rollout(nthread=len(workers))
    return lambda: pool.rollout(model, workers, states, ctrl)[0][:, -1]


def measure(task: str, physics: str, batch: int, args: Args) -> dict[str, Any]:
    env = make_env(task, physics)
    devices = runtime.default_devices(1, batch)
    settings = {"devices": devices, "seed": args.seed}
    contenders = {
        "ours": Run(random_stepping(env, batch, args.steps), **settings),
        "mjx": Run(plain_mjx(env, batch, args.steps), **settings),
        "rollout": c_mujoco(env, batch, args.steps, args.seed),
    }
    with tempfile.TemporaryDirectory() as folder:
        how = shipped_settings(env, batch, args, Path(folder))
        processes = {k: Shipped(impl, how) for k, impl in implementations().items()}
        seconds = interleave(contenders | processes, args.rounds)
    for name, process in processes.items():
        process.close()
        if process.error:
            print(f"{name}: dropped; {process.error}", flush=True)
            del seconds[name]
    programs = {k: vars(contenders[k]) for k in ("ours", "mjx")}
    programs |= {k: process.about for k, process in processes.items() if not process.error}
    return {
        "task": task,
        "physics": physics,
        "num_envs": batch,
        "devices": devices,
        "substeps": unwrapped(env).frame_skip,
        "steps_per_second": {k: batch * args.steps / s for k, s in seconds.items()},
        **{
            what: {k: x[what] for k, x in programs.items() if what in x}
            for what in ("compile_seconds", "memory_bytes")
        },
        **{
            f"ours_over_{other}": ratio(seconds[other], seconds["ours"])
            for other in OTHERS
            if other in seconds
        },
    }


def main(args: Args) -> dict[str, float]:
    runtime.setup(max(runtime.default_devices(1, b) for b in args.batches))
    rows, ratios = [], {}
    for task in args.tasks:
        for physics in args.physics:
            for batch in args.batches:
                rows.append(measure(task, physics, batch, args))
                for k in (f"ours_over_{other}" for other in OTHERS):
                    if k in rows[-1]:
                        ratios[f"{task}/{physics}/{batch}/{k}"] = rows[-1][k]
                write(args.out, "physics", args, rows, ratios)
    rate = lambda r, k: spread(r["steps_per_second"][k]) if k in r["steps_per_second"] else "-"
    times = lambda r, k: f"{r[k]:.2f}" if k in r else "-"
    terminal.table(
        "Control steps per second, random actions (-: not available)",
        ["task", "physics", "num_envs", "ours", *OTHERS, *(f"ours/{other}" for other in OTHERS)],
        [
            [
                r["task"],
                r["physics"],
                r["num_envs"],
                *(rate(r, k) for k in ("ours", *OTHERS)),
                *(times(r, f"ours_over_{other}") for other in OTHERS),
            ]
            for r in rows
        ],
    )
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Args))
