"""`check(env)`: whether an environment keeps the contract of `envs.types`, before it is compiled."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.registry import arithmetic
from envs.transforms.base import Transform, box
from envs.types import (
    Box,
    Discrete,
    Env,
    MultiDiscrete,
    Space,
    State,
    check_instance,
    check_single_agent,
    num_agents_of,
)

# Environments that were found sound, by id. An entry lives as long as its environment.
_SOUND: weakref.WeakValueDictionary[int, Env] = weakref.WeakValueDictionary()


@struct.dataclass
class Converted(Transform):
    """`env` with its Gymnasium spaces as ours. `in_a_tuple`: its `step` takes a tuple of integers."""

    observation: Any = struct.field(pytree_node=False, kw_only=True)
    action: Any = struct.field(pytree_node=False, kw_only=True)
    in_a_tuple: bool = struct.field(pytree_node=False, default=False, kw_only=True)

    @property
    def observation_space(self) -> Space:
        return self.observation

    @property
    def action_space(self) -> Box | Discrete | MultiDiscrete:
        return self.action

    def reset(self, key: jax.Array) -> State:
        return self.env.reset(key)

    def step(self, state: State, action: jax.Array) -> State:
        return self.env.step(state, tuple(action) if self.in_a_tuple else action)


def check(env: Env) -> Env:
    """Returns `env`, with Gymnasium's spaces converted to ours, if it keeps the contract.

    `reset` and `step` are traced once each and nothing is compiled or run. A second call with
    the same object returns at once.

    Raises:
      ValueError: one line that names the field, what it is and what is expected. Checked are the
        four members of `Env`; the spaces; that `step` returns what `reset` returns (structure,
        shapes, dtypes); the shapes of reward, flags and metrics; and the observation against
        its space. Also raised in JAX's x64 mode, in which states would change their dtypes.
    """
    if jax.config.jax_enable_x64:
        raise ValueError(
            "jax_enable_x64=True: environments and learners are in float32, unset JAX_ENABLE_X64 or"
            " use them inside `with jax.enable_x64(False):`"
        )
    if _SOUND.get(id(env)) is env:
        return env
    check_instance(env)
    env = _with_own_spaces(env)
    _check_action_space(env.action_space)
    first, new = _traced(env)
    _check_state("reset", first, num_agents_of(env))
    _check_state("step", new, num_agents_of(env))
    _check_alike(first, new)
    _check_obs(first.obs, env.observation_space)
    _SOUND[id(env)] = env
    return env


def single_agent(env: Env) -> Env:
    """`check(env)` for what acts for one agent.

    Raises:
      ValueError: also where the environment has an agent axis.
    """
    check_single_agent(env)
    return check(env)


def _with_own_spaces(env: Env) -> Env:
    spaces = env.observation_space, env.action_space
    own = tuple(own_space(space) for space in spaces)
    if all(a is b for a, b in zip(spaces, own, strict=True)):
        return env
    in_a_tuple = isinstance(spaces[1], tuple) or type(spaces[1]).__name__ == "Tuple"
    return Converted(env, observation=own[0], action=own[1], in_a_tuple=in_a_tuple)


def own_space(space: Any) -> Any:
    """A space of Gymnasium, or a tuple of Discretes, as one of ours; any other object as it is.

    A Tuple of Discretes becomes a MultiDiscrete, and so does a MultiBinary.

    Raises:
      ValueError: a kind of space that has no counterpart here.
    """
    if isinstance(space, tuple) and space and all(isinstance(s, Discrete) for s in space):
        return MultiDiscrete(tuple(s.n for s in space))
    if not type(space).__module__.startswith("gymnasium.spaces"):
        return space
    kind = type(space).__name__
    if kind == "Dict":
        return {name: own_space(entry) for name, entry in space.spaces.items()}
    if kind == "Discrete" and space.start == 0:
        return Discrete(int(space.n))
    if kind == "Box":
        return box(space.low, space.high, space.dtype)
    if kind == "MultiDiscrete" and space.nvec.ndim == 1 and not space.start.any():
        return MultiDiscrete(tuple(space.nvec.tolist()))
    if kind == "MultiBinary" and len(space.shape) == 1:
        return MultiDiscrete((2,) * space.shape[0])
    if kind == "Tuple" and space.spaces:
        parts = tuple(own_space(part) for part in space.spaces)
        if all(isinstance(part, Discrete) for part in parts):
            return own_space(parts)
    raise ValueError(
        f"space {space}: allowed of Gymnasium are Box, Dict, and Discrete, MultiDiscrete [K],"
        " MultiBinary [K] and Tuple of Discrete from 0"
    )


def _check_action_space(space: Any) -> None:
    if isinstance(space, Discrete):
        if space.n < 1:
            raise ValueError(f"action_space: {space} has no action, expected n of at least 1")
        return
    if isinstance(space, MultiDiscrete):
        whole = isinstance(space.nvec, tuple) and all(isinstance(n, int) for n in space.nvec)
        if not whole or not space.nvec or min(space.nvec) < 1:
            raise ValueError(f"action_space: {space}, expected nvec a tuple of integers above 0")
        return
    if not isinstance(space, Box):
        raise ValueError(
            f"action_space: {space!r}, expected envs.Box, envs.Discrete or envs.MultiDiscrete"
        )
    _check_bounds("action_space", space)


def _check_bounds(name: str, space: Box) -> None:
    try:
        low, high = space.lows, space.highs
    except ValueError:
        raise ValueError(
            f"{name}: bounds {space.low!r} .. {space.high!r} do not fit the shape {space.shape}"
        ) from None
    if not (low <= high).all():
        raise ValueError(f"{name}: low={space.low!r} must be at most high={space.high!r}")


def _traced(env: Env) -> tuple[State, State]:
    """The shapes of what `reset` and `step` return."""

    def observed(where: str, f, *args):
        try:
            new = f(*args)
        except ArithmeticError as error:  # of Python's own numbers, such as a mass of 0
            raise ValueError(f"{where} of {type(env).__name__}: {arithmetic(error)}") from None
        except Exception as error:
            error.add_note(f"while envs.check traced {type(env).__name__}.{where}")
            raise
        if not isinstance(new, State):
            raise ValueError(f"{where}: returns a {type(new).__name__}, expected an envs.State")
        for name, x in _leaves(new):
            if not hasattr(x, "dtype"):
                kind = type(x).__name__
                raise ValueError(f"{name} of {where}: is the {kind} {x!r}, expected an array")
        return new

    def both(key):
        state = observed("reset", env.reset, key)
        shape = getattr(env.action_space, "shape", ())
        agents = num_agents_of(env)
        shape = shape if agents is None else (agents, *shape)
        action = jnp.zeros(shape, env.action_space.dtype)
        # Arrays, as a loop would hold them: NumPy's are not traced.
        state = jax.tree.map(jnp.asarray, state)
        return state, observed("step", env.step, state, action)

    return jax.eval_shape(both, jax.random.key(0))


def _check_state(where: str, state: State, agents: int | None) -> None:
    shape = () if agents is None else (agents,)
    expected = {"reward": (shape, "float32"), "terminated": ((), "bool"), "truncated": ((), "bool")}
    for name, (want_shape, want_dtype) in expected.items():
        x = getattr(state, name)
        if not hasattr(x, "dtype") or x.shape != want_shape or x.dtype != want_dtype:
            wanted = described(jax.ShapeDtypeStruct(want_shape, want_dtype))
            raise ValueError(f"{name} of {where}: is {described(x)}, expected {wanted}")
    for field in ("metrics", "info", "signals"):
        value = getattr(state, field)
        if not isinstance(value, dict):
            raise ValueError(f"{field} of {where}: is {described(value)}, expected a dict")
    for name, x in state.metrics.items():
        if not hasattr(x, "dtype") or x.shape != ():
            raise ValueError(f"metrics[{name!r}] of {where}: is {described(x)}, expected a scalar")


def _check_alike(first: State, new: State) -> None:
    """Raises ValueError where `step` does not return what `reset` returns."""
    a, b = dict(_leaves(first)), dict(_leaves(new))
    for name in a.keys() - b.keys():
        raise ValueError(f"{name}: is in the State of reset, not in that of step")
    for name in b.keys() - a.keys():
        raise ValueError(f"{name}: is in the State of step, not in that of reset")
    for name, x in a.items():
        if (x.shape, x.dtype) != (b[name].shape, b[name].dtype):
            raise ValueError(
                f"{name}: is {described(x)} from reset and {described(b[name])} from step,"
                " expected the same"
            )
    if jax.tree.structure(first) != jax.tree.structure(new):
        raise ValueError(
            f"State: step returns the structure {jax.tree.structure(new)},"
            f" reset returns {jax.tree.structure(first)}"
        )


def _check_obs(obs: Any, space: Any) -> None:
    if isinstance(obs, dict) != isinstance(space, dict):
        kinds = (type(x).__name__ for x in (space, obs))
        raise ValueError("observation_space: is a {} but obs is a {}".format(*kinds))
    pairs = {"": (obs, space)}
    if isinstance(obs, dict):
        if obs.keys() != space.keys():
            raise ValueError(
                f"observation_space: has entries {sorted(space)}, obs has {sorted(obs)}"
            )
        pairs = {f"[{name!r}]": (obs[name], space[name]) for name in obs}
    for name, (x, entry) in pairs.items():
        if not hasattr(x, "dtype"):
            raise ValueError(
                f"obs{name}: is a {type(x).__name__}, expected an array or a flat dict of arrays"
            )
        if not isinstance(entry, Box):
            raise ValueError(f"observation_space{name}: is {entry!r}, expected an envs.Box")
        _check_bounds(f"observation_space{name}", entry)
        if x.shape != entry.shape or x.dtype != np.dtype(entry.dtype):
            declared = described(jax.ShapeDtypeStruct(entry.shape, np.dtype(entry.dtype)))
            raise ValueError(f"obs{name}: is {described(x)}, observation_space says {declared}")


def _leaves(state: State) -> Iterator[tuple[str, Any]]:
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        yield jax.tree_util.keystr(path).removeprefix("."), x


def described(x: Any) -> str:
    """float32[3], with the structure around it; a Python value or the type of what is no array."""
    if isinstance(x, dict):
        return "{" + ", ".join(f"{k!r}: {described(v)}" for k, v in x.items()) + "}"
    if isinstance(x, (tuple, list)):
        inner = ", ".join(map(described, x))
        return f"[{inner}]" if isinstance(x, list) else f"({inner})"
    if not (hasattr(x, "dtype") and hasattr(x, "shape")):
        plain = isinstance(x, (bool, int, float, str, type(None)))
        return repr(x) if plain else f"a {type(x).__name__}"
    return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
