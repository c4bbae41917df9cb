"""A learner that begins with parts of another's state, such as an offline policy going online."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxrl.types import Learner


def warm_start(learner: Learner, parts: dict[str, Any]) -> Learner:
    """Returns `learner`. Every run begins with `parts` in place of those that `init` makes.

    `warm_start(sac, {"agent.actor.params": offline.agent.actor.params})` begins with an offline
    actor. Give `obs_moments`, too, if it normalises observations.

    Args:
      parts: trees of one run by their path in the state, names of fields joined by dots.

    Raises:
      ValueError: the state has no such part, or one of another structure, shape or type.
    """
    like = jax.eval_shape(learner.init, jax.random.key(0), learner.config)
    for path, part in parts.items():
        _check_same(path, _at(like, path), part)

    def init(key: jax.Array, config: Any = learner.config) -> Any:
        state = learner.init(key, config)
        for path, part in parts.items():
            state = _with(state, path.split("."), part)
        return state

    return dataclasses.replace(learner, init=init)


def _at(state: Any, path: str) -> Any:
    for name in path.split("."):
        names = state if isinstance(state, dict) else getattr(state, "__dataclass_fields__", {})
        if name not in names:
            raise ValueError(f"parts: {path!r}: the state has {', '.join(names) or 'no fields'}")
        state = state[name] if isinstance(state, dict) else getattr(state, name)
    return state


def _with(state: Any, path: list[str], part: Any) -> Any:
    if not path:
        return part
    name, *rest = path
    if isinstance(state, dict):
        return state | {name: _with(state[name], rest, part)}
    return state.replace(**{name: _with(getattr(state, name), rest, part)})


def _check_same(path: str, like: Any, part: Any) -> None:
    if jax.tree.structure(like) != jax.tree.structure(part):
        raise ValueError(f"parts: {path!r}: its structure is not that of this learner's state")
    where = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(like)]
    for name, x, y in zip(where, jax.tree.leaves(like), jax.tree.leaves(part), strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise ValueError(
                f"parts: {path}{name} is {y.dtype}{list(y.shape)}, must be {x.dtype}{list(x.shape)}"
            )
