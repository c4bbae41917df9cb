"""Checks the arguments of `train` before anything is compiled or written."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import numpy as np
import psutil

from jaxrl.compose.family import PREFIX, number_of, with_numbers
from jaxrl.config import MOST, check, numbers
from jaxrl.run import checkpoint, hosts, runtime
from jaxrl.run.program import state_like
from jaxrl.types import Learner

MOST_EVALS = 10_000  # each is a line of metrics.jsonl
MOST_RUNS = 65_536  # in one program
FEW_EPISODES = 10_000  # at once, which fit into any memory


def validate(
    learner: Learner,
    total_steps: int,
    seeds: int = 1,
    sweep: dict[str, list[float]] | None = None,
    num_evals: int = 10,
    eval_episodes: int = 32,
    devices: int = 1,
    keep_checkpoints: int = checkpoint.KEEP,
    seed: int = 0,
    make: Any = None,
) -> int:
    """Returns the number of iterations. Raises the ValueErrors of `train`."""
    if not isinstance(learner, Learner):
        raise ValueError(f"learner={learner!r}: must be what `make` of a learner returns")
    for name, value, low in (
        ("seeds", seeds, 1),
        ("devices", devices, 1),
        ("eval_episodes", eval_episodes, 1),
        ("num_evals", num_evals, 0),
        ("keep_checkpoints", keep_checkpoints, 0),
        ("total_steps", total_steps, 1),
    ):
        check_whole(name, value, low)
    several = list | tuple | np.ndarray | jax.Array
    if not isinstance(sweep, dict | None) or not all(
        isinstance(values, several) for values in (sweep or {}).values()
    ):
        raise ValueError(f"sweep={sweep!r}: must be a dict of a list of values for each number")
    if num_evals > MOST_EVALS:
        raise ValueError(f"num_evals={num_evals}: must be at most {MOST_EVALS}")
    runtime.check_seed(seed, seeds)
    num_runs = seeds * math.prod(len(v) for v in (sweep or {}).values())
    if num_runs > MOST_RUNS:
        raise ValueError(
            f"seeds={seeds}: {num_runs:,} runs with the sweep, must be at most {MOST_RUNS:,}"
        )
    if num_runs % devices:
        parts = 1 if learner.sharing is None else learner.sharing.parts
        if parts % devices:
            raise ValueError(
                f"devices={devices}: must divide the {num_runs} runs, or the {parts}"
                " equal parts that this configuration's environments and batches fall into"
            )
        if eval_episodes % devices:
            raise ValueError(
                f"eval_episodes={eval_episodes}: must be a multiple of devices={devices}"
            )
    iterations = count_iterations("total_steps", int(total_steps), learner.steps_per_iteration)
    starts = getattr(learner.config, "learning_starts", 0)
    if total_steps <= starts and hasattr(state_like(learner, num_runs), "replay"):
        raise ValueError(
            f"total_steps={int(total_steps)}: must be more than learning_starts={starts}, before"
            " which nothing is learned"
        )
    allowed = numbers(learner.config)
    for name, values in (sweep or {}).items():
        if name.startswith(PREFIX):
            _check_env_sweep(learner, name, values, make, num_runs, devices)
        elif name not in allowed:
            raise ValueError(f"sweep over {name!r}: allowed are the numbers {', '.join(allowed)}")
        if len(values) == 0:
            raise ValueError(f"sweep over {name!r} has no values")
    own = {name: values for name, values in (sweep or {}).items() if not name.startswith(PREFIX)}
    for values in itertools.product(*own.values()):
        check(learner.config.replace(**dict(zip(own, values, strict=True))))
    hosts.devices(devices)
    _check_memory(learner, num_runs, devices)
    _check_episodes(learner, num_runs, devices, eval_episodes)
    return iterations


def check_whole(name: str, value: float, low: int) -> None:
    """Raises ValueError unless `value` is a whole number of at least `low`; 1e6 is one."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    whole = whole or isinstance(value, float | np.floating) and float(value).is_integer()
    if not whole or value < low:
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {low}")


def rounded_up(steps: float, per_iteration: int, unit: str = "env steps") -> tuple[int, str]:
    """Returns `steps` rounded up to whole iterations, and a text about it: "8,192 env steps"."""
    rounded = -int(-steps // per_iteration) * per_iteration
    said = f"{rounded:,} {unit}"
    if rounded != steps:
        said += f" ({int(steps):,} rounded up to whole iterations of {per_iteration:,})"
    return rounded, said


def _check_env_sweep(
    learner: Learner, name: str, values: list[float], make: Any, num_runs: int, devices: int
) -> None:
    """Raises ValueError where numbers of the environment cannot be swept so."""
    field = name.removeprefix(PREFIX)
    number_of(learner.env, field)
    for value in values:
        with_numbers(learner.env, {field: value})  # the environment's own checks
    if make is None:
        raise ValueError(f"sweep over {name!r}: needs make=, the learner of an environment")
    if num_runs % devices:
        raise ValueError(
            f"devices={devices}: must divide the {num_runs} runs of a sweep over {name!r}"
        )


def count_iterations(name: str, steps: int, per_iteration: int) -> int:
    """Returns the iterations in `steps`. Raises ValueError unless they are whole."""
    iterations, rest = divmod(steps, per_iteration)
    if iterations > MOST:
        raise ValueError(
            f"{name}={steps}: must be at most {MOST} iterations of {per_iteration} steps"
        )
    if rest or steps < 1:
        nearest = [x * per_iteration for x in (iterations, iterations + 1) if x > 0]
        raise ValueError(
            f"{name}={steps}: must be a multiple of the {per_iteration} steps of one"
            f" iteration; nearest: {' or '.join(map(str, nearest))}"
        )
    return iterations


def _check_memory(learner: Learner, num_runs: int, devices: int) -> None:
    """Raises ValueError if the state of all runs, mostly replays, needs more than the free memory."""
    state = state_like(learner, num_runs)
    share = lambda axis: devices if num_runs % devices == 0 or axis >= 0 else 1
    of_one = lambda x, axis: x.size * x.dtype.itemsize // share(axis)
    whole = jax.tree.map(lambda _: -1, state)
    axes = whole if learner.sharing is None else learner.sharing.env_axis(state)
    needed = sum(jax.tree.leaves(jax.tree.map(of_one, state, axes)))
    if needed > (free := _free_bytes(devices)):
        size = getattr(learner.config, "replay_size", None)
        what = f"{num_runs} runs" + (f" with replay_size={size}" if size else "")
        raise ValueError(
            f"{what} need {needed:,} bytes on each of {devices} devices, which have {free:,} free"
        )


def _check_episodes(learner: Learner, num_runs: int, devices: int, episodes: int) -> None:
    """Raises ValueError if the states of all episodes of an evaluation need more memory."""
    if num_runs * episodes < FEW_EPISODES:
        return
    one = jax.eval_shape(learner.env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one))
    needed = size * num_runs * episodes // devices
    if needed > (free := _free_bytes(devices)):
        raise ValueError(
            f"eval_episodes={episodes}: {num_runs} runs need {needed:,} bytes on each of {devices}"
            f" devices, which have {free:,} free"
        )


def _free_bytes(devices: int) -> int:
    """The free memory of each of `devices`."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    # CPU devices share the main memory.
    return psutil.virtual_memory().available * jax.process_count() // devices
