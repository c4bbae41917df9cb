"""Several processes as one machine, by `jax.distributed`. With one process these are trivial.

Every process runs the same script. `runtime.setup` joins them, and arrays of a run are then global.
The functions here move values in and out. Only the main process writes files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding


def is_main() -> bool:
    """Whether this process writes and prints."""
    return jax.process_index() == 0


def devices(count: int) -> list[Any]:
    """Returns `count` devices, the same number of each process.

    Raises:
      ValueError: there are fewer devices, or the processes do not divide `count`.
    """
    processes, available = jax.process_count(), jax.devices()
    each, rest = divmod(count, processes)
    if rest:
        raise ValueError(f"devices={count}: must be a multiple of the {processes} processes")
    of = [[d for d in available if d.process_index == p] for p in range(processes)]
    fewest = min(map(len, of))
    if each > fewest:
        per = "" if processes == 1 else f" in each of {processes} processes"
        raise ValueError(
            f"devices={count}: JAX sees {fewest}{per} ({available[0].platform});"
            " on a CPU call jaxrl.run.runtime.setup(devices) first"
        )
    return [d for mine in of for d in mine[:each]]


def put(tree: Any, shardings: Any) -> Any:
    """Puts host values, equal in every process, on devices. `shardings`: one, or a tree of them."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def one(x: Any, sharding: Sharding) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), sharding))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    if isinstance(shardings, Sharding):
        return jax.tree.map(lambda x: one(x, shardings), tree)
    return jax.tree.map(one, tree, shardings)


def fetch(tree: Any) -> Any:
    """Returns global arrays whole on this host. Every process must call it."""
    if jax.process_count() == 1:
        return tree

    def one(x: Any) -> Any:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)))
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


def agree(number: int, flag: bool) -> tuple[int, bool]:
    """Returns the main process's number, and whether any process has the flag. All must call it."""
    if jax.process_count() == 1:
        return number, flag
    all_of_them = multihost_utils.process_allgather(np.array([number, flag], np.int32))
    return int(all_of_them[0, 0]), bool(all_of_them[:, 1].any())


def by_main(what: str, work: Callable[[], Any]) -> Any:
    """Calls `work` in the main process. Returns its result there and None elsewhere. All must call it.

    Raises:
      the exception of `work` in the main process, RuntimeError in the others.
    """
    result, error = None, None
    if is_main():
        try:
            result = work()
        except BaseException as raised:
            error = raised
    _, failed = agree(0, error is not None)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"the first process has no {what}; it says why")
    return result
