"""The one driver: runs (configs x seeds) and devices as array axes, chunks of steps on the host.

One program drives every learner: a loop of `step`, vmapped over runs and sharded over devices. The
number of iterations is an argument, so another chunk length causes no recompilation. Between chunks
the host logs, evaluates, writes checkpoints or stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.broken import what_breaks
from jaxrl.compose.family import PREFIX, FamilyState, Make, family
from jaxrl.config import Real
from jaxrl.episodes import COUNTED
from jaxrl.report.files import plain
from jaxrl.report.log import FILE, Logger, set_aside
from jaxrl.run import checkpoint, folder, hosts
from jaxrl.run.health import Health, with_shares
from jaxrl.run.interrupt import Interrupt
from jaxrl.run.plan import check_whole, validate
from jaxrl.run.program import Program, configs_of
from jaxrl.run.resume import check_same, check_shape, evals_until, shaping
from jaxrl.types import Learner, Metrics

CHUNK_SECONDS = 1.0  # the longest time of a chunk; the host reads signals between chunks


@dataclass(frozen=True)
class Result:
    """What `train` returns. Metrics are [seeds], or [configs, seeds] in a sweep."""

    state: Any  # leaves [configs * seeds, ...]
    evals: list[dict[str, Any]]  # {"env_steps": int, metric: array}, oldest first; with `run_dir`
    # those before a resume included
    env_steps: int  # per seed
    seconds: float  # training alone
    compile_seconds: float
    memory_bytes: int  # of the training program on each device: arguments, outputs, temporaries
    interrupted: bool  # a signal stopped it; resume to go on


@dataclass(frozen=True)
class Look:
    """The argument of a hook of `train`. A hook returns a new state of all runs, or None."""

    learner: Learner
    state: Any  # on the devices, leaves [configs * seeds, ...]; donated by the next step
    env_steps: int  # per seed
    metrics: dict[str, np.ndarray]  # of training since the last look; [seeds] or [configs, seeds]
    evals: list[dict[str, Any]]  # as in `Result`


Hook = Callable[[Look], Any]
Evaluate = Callable[[Learner, Any, jax.Array], dict[str, jax.Array]]


def train(
    learner: Learner,
    total_steps: int,
    *,
    seeds: int = 1,
    seed: int = 0,
    sweep: dict[str, list[float]] | None = None,
    num_evals: int = 10,
    eval_episodes: int = 32,
    num_logs: int = 100,
    devices: int = 1,
    run_dir: str | Path | None = None,
    resume: bool = False,
    keep_checkpoints: int = checkpoint.KEEP,
    profile: str | Path | None = None,
    start: Any = None,
    evaluate: Evaluate | None = None,
    hooks: Sequence[Hook] = (),
    make: Make | None = None,
    stop_at_return: float | None = None,
    keep_best: bool = False,
    **logging: Any,
) -> Result:
    """Trains `seeds` runs (times the grid of `sweep`) in one program.

    Args:
      learner: from `LEARNER.make(env, config)`.
      total_steps: environment steps per seed; a multiple of `learner.steps_per_iteration`.
      seeds, seed: run i uses `seed + i` and equals the single run of that seed. (A resumed run keeps
        its keys.)
      sweep: numbers of the config to vary, e.g. `{"learning_rate": [1e-4, 3e-4]}`; the
        grid of all of them is the first axis of every metric.
      num_evals: evaluations after the one at step 0, evenly spaced; a checkpoint follows each.
        0: one at the end alone.
      eval_episodes: episodes per evaluation and run, a multiple of `devices` unless those share
        the runs.
      num_logs: lines of training metrics in all.
      devices: how many, of all processes together, to share the work among: whole runs where
        they divide evenly (nothing is communicated then), else the environments or batches of
        every run.
      run_dir: the folder of metrics and checkpoints; None: nothing is written. Of several
        processes the first writes, and all read on `resume`.
      resume: continue from the newest whole checkpoint in `run_dir`, bit for bit.
      keep_checkpoints: how many of the newest stay on disk; 0: all.
      profile: write a profiler trace of one second of training here.
      start: what runs begin from in place of `learner.init`: a function `(key, config) -> state`
        of one run, or the state of all runs (leaves [configs * seeds, ...], as in `Result`),
        which is given this learner's config. A resumed run goes on from its checkpoint.
      evaluate: `(learner, state, keys [eval_episodes]) -> metrics` of one run, in place of whole
        episodes; traced. Arrays [eval_episodes] are averaged as those of `episodes.evaluate` are,
        scalars stay. By default `learner.evaluate`.
      hooks: called in turn after every line of training metrics, before an evaluation or a
        checkpoint of the same step; see `Look`.
      make: `(env) -> learner`, this learner for another environment; needed to sweep over numbers
        of the environment, e.g. `sweep={"env.mass": [0.5, 2.0]}`.
      stop_at_return: end when the mean evaluation return over the seeds, in a sweep that of the
        best setting, is at least this.
      keep_best: the checkpoint of the best mean evaluation return stays beside the newest.
      **logging: passed to `Logger` (progress, quiet, tensorboard, wandb, config, sinks).

    Raises:
      ValueError: an argument out of range, more state than memory, or a checkpoint of another run.
      RuntimeError: files cannot be written, or every run is broken: all steps since the last log
        were not finite, all updates were skipped, or the parameters are not finite. The last good
        checkpoint stays.
    """
    sweep = {} if sweep is None else sweep
    total_iterations = validate(
        learner,
        total_steps,
        seeds,
        sweep,
        num_evals,
        eval_episodes,
        devices,
        keep_checkpoints,
        seed,
        make,
    )
    _check_other(num_logs, stop_at_return, evaluate=evaluate, make=make)
    if not (isinstance(hooks, list | tuple) and all(map(callable, hooks))):
        raise ValueError(f"hooks={hooks!r}: must be a list of functions")
    shape = (math.prod(len(v) for v in sweep.values()), seeds) if sweep else (seeds,)
    num_runs = math.prod(shape)
    for name, path in (("run_dir", run_dir), ("profile", profile)):
        if path is not None and (path == "" or not isinstance(path, str | Path)):
            raise ValueError(f"{name}={path!r}: must be the path of a folder, or None")
    run_dir = Path(run_dir) if run_dir is not None else None
    if callable(start):
        begin, own = start, learner.config
        init = lambda key, config=own: begin(key, config)
        learner, start = dataclasses.replace(learner, init=init), None
    about, per_iteration = shaping(learner), learner.steps_per_iteration
    of_env = tuple(k.removeprefix(PREFIX) for k in sweep if k.startswith(PREFIX))
    running = family(make, learner.env, of_env) if of_env else learner
    program = Program(running, num_runs, devices, eval_episodes, evaluate)
    configs = configs_of(running.config, sweep, seeds, num_runs)
    # A checkpoint holds the learner's state only: the numbers of environments are in the sweep.
    inner = (lambda x: x.inner) if of_env else lambda x: x
    outer = (lambda x: FamilyState(x, configs.env)) if of_env else lambda x: x
    own_configs = configs.learner if of_env else configs
    saved, evals = None, []
    if run_dir is not None and not resume and hosts.is_main():
        for name in (FILE, "checkpoints"):
            if (run_dir / name).exists():
                raise ValueError(
                    f"run_dir={run_dir} already holds a run: resume it or choose another"
                )
    if resume:
        if run_dir is None:
            raise ValueError("resume=True needs run_dir")
        try:
            step, saved, complaints = checkpoint.restore_newest(
                run_dir / "checkpoints",
                program.like | {"learner": inner(program.like["learner"])},
            )
        except FileNotFoundError:
            complaints = [f"no checkpoint in {run_dir}: starting from step 0"]
            if hosts.is_main() and (kept := set_aside(run_dir)):
                complaints.append(f"what it had recorded is in {kept}")
        if hosts.is_main():
            for complaint in complaints:
                print(f"warning: {complaint}", flush=True)
        if saved:
            check_same(saved["learner"].config, own_configs, run_dir)
            check_shape(checkpoint.about_of(run_dir / "checkpoints", step), about, run_dir)
            if step != int(saved["iterations"]) * learner.steps_per_iteration:
                raise ValueError(
                    f"cannot resume {run_dir}: its {int(saved['iterations'])} iterations were"
                    f" {step} steps, not {learner.steps_per_iteration} each"
                )
            evals = evals_until(run_dir, step)
    if run_dir is not None and "config" not in logging:  # otherwise the caller has written it
        settings = {"total_steps": int(total_steps), "seeds": seeds, "seed": seed}
        settings |= {"num_evals": num_evals, "eval_episodes": eval_episodes, "devices": devices}
        settings |= {"sweep": {k: plain(v) for k, v in sweep.items()}} if sweep else {}
        description = folder.describe_learner(learner, settings)
        shared = ("learner", "env", "env_overrides", "settings")

        def begin() -> None:
            if resume and not (run_dir / folder.FILE).exists():
                folder.write_config(run_dir, description)
            else:
                folder.open_run(run_dir, description, resume, shared)

        hosts.by_main("run directory", begin)
    if not hosts.is_main():
        logging |= {"quiet": True, "wandb": None, "sinks": ()}
    iteration = int(saved["iterations"]) if saved else 0
    unlogged = int(saved["unlogged"]) if saved else 0
    seconds = float(saved["seconds"]) if saved else 0.0
    saved_steps = iteration * per_iteration if saved else None
    best = _best(evals)

    log_at = _evenly(total_iterations, num_logs)
    eval_at = _evenly(total_iterations, num_evals)
    with (
        Logger(
            run_dir if hosts.is_main() else None,
            total_steps,
            seeds=seeds,
            configs=shape[0] if sweep else None,
            start_steps=iteration * per_iteration,
            **logging,
        ) as logger,
        Interrupt(quiet=logging.get("quiet", False)) as interrupt,
    ):
        compile_seconds = program.compile(logger.note)
        logger.note(
            f"compiled in {compile_seconds:.1f} s; {program.memory_bytes / 1e6:,.0f} MB on"
            f" {'each of ' * (devices > 1)}{devices} {jax.devices()[0].device_kind}"
            f" device{'s' * (devices > 1)}"
        )
        if saved:
            state, sums = program.put(outer(saved["learner"]), saved["sums"])
            logger.note(f"resumed at {iteration * per_iteration:,} steps")
        else:
            keys = jnp.stack([jax.random.key(seed + i) for i in range(seeds)] * (num_runs // seeds))
            if start is None:
                state = program.init(keys, configs)
            else:
                state = program.place(
                    outer(_started(start, inner(program.like["learner"]), own_configs))
                )
            sums = program.zero_sums()

        health = Health(logger.note, lambda: what_breaks(learner.env))

        def evaluate_now():
            nonlocal best
            metrics, finite = hosts.fetch(program.evaluate(state))
            undefined = lambda k, x: x if k in COUNTED else np.where(finite, x, np.nan)
            metrics = {k: undefined(k, np.asarray(v)).reshape(shape) for k, v in metrics.items()}
            evals.append({"env_steps": iteration * per_iteration, **metrics})
            logger.log("eval", iteration * per_iteration, seconds, rate, metrics)
            best = _best(evals)
            health.check_parameters(finite, saved_steps)

        def save():
            nonlocal saved_steps
            if run_dir is not None:
                tree = {
                    "learner": hosts.fetch(inner(state)),
                    "sums": hosts.fetch(sums),
                    "iterations": np.int32(iteration),
                    "unlogged": np.int32(unlogged),
                    "seconds": np.float32(seconds),
                }
                if hosts.is_main():
                    folder, step = run_dir / "checkpoints", iteration * per_iteration
                    stays = {best["env_steps"]} if keep_best and best else set()
                    with interrupt.held():
                        checkpoint.save(folder, step, tree, keep_checkpoints, about, stays)
                saved_steps = iteration * per_iteration

        def look(metrics: dict[str, np.ndarray]) -> None:
            """Lets every hook look, and replaces the state by what it returns."""
            nonlocal state
            for hook in hooks:
                new = hook(Look(learner, inner(state), iteration * per_iteration, metrics, evals))
                if new is not None:
                    state = program.place(outer(new))

        def reached() -> bool:
            return (
                bool(stop_at_return is not None and evals) and _score(evals[-1]) >= stop_at_return
            )

        rate, chunk, paced, stop = 0.0, 1, False, False
        if not saved and num_evals:
            evaluate_now()
        while iteration < total_iterations and not stop and not reached():
            until_look = min(x for x in log_at + eval_at if x > iteration) - iteration
            n = min(chunk, until_look)
            last = iteration + n == total_iterations
            traced = profile is not None and (paced or last)  # the first chunk sets the pace
            with jax.profiler.trace(str(profile)) if traced else contextlib.nullcontext():
                start = time.perf_counter()
                state, sums = program.step(state, sums, n)
                jax.block_until_ready(sums)
                elapsed = time.perf_counter() - start
            paced, profile = True, None if traced else profile
            iteration, unlogged, seconds = iteration + n, unlogged + n, seconds + elapsed
            chunk = max(1, int(CHUNK_SECONDS * n / elapsed))
            chunk, stop = hosts.agree(chunk, interrupt.requested is not None)
            rate = num_runs * per_iteration * n / elapsed
            if iteration in log_at:
                means = _means(hosts.fetch(sums), unlogged, shape)
                means = with_shares(means, unlogged * per_iteration)
                logger.log("train", iteration * per_iteration, seconds, rate, means)
                sums, unlogged = program.zero_sums(), 0
                health.check(means, saved_steps)
                look(means)
            if iteration in eval_at:
                evaluate_now()
                save()
        if reached() and iteration < total_iterations:
            logger.note(
                f"return {_score(evals[-1]):g} at {iteration * per_iteration:,} steps:"
                f" stop_at_return={stop_at_return:g} is reached"
            )
        interrupted = iteration < total_iterations and not reached()
        if interrupted:
            if iteration not in eval_at:  # an evaluation has saved already
                save()
            by = interrupt.requested or "another process"
            logger.note(f"stopped by {by} at {iteration * per_iteration:,} steps")
    return Result(
        hosts.fetch(inner(state)),
        evals,
        iteration * per_iteration,
        seconds,
        compile_seconds,
        program.memory_bytes,
        interrupted,
    )


def _score(measured: dict[str, Any]) -> float:
    """The mean return over the seeds, in a sweep that of the best setting; -inf if undefined."""
    rows = np.atleast_2d(np.asarray(measured.get("return", np.nan), np.float64))
    means = [row[np.isfinite(row)].mean() for row in rows if np.isfinite(row).any()]
    return float(max(means, default=-math.inf))


def _best(evals: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The evaluation of the best `_score` so far, of those with a checkpoint: not step 0."""
    trained = [e for e in evals if e["env_steps"] > 0]
    return max(trained, key=_score, default=None)


