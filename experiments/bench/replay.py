"""What storing and drawing transitions costs: of a SAC iteration, and in a full buffer.

    python experiments/bench/replay.py
    python experiments/bench/replay.py --env half_cheetah --replay-size 1000000

A SAC iteration (collect, insert, update) against its insertion and its batches alone, drawn
as `jaxrl.loops.off_policy` draws them; insertion into an empty ring against a full one;
and what a ring of a million transitions takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import tyro
from bench import Args as BenchArgs
from bench import Run, compiled, interleave, make_env, peak_memory, ratio, spread, write

from envs.vector import fold_keys
from jaxrl.data import replay
from jaxrl.data.replay import Replay
from jaxrl.learners.off_policy import sac
from jaxrl.loops.algorithm import split_each
from jaxrl.ops import windows
from jaxrl.report import terminal
from jaxrl.run import runtime
from jaxrl.types import Transition


@dataclass
class Args(BenchArgs):
    env: str = "half_cheetah"
    num_envs: int = 32
    updates_per_step: int = 4
    batch_size: int = 256
    hidden: tuple[int, ...] = (256, 256)
    replay_size: int = 1_000_000
    iterations: int = 50  # of SAC a call
    insertions: int = 2_000  # a call, where insertion is measured alone


def example_of(ring: Replay) -> Transition:
    return jax.tree.map(lambda x: x[0, 0], ring.steps)


def draw(ring: Replay, key: jax.Array, batch_size: int) -> windows.Batch:
    """A batch of one-step transitions, keys included."""
    starts, _ = split_each(fold_keys(key, jnp.arange(batch_size)))
    first_env = jnp.zeros(batch_size, jnp.int32)
    age, env = replay.uniform(ring, starts, first_env, ring.num_envs)
    return windows.n_step(replay.window(ring, age, env, 1), 0.99)


def bookkeeping(ring: Replay, key: jax.Array, args: Args):
    """The insertions and draws of `args.iterations` iterations, without any learning."""
    row = jax.tree.map(lambda x: jnp.zeros((1, args.num_envs, *x.shape), x.dtype), example_of(ring))

    def one_iteration(loop, key):
        ring, total = loop
        ring = replay.insert(ring, row)

        def one_batch(total, key):
            batch = draw(ring, key, args.batch_size)
            return total + sum(x.sum() for x in jax.tree.leaves(batch)), None

        total, _ = jax.lax.scan(one_batch, total, jax.random.split(key, args.updates_per_step))
        return (ring, total), None

    keys = jax.random.split(key, args.iterations)
    return jax.lax.scan(one_iteration, (ring, jnp.zeros(())), keys)[0]


def insertions(ring: Replay, count: int) -> Replay:
    row = jax.tree.map(lambda x: jnp.ones((1, ring.num_envs, *x.shape), x.dtype), example_of(ring))
    return jax.lax.fori_loop(0, count, lambda _, r: replay.insert(r, row), ring)


class Donated:
    """A compiled function whose first argument is replaced by its (first) result."""

    def __init__(self, function, first, *rest):
        self._compiled, self.compile_seconds, self.memory_bytes = compiled(
            jax.jit(function, donate_argnums=0), first, *rest
        )
        self._first, self._rest = first, rest

    def __call__(self):
        out = self._compiled(self._first, *self._rest)
        self._first = out[0] if type(out) is tuple else out
        return out


def main(args: Args) -> dict[str, float]:
    runtime.setup(1)
    env = make_env(args.env)
    config = sac.Config(
        num_envs=args.num_envs,
        updates_per_step=args.updates_per_step,
        batch_size=args.batch_size,
        replay_size=args.replay_size,
        learning_starts=0,
        actor_hidden=args.hidden,
        critic_hidden=args.hidden,
    )
    iteration = Run(sac.make(env, config), seed=args.seed, iterations=args.iterations)
    ring = jax.tree.map(lambda x: x[0], iteration.state.replay)
    is_full = ring.replace(size=jnp.asarray(ring.capacity, jnp.int32))
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    # A ring of its own for each: insertion overwrites the one it is given.
    empty_ring, full_ring = copy(ring), copy(is_full)
    contenders = {
        "SAC iteration": iteration,
        "insert and draw": Donated(
            lambda r, k: bookkeeping(r, k, args), copy(is_full), jax.random.key(args.seed)
        ),
        "insert, empty": Donated(lambda r: insertions(r, args.insertions), empty_ring),
        "insert, full": Donated(lambda r: insertions(r, args.insertions), full_ring),
    }
    seconds = interleave(contenders, args.rounds)
    of_a_call = {"SAC iteration": args.iterations, "insert and draw": args.iterations}
    each = {name: s / of_a_call.get(name, args.insertions) for name, s in seconds.items()}
    rows = [
        {
            "what": name,
            "seconds_each": each[name],
            "steps_per_second": args.num_envs / each[name],  # one of every environment each time
            "compile_seconds": contender.compile_seconds,
            "memory_bytes": contender.memory_bytes,
        }
        for name, contender in contenders.items()
    ]
    ratios = {
        "share_of_iteration": ratio(seconds["insert and draw"], seconds["SAC iteration"]),
        "full_over_empty": ratio(seconds["insert, full"], seconds["insert, empty"]),
        "updates_per_second": args.iterations
        * args.updates_per_step
        / float(min(seconds["SAC iteration"])),
    }
    actual = sum(x.nbytes for x in jax.tree.leaves(ring.steps))
    rows.append(
        {
            "what": f"ring of {ring.capacity * ring.num_envs:,}",
            "num_bytes": replay.num_bytes(example_of(ring), ring.capacity, ring.num_envs),
            "actual_bytes": actual,
            "peak_bytes_of_process": peak_memory(),
        }
    )
    write(args.out, "replay", args, rows, ratios)
    terminal.table(
        f"{args.env}, {args.replay_size:,} transitions ({actual / 1e6:,.0f} MB)",
        ["", "microseconds each", "compile s", "MB"],
        [
            [
                r["what"],
                spread(r["seconds_each"] * 1e6),
                f"{r['compile_seconds']:.1f}",
                f"{r['memory_bytes'] / 1e6:,.0f}",
            ]
            for r in rows[:-1]
        ],
    )
    terminal.table("Ratios", ["", "median"], [[k, f"{v:.3g}"] for k, v in ratios.items()])
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Args))
