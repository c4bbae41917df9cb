"""What devices that share a run pay to tell each other something: one sum over all of them.

    python experiments/bench/reduce.py
    python experiments/bench/reduce.py --devices 4 --floats 1 23000

A program of `jaxrl.run.train` sums, with `jax.lax.psum`, a few numbers or a network's gradients; here a
loop does nothing else. Seconds of one sum by the number of floats, on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from bench import Args as BenchArgs
from bench import compiled, interleave, ratio, spread, write
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxrl.report import terminal
from jaxrl.run import hosts, runtime


@dataclass
class Args(BenchArgs):
    devices: int = 2
    floats: tuple[int, ...] = (1, 1_000, 23_000, 1_000_000)  # 23,000: hopper's PPO preset
    sums: int = 500  # a call


def main(args: Args) -> dict[str, float]:
    runtime.setup(args.devices)
    mesh = Mesh(np.array(hosts.devices(args.devices)), ("devices",))

    def loop(x: jax.Array) -> jax.Array:
        mean = lambda _, x: jax.lax.psum(x, "devices") / args.devices
        return jax.lax.fori_loop(0, args.sums, mean, x)

    spec = P("devices")
    shared = jax.shard_map(loop, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    place = jax.NamedSharding(mesh, spec)
    inputs = {n: jnp.ones(args.devices * n, device=place) for n in args.floats}
    programs = {n: compiled(jax.jit(shared), x) for n, x in inputs.items()}
    calls = {str(n): lambda n=n: programs[n][0](inputs[n]) for n in args.floats}
    seconds = {int(n): s / args.sums for n, s in interleave(calls, args.rounds).items()}
    rows = [
        {
            "floats": n,
            "seconds_each": s,
            "steps_per_second": 1.0 / s,  # a step is one sum
            "bytes_per_second": 4 * n / s,
            "compile_seconds": programs[n][1],
            "memory_bytes": programs[n][2],
        }
        for n, s in seconds.items()
    ]
    first = args.floats[0]
    ratios = {f"{n}_over_{first}": ratio(seconds[n], seconds[first]) for n in args.floats[1:]}
    write(args.out, "reduce", args, rows, ratios)
    terminal.table(
        f"One sum over {args.devices} devices ({mesh.devices[0].device_kind})",
        ["floats", "microseconds", "MB/s"],
        [
            [
                f"{r['floats']:,}",
                spread(1e6 * r["seconds_each"]),
                f"{np.median(r['bytes_per_second']) / 1e6:,.0f}",
            ]
            for r in rows
        ],
    )
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Args))