def _started(start: Any, like: Any, configs: Any) -> Any:
    """`start` with the configs of these runs.

    Raises:
      ValueError: it is not a state of this learner with this number of runs.
    """
    if hasattr(start, "config"):
        start = start.replace(config=configs)
    old, tree = jax.tree_util.tree_flatten_with_path(like)
    new, given = jax.tree_util.tree_flatten_with_path(start)
    if tree != given:
        raise ValueError("start: is not a state of this learner: its structure is another")
    for (path, x), (_, y) in zip(old, new, strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise ValueError(
                f"start: {jax.tree_util.keystr(path)} is {y.dtype}{list(y.shape)}, must be"
                f" {x.dtype}{list(x.shape)}; leaves have the leading axis configs * seeds"
            )
    return start


def _check_other(num_logs: int, stop_at_return: float | None, **functions: Any) -> None:
    """Raises ValueError for arguments of `train` that would be used late or never."""
    check_whole("num_logs", num_logs, 0)
    if stop_at_return is not None:
        Real(finite=False).check("stop_at_return", stop_at_return)
    for name, function in functions.items():
        if not (function is None or callable(function)):
            raise ValueError(f"{name}={function!r}: must be a function or None")


def _evenly(total: int, parts: int) -> list[int]:
    """Returns `parts` iterations, evenly spaced, of which the last is `total`."""
    return sorted({total, *(max(1, round(total * (i + 1) / parts)) for i in range(parts))})


def _means(sums: Metrics, iterations: int, shape) -> dict[str, np.ndarray]:
    """Returns what is recorded, from sums over iterations: see `Metrics`."""
    array = lambda tree: {k: np.asarray(v).reshape(shape) for k, v in tree.items()}
    counts = array(sums.sums)
    episodes = counts.pop("episodes", np.zeros(shape))
    average = lambda x: np.where(episodes > 0, x / np.maximum(episodes, 1), np.nan)
    out = {k: x / iterations for k, x in array(sums.means).items()} | counts
    out |= {k: average(x) for k, x in array(sums.per_episode).items()}
    return out | ({"episodes": episodes} if "episodes" in sums.sums else {})
