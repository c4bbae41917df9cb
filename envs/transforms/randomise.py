"""Domain randomisation: every episode has its own physics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, on_task
from envs.types import Env, State, check_instance

Sample = Callable[[jax.Array, Env], Env]


@struct.dataclass
class Randomise(Transform):
    """Its slot holds the leaves of `env` that this episode replaces, by their path."""

    sample: Sample = struct.field(pytree_node=False, kw_only=True)
    paths: tuple[str, ...] = struct.field(pytree_node=False, kw_only=True)

    def reset(self, key: jax.Array) -> State:
        sampled = _leaves(self.sample(self.own_key(key), self.env))
        nominal = _leaves(self.env)
        # Not the nominal type alone: with `mass=1` every draw would be rounded to an integer.
        drawn = {
            p: jnp.asarray(sampled[p], jnp.result_type(nominal[p], sampled[p])) for p in self.paths
        }
        state = self._with(drawn).reset(key)
        return state.replace(info=state.info | {self.slot: drawn})

    def step(self, state: State, action: jax.Array) -> State:
        drawn = state.info[self.slot]
        state = self._with(drawn).step(state, action)
        return state.replace(info=state.info | {self.slot: drawn})

    def _with(self, drawn: dict[str, jax.Array]) -> Env:
        leaves = _leaves(self.env) | drawn
        return jax.tree.unflatten(jax.tree.structure(self.env), list(leaves.values()))


def randomise(env: Env, sample: Sample) -> Randomise:
    """Draws some numbers of `env` for every episode.

    The drawn leaves, and only those, are in `state.info["randomise"]` by their path
    (`"env.sim.model.body_mass"`). A privileged critic may read them there.

    Args:
      sample: `sample(key, env) -> env`, which returns its argument with some leaves
        replaced; e.g. `scale_physics(0.8, 1.2)`, or for a task's own field
        `lambda key, env: on_task(env, lambda t: t.replace(mass=jax.random.uniform(key)))`.
        The model of a task of Brax or Playground is its field `model`.

    Raises:
      ValueError: `sample` replaces nothing, changes a leaf's shape, or returns something
        that is not `env` with other leaves (a static field changed, say).
    """
    check_instance(env)
    nominal, structure = _leaves(env), jax.tree.structure(env)
    paths: list[str] = []

    def trace(key: jax.Array, leaves: list) -> None:
        traced = jax.tree.unflatten(structure, leaves)
        sampled = sample(key, traced)
        if jax.tree.structure(sampled) != structure:
            raise ValueError("sample: must return its environment with other leaves, nothing else")
        for (path, old), new in zip(
            _leaves(traced).items(), _leaves(sampled).values(), strict=True
        ):
            if new is old:
                continue
            if jnp.shape(new) != jnp.shape(old):
                raise ValueError(
                    f"sample: {path} has shape {jnp.shape(new)}: must stay {jnp.shape(old)}"
                )
            paths.append(path)

    jax.eval_shape(trace, jax.random.key(0), list(nominal.values()))
    if not paths:
        raise ValueError("sample: replaces no leaf of the environment; at least one is needed")
    return Randomise(env, sample=sample, paths=tuple(paths))


PHYSICS_FIELDS = ("body_mass", "geom_friction", "dof_damping", "dof_armature", "actuator_gear")


def scale_physics(
    low: float, high: float, fields: Sequence[str] = ("body_mass", "geom_friction", "dof_damping")
) -> Sample:
    """A `sample` for `randomise` that scales fields of an MJX task's model.

    It takes tasks of this project, of Playground, and of Brax with backend="mjx".

    Every body, geom, joint or actuator gets its own factor, uniform in [low, high], for its row of
    each field. `body_mass` also scales the rows of `body_inertia`, as if the density had changed.
    MuJoCo's compiler derives `body_invweight0` and `dof_invweight0` (the stiffness of contacts and
    joint limits) from the masses. These stay those of the nominal model.

    Args:
      low, high: range of the factors; 0 < low <= high.
      fields: names of floating-point arrays of `mjx.Model`.

    Raises:
      ValueError: a bad range or no field; and, once `randomise` calls it, an unknown field
        or an environment without an MJX task below its transforms.
    """
    if not 0.0 < low <= high:
        raise ValueError(f"low={low}, high={high}: must be 0 < low <= high")
    if isinstance(fields, str) or not fields:
        raise ValueError(f"fields={fields!r}: must name at least one field, in a tuple")

    def scale(key: jax.Array, task: Env) -> Env:
        own = hasattr(task, "sim")
        if not own and not getattr(task, "is_mjx", False):
            raise ValueError(f"scale_physics: {type(task).__name__} is not an MJX task")
        model = task.sim.model if own else task.model
        scaled = {}
        for k, name in zip(jax.random.split(key, len(fields)), fields, strict=True):
            value = getattr(model, name, None)
            if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jnp.floating):
                raise ValueError(
                    f"fields: {name!r} is no floating-point array of mjx.Model; "
                    f"usual ones are {', '.join(PHYSICS_FIELDS)}"
                )
            factor = jax.random.uniform(k, value.shape[:1], minval=low, maxval=high)
            scaled[name] = _rows(factor, value)
            if name == "body_mass" and "body_inertia" not in fields:
                scaled["body_inertia"] = _rows(factor, model.body_inertia)
        model = model.replace(**scaled)
        return task.replace(sim=task.sim.replace(model=model)) if own else task.replace(model=model)

    return lambda key, env: on_task(env, lambda task: scale(key, task))


def _rows(factor: jax.Array, value: jax.Array) -> jax.Array:
    return value * factor.reshape(factor.shape + (1,) * (value.ndim - 1))


def _leaves(env: Env) -> dict[str, jax.Array]:
    """Returns the leaves of `env` in order, by their path."""
    paths, _ = jax.tree_util.tree_flatten_with_path(env)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
