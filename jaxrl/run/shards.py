"""`jax.shard_map` without arrays of size zero.

The compiler of jaxlib 0.11 dies (signal 11) on a `shard_map` with an operand of size zero that its
body uses: an argument, a result passed through, or a constant closed over. MJX models and states
hold many. Here they are removed before the `shard_map` and recreated on either side of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def shard_map(
    f: Callable[..., Any], mesh: Mesh, in_specs: tuple[Any, ...], out_specs: Any
) -> Callable[..., Any]:
    """Returns `f` mapped over the devices of `mesh`, each with its part of the arguments.

    `in_specs` (one per argument) and `out_specs` may be prefixes of the trees they describe.
    """
    f = jax.jit(f, inline=True)  # traced once, for the shapes here and for the program
    mapped = jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def of_parts(*args):
        given = _Filled(args, in_specs, mesh)
        results = _Filled(jax.eval_shape(mapped, *args), out_specs, mesh)

        def body(*leaves):
            out = _without_empty_constants(f, *given.fill(leaves, "part"))
            return tuple(results.keep(out))

        leaves = jax.shard_map(
            body,
            mesh=mesh,
            in_specs=tuple(given.specs),
            out_specs=tuple(results.specs),
            check_vma=False,
        )(*given.keep(args))
        return results.fill(leaves, "whole")

    return of_parts


class _Filled:
    """Splits a tree of arrays: `keep` drops the leaves of size zero, `fill` recreates them."""

    def __init__(self, tree: Any, specs: Any, mesh: Mesh):
        is_spec = lambda x: isinstance(x, P)
        spread = lambda spec, sub: jax.tree.map(lambda _: spec, sub)
        leaves, self._tree = jax.tree.flatten(tree)
        spread = jax.tree.map(spread, specs, tree, is_leaf=is_spec)
        of_leaves = jax.tree.leaves(spread, is_leaf=is_spec)
        self._kept = [not _is_empty(x) for x in leaves]
        self.specs = [s for s, kept in zip(of_leaves, self._kept, strict=True) if kept]
        part = lambda x, spec: NamedSharding(mesh, spec).shard_shape(x.shape)
        self._shapes = [
            {} if kept else {"whole": x.shape, "part": part(x, spec), "dtype": x.dtype}
            for x, spec, kept in zip(leaves, of_leaves, self._kept, strict=True)
        ]

    def keep(self, tree: Any) -> list[jax.Array]:
        """Returns the leaves of `tree` without those of size zero."""
        return [x for x, kept in zip(jax.tree.leaves(tree), self._kept, strict=True) if kept]

    def fill(self, leaves: Any, which: str) -> Any:
        """The inverse of `keep`, for "whole" arrays or for a device's "part" of them."""
        leaves = iter(leaves)
        filled = [jnp.zeros(x[which], x["dtype"]) if x else next(leaves) for x in self._shapes]
        return jax.tree.unflatten(self._tree, filled)


def _without_empty_constants(f: Callable[..., Any], *args: Any) -> Any:
    """Calls `f(*args)`, with arrays of size zero that `f` closes over recreated."""
    closed, like = jax.make_jaxpr(f, return_shape=True)(*args)
    constants = [jnp.zeros(x.shape, x.dtype) if _is_empty(x) else x for x in closed.consts]
    call = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))
    return jax.tree.unflatten(jax.tree.structure(like), call(*jax.tree.leaves(args)))


def _is_empty(x: Any) -> bool:
    return x.size == 0 and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
