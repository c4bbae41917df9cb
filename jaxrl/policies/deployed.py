"""A trained policy for use outside of training: on a robot, in another framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from envs.types import Env
from jaxrl.nn.product import plain
from jaxrl.types import Policy


def deployed(policy: Policy, env: Env) -> Policy:
    """Returns `policy` with an `act` that checks what it is given and that converters understand.

    An observation of another shape than those of `env` is refused in one line: a batch, or another
    task's observation. Matrix products are JAX's own `dot_general` in place of a private primitive,
    so `jax.export`, jax2onnx and the like convert `act`.

    Args:
      policy: acts on observations, not on states.
      env: the environment that it was trained in.
    """
    return policy.replace(apply=_Deployed(policy.apply, _shapes(env.observation_space)))


@dataclass(frozen=True)
class _Deployed:
    """Equal ones of equal functions: a policy made twice causes no retrace."""

    apply: Callable[..., tuple[jax.Array, Any]]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # of every entry; "" names a plain array

    def __call__(self, params, carry, obs, key, deterministic):
        self._check(obs)
        with plain():
            return self.apply(params, carry, obs, key, deterministic)

    def _check(self, obs: Any) -> None:
        names, found = [name for name, _ in self.shapes], _shapes(obs)
        if [name for name, _ in found] != names:
            raise ValueError(
                f"observation: is {_entries(found)}, this policy acts on {_entries(self.shapes)}"
            )
        for (name, shape), (_, expected) in zip(found, self.shapes, strict=True):
            if shape == expected:
                continue
            where = f"observation[{name!r}]" if name else "observation"
            more = len(shape) - len(expected)
            batch = more > 0 and shape[more:] == expected
            why = "; for a batch use jax.vmap of act" if batch else ""
            raise ValueError(f"{where}: has shape {shape}, this policy acts on {expected}{why}")


def _shapes(tree: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The shapes of an observation or of its space, by sorted name."""
    shape = lambda x: tuple(x.shape) if hasattr(x, "shape") else jnp.shape(x)
    if isinstance(tree, dict):
        return tuple((name, shape(tree[name])) for name in sorted(tree))
    return (("", shape(tree)),)


def _entries(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> str:
    named = [name for name, _ in shapes if name]
    return f"a dict with {named}" if named else "a plain array"
