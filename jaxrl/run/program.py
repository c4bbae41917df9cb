"""A learner as compiled functions over an axis of runs and a mesh of devices."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from envs.vector import all_finite
from envs.xla import seldom
from jaxrl.episodes import evaluate_runs, summarize
from jaxrl.run import hosts, key_reuse, shards
from jaxrl.types import Learner

AXIS = "devices"
SLOW_SECONDS = 120.0  # of compilation, after which a line says that it goes on
EVAL_KEY = 0x5EED  # all evaluations use the same episodes; the number is unlike usual seeds


class Program:
    """The three compiled functions of a run: init, step (looped), evaluate."""

    def __init__(
        self,
        learner: Learner,
        num_runs: int,
        devices: int,
        eval_episodes: int,
        evaluate: Callable[..., dict[str, jax.Array]] | None = None,
    ):
        key_reuse.install()
        self.mesh = Mesh(np.array(hosts.devices(devices)), (AXIS,))
        share_runs = num_runs % devices == 0
        self.num_runs = num_runs
        self._learner = learner
        # On one device nothing is mapped.
        on_devices = learner if share_runs else learner.sharing.on_axis(AXIS)

        def shard_map(f, in_specs, out_specs):
            if devices == 1:
                return f
            return shards.shard_map(f, self.mesh, in_specs, out_specs)

        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_runs))
        configs = jax.eval_shape(lambda: configs_of(learner.config, {}, num_runs, num_runs))
        init = jax.vmap(learner.init)
        self._state_like = state_like(learner, num_runs)
        self._data = () if learner.data is None else (learner.data,)
        if share_runs:
            self._specs = jax.tree.map(lambda _: P(AXIS), self._state_like)
        else:
            self._specs = jax.tree.map(
                lambda axis: P() if axis < 0 else P(*[None] * (axis + 1), AXIS),
                learner.sharing.env_axis(self._state_like),
            )
        self._shardings = self._sharding(self._specs)
        # The sharding of arrays with one entry per run.
        runs_spec = P(AXIS) if share_runs else P()
        self._of_runs, self._everywhere = self._sharding(runs_spec), self._sharding(P())

        axes, data_specs = (0, *[None] * len(self._data)), [P() for _ in self._data]
        # Jitted once, so that JAX reuses the trace for `eval_shape` and for the loop. This requires
        # identical shardings.
        step_all = jax.jit(jax.vmap(on_devices.step, axes), inline=True)
        specs = (self._specs, *data_specs)
        metrics_of = shard_map(lambda *args: step_all(*args)[1], specs, runs_spec)
        metrics = jax.eval_shape(metrics_of, self._state_like, *self._data)
        self._sums_like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), metrics
        )
        scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
        self.like = {
            "learner": self._state_like,
            "sums": self._sums_like,
            "iterations": scalar(jnp.int32),
            "unlogged": scalar(jnp.int32),
            "seconds": scalar(jnp.float32),
        }

        def step(state, sums, n, *data):
            def body(_, loop):
                state, sums = loop
                state, metrics = step_all(state, *data)
                add = lambda total, x: total + x.astype(jnp.float32)
                return state, jax.tree.map(add, sums, metrics)

            return jax.lax.fori_loop(0, n, body, (state, sums))

        specs = (self._specs, runs_spec, P(), *data_specs)
        # Set explicitly: for empty arrays JAX infers a replicated sharding and then rejects it.
        placed = (self._shardings, jax.tree.map(lambda _: self._of_runs, self._sums_like))
        self._step = jax.jit(
            shard_map(step, specs, specs[:2]), donate_argnums=(0, 1), out_shardings=placed
        )
        self._init = jax.jit(init, out_shardings=self._shardings)
        evaluate = evaluate or learner.evaluate
        policies = jax.vmap(learner.policy)  # written for one run
        if evaluate is None:
            ins, outs = ((P(AXIS), P()), P(AXIS)) if share_runs else ((P(), P(AXIS)), P(None, AXIS))
            episodes_of = lambda policies, keys: evaluate_runs(learner.env, policies, keys)
            episodes_of = shard_map(episodes_of, ins, outs)
            measure = lambda state, keys: summarize(episodes_of(policies(state), keys))
        else:
            of_run = lambda state, keys: _scalars(evaluate(learner, state, keys))
            measure = jax.vmap(of_run, (0, None))
            if share_runs:
                measure = shard_map(measure, (self._specs, P()), P(AXIS))
        finite = jax.vmap(lambda state: all_finite(learner.policy(state).params))
        self._evaluate = jax.jit(lambda state, keys: (measure(state, keys), finite(state)))
        self._init_args = (keys, configs)
        self._eval_keys = jax.random.split(jax.random.key(EVAL_KEY), eval_episodes)

    def _sharding(self, specs):
        """Returns shardings. One device uses no mesh; otherwise JAX traces the function twice."""
        alone = SingleDeviceSharding(self.mesh.devices[0]) if self.mesh.size == 1 else None
        return jax.tree.map(
            lambda s: alone or NamedSharding(self.mesh, s),
            specs,
            is_leaf=lambda x: isinstance(x, P),
        )

    def compile(self, say: Callable[[str], None] = lambda text: None) -> float:
        """Compiles all three functions. Returns the seconds. Calls `say` with one line if it is slow.

        JAX caches traces per thread, so this thread lowers all of them. Other threads compile.
        """
        start = time.perf_counter()
        everywhere = lambda tree: _placed(tree, self._everywhere)
        per_run = lambda tree: _placed(tree, self._of_runs)
        state, sums = _placed(self._state_like, self._shardings), per_run(self._sums_like)
        self._eval_keys = self._replicate(self._eval_keys)
        n = everywhere(jax.ShapeDtypeStruct((), jnp.int32))
        self._data = self._replicate(self._data)
        functions = {  # the longest to compile first
            "step": (self._step, (state, sums, n, *everywhere(self._data))),
            "eval": (self._evaluate, (state, everywhere(self._eval_keys))),
            "init": (self._init, everywhere(self._init_args)),
        }
        text = (
            f"still compiling after {SLOW_SECONDS:g} s: large models take minutes on a busy machine"
        )
        alarm = threading.Timer(SLOW_SECONDS, say, (text,))
        alarm.daemon = True
        alarm.start()
        pool = ThreadPoolExecutor(len(functions))
        try:
            options = {"step": None, "eval": seldom(), "init": seldom()}
            jobs = {
                name: pool.submit(f.lower(*like).compile, options[name])
                for name, (f, like) in functions.items()
            }
            self._compiled = {k: job.result() for k, job in jobs.items()}
        finally:
            alarm.cancel()
            pool.shutdown(wait=False, cancel_futures=True)  # on Ctrl-C, do not wait for compilation
        self.memory_bytes = memory_of(self._compiled["step"])
        return time.perf_counter() - start

    def _replicate(self, tree):
        return hosts.put(tree, self._everywhere)

    def init(self, keys, configs):
        return self._compiled["init"](self._replicate(keys), self._replicate(configs))

    def zero_sums(self):
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), self._sums_like)
        return hosts.put(zeros, self._of_runs)

    def put(self, state, sums):
        """Puts restored host arrays on the devices."""
        return hosts.put(state, self._shardings), hosts.put(sums, self._of_runs)

    def step(self, state, sums, n: int):
        return self._compiled["step"](state, sums, self._replicate(np.int32(n)), *self._data)

    def place(self, state):
        """A copy of a whole state where the program has it; `step` donates what it is given."""
        return hosts.put(jax.tree.map(jnp.copy, state), self._shardings)

    def evaluate(self, state) -> tuple[dict[str, jax.Array], jax.Array]:
        """Means over episodes, and whether the parameters of the policy are finite; all [runs]."""
        return self._compiled["eval"](state, self._eval_keys)


def state_like(learner: Learner, num_runs: int) -> Any:
    """Returns the shapes of the learner's state for `num_runs` vmapped runs."""
    one = jax.eval_shape(learner.init, jax.random.key(0))  # JAX caches it by the function
    return jax.tree.map(lambda x: x.update(shape=(num_runs, *x.shape)), one)


def _scalars(measured: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What an evaluation returned; arrays, of one entry per episode, as `summarize` does."""
    arrays = {k: x for k, x in measured.items() if jnp.ndim(x)}
    scalars = {k: jnp.asarray(x, jnp.float32) for k, x in measured.items() if not jnp.ndim(x)}
    return scalars | (summarize(arrays) if arrays else {})


def _placed(tree: Any, shardings: Any) -> Any:
    """Returns shapes with shardings. `shardings`: one, or a tree like that of the arrays."""
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    like = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(like, tree, shardings)


def configs_of(config: Any, sweep: dict[str, list[float]], seeds: int, num_runs: int) -> Any:
    """Returns the config of every run, leaves [configs * seeds] float32; seeds vary fastest."""
    grid = itertools.product(*sweep.values())
    replace = getattr(config, "with_values", config.replace)
    each = [replace(**dict(zip(sweep, values, strict=True))) for values in grid]
    each = [c for c in each for _ in range(num_runs // len(each))]
    return jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *each)


def memory_of(compiled: Any) -> int:
    """Returns the bytes of a program's arguments, results and temporaries; 0 if unknown."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
