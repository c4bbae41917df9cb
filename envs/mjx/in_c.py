"""C MuJoCo in the place of MJX: a task's own functions, on data that `mj_step` computes.

`in_c(env)` replaces the simulator below the transforms. `reset`, `step`, observations and rewards stay
those of the task, and keys select the same episodes. It is for evaluation: every control step calls the
host, which simulates one instance after another in float64.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from envs.gl import mujoco
from envs.mjx.simulator import Physics, Simulator, compact, mjx
from envs.transforms.base import on_task
from envs.types import Env

STATE = int(mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)
GIVEN = (
    "time",
    "qpos",
    "qvel",
    "act",
    "qacc_warmstart",
)  # of a Physics; they are in that state, too
MOCAP = ("mocap_pos", "mocap_quat")
LATE = ("cacc", "cfrc_int", "cfrc_ext")  # which `mj_step` leaves to `mj_rnePostConstraint`


class World:
    """One `MjModel` and the `MjData` in which all instances are simulated, one after another."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self.data = mujoco.MjData(model)
        self.nominal: dict[str, np.ndarray] = {}  # of the fields that instances change
        self.lock = threading.Lock()  # the data are shared
        self.start = np.empty(mujoco.mj_stateSize(model, STATE))
        mujoco.mj_getState(model, self.data, self.start, STATE)

    def holds(self, name: str, size: int) -> bool:
        """Whether `MjData` has an array of this name and size."""
        found = getattr(self.data, name, None)
        return isinstance(found, (np.ndarray, float)) and np.size(found) == size

    def field(self, name: str) -> Any:
        """A number or an array of numbers of the model, such as "body_mass" or "opt.gravity"."""
        found = self.model
        for part in name.split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, (np.ndarray, float)) else None

    def set(self, name: str, x: Any) -> None:
        """Sets a field of the model."""
        old = self.field(name)
        if isinstance(old, float):
            setattr(self.model.opt, name.removeprefix("opt."), float(x))
        else:
            old[...] = np.reshape(x, old.shape)

    def run(
        self,
        num_substeps: int,
        names: Sequence[str],
        physics: dict[str, np.ndarray],
        inputs: dict[str, np.ndarray],
        changed: dict[str, np.ndarray],
    ) -> tuple[np.ndarray, ...]:
        """Simulates every instance of a batch.

        Args:
          num_substeps: steps of physics; 0 derives quantities only.
          names: arrays of `MjData` to return.
          physics: the leaves of a `Physics` by name. [B, ...]
          inputs: `ctrl` [B, nu] and `xfrc_applied` [B, nbody, 6], where they are given.
          changed: fields of `MjModel`. [B, ...]

        Returns:
          the bits of the state after the last step [B, 2 * size], then the arrays of `names` [B, ...].
        """
        model, data, rows = self.model, self.data, []
        for i in range(len(physics["exact"])):
            for name, x in changed.items():
                self.set(name, x[i])
            self._set(data, {name: x[i] for name, x in physics.items()})
            data.ctrl[:], data.xfrc_applied[:] = 0.0, 0.0
            for name, x in inputs.items():
                getattr(data, name)[...] = x[i]
            if num_substeps:
                mujoco.mj_step(model, data, num_substeps)
            else:
                mujoco.mj_forward(model, data)
            if any(name in LATE for name in names):
                mujoco.mj_rnePostConstraint(model, data)
            state = np.empty_like(self.start)
            mujoco.mj_getState(model, data, state, STATE)
            rows.append((state.view(np.uint32), *(np.array(getattr(data, name)) for name in names)))
        for name in changed:
            self.set(name, self.nominal[name])
        return tuple(np.stack(column) for column in zip(*rows, strict=True))

    def _set(self, data: mujoco.MjData, physics: dict[str, np.ndarray]) -> None:
        """Restores float64 numbers, except where the float32 number beside them is another."""
        mujoco.mj_setState(self.model, data, physics["exact"].view(np.float64), STATE)
        for name in (*GIVEN, *MOCAP):
            if name not in physics:
                continue
            given, kept = physics[name], getattr(data, name)
            if name == "time":
                data.time = kept if np.float32(kept) == given else float(given)
            else:
                kept[...] = np.where(np.float32(kept) == given, kept, given)


@struct.dataclass
class SimulatorInC(Simulator):
    """A `Simulator` that calls C MuJoCo. `physics.exact` holds the state in float64."""

    world: World = struct.field(pytree_node=False, kw_only=True)

    def physics(self, qpos: jax.Array, qvel: jax.Array) -> Physics:
        at_rest = Simulator.physics(self, qpos, qvel)
        return at_rest.replace(exact=jnp.asarray(self.world.start.view(np.uint32)))

    def forward(self, physics: Physics) -> mjx.Data:
        """The derived quantities. Floats of another layout in C MuJoCo, such as contacts, are NaN."""
        leaves, tree = self._leaves(physics)
        names = [name for name, x in leaves if self.world.holds(name, x.size)]
        _, *found = self._call(0, names, physics, {})
        derived = dict(zip(names, found, strict=True))
        blank = lambda x: jnp.full_like(x, jnp.nan) if _is_float(x) else x
        return jax.tree.unflatten(tree, [derived.get(name, blank(x)) for name, x in leaves])

    def contact_forces(self, data: mjx.Data) -> jax.Array:
        return data._impl.cfrc_ext

    def simulate(
        self,
        physics: Physics,
        ctrl: jax.Array,
        num_substeps: int,
        derive: Callable[[mjx.Data], Any] = lambda data: (),
        xfrc_applied: jax.Array | None = None,
    ) -> tuple[Physics, Any]:
        """As `Simulator.simulate`.

        Raises:
          ValueError: `derive` reads what C MuJoCo stores in another layout, such as contacts.
        """
        leaves, tree = self._leaves(physics, ctrl, xfrc_applied)
        names = sorted(_read(derive, leaves, tree))
        sizes = {name: x.size for name, x in leaves}
        for name in names:
            if not self.world.holds(name, sizes[name]):
                raise ValueError(
                    f"the task reads {name!r} of mjx.Data, which C MuJoCo stores in another layout"
                )
        pushes = {} if xfrc_applied is None else {"xfrc_applied": xfrc_applied}
        state = [name for name in GIVEN if getattr(physics, name) is not None]
        exact, *found = self._call(
            num_substeps, [*state, *names], physics, {"ctrl": ctrl, **pushes}
        )
        after = dict(zip(state, found, strict=False))
        derived = dict(zip(names, found[len(state) :], strict=True))
        data = jax.tree.unflatten(tree, [derived.get(name, x) for name, x in leaves])
        return compact(physics).replace(exact=exact, **after), derive(data)

    def _leaves(self, physics: Physics, *inputs: jax.Array | None) -> tuple[list, Any]:
        """The leaves of a full `mjx.Data` with their names, and its structure."""
        leaves, tree = jax.tree.flatten_with_path(self.data(physics, *inputs))
        name = lambda path: ".".join(key.name for key in path if key.name != "_impl")
        return [(name(path), jnp.asarray(x)) for path, x in leaves], tree

    def _call(self, num_substeps, names, physics, inputs) -> list[jax.Array]:
        world = self.world
        given = {f: x for f, x in vars(compact(physics)).items() if x is not None}
        changed = self._changed()
        like = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self._leaves(physics)[0]
        }
        outs = [
            jax.ShapeDtypeStruct((2 * len(world.start),), np.uint32),
            *(like[name] for name in names),
        ]

        ndims = jax.tree.map(jnp.ndim, (given, inputs, changed))

        def call(*trees):
            trees = jax.tree.map(np.asarray, trees)
            ranks = [
                {k: x.ndim - ndim[k] for k, x in tree.items()}
                for tree, ndim in zip(trees, ndims, strict=True)
            ]
            rank = max(r for tree in ranks for r in tree.values())
            leads = [x.shape[:rank] for tree in trees for x in tree.values()] if rank else [()]
            lead = np.broadcast_shapes(*leads)
            wide = lambda x: np.broadcast_to(x, (*lead, *x.shape[rank:])).reshape(
                -1, *x.shape[rank:]
            )
            trees = [{k: np.ascontiguousarray(wide(x)) for k, x in tree.items()} for tree in trees]
            with world.lock, _quiet(), np.errstate(over="ignore"):
                columns = world.run(num_substeps, names, *trees)
                return tuple(
                    x.reshape((*lead, *out.shape)).astype(out.dtype)
                    for x, out in zip(columns, outs, strict=True)
                )

        return jax.pure_callback(
            call, tuple(outs), given, inputs, changed, vmap_method="expand_dims"
        )

    def _changed(self) -> dict[str, jax.Array]:
        """The fields of the model that a transform draws or a sweep sets: those that are traced."""
        traced = {k: x for k, x in _numbers(self.model).items() if isinstance(x, jax.core.Tracer)}
        changed = {}
        for name, x in traced.items():
            field = self.world.field(name)
            if field is not None and np.size(field) == x.size > 0:
                self.world.nominal.setdefault(name, np.array(field))
                changed[name] = x
        return changed


def in_c(env: Env) -> Env:
    """Returns `env` with C MuJoCo in the place of MJX.

    The model has its own solver options, those of physics="accurate". What transforms draw of the
    model (`randomise`) is set in C MuJoCo, too.

    Args:
      env: one instance, with or without transforms, whose task has a `Simulator` as `sim`.

    Raises:
      ValueError: the task has none.
    """

    def change(task: Env) -> Env:
        sim = getattr(task, "sim", None)
        if not isinstance(sim, Simulator):
            raise ValueError(
                f"env={type(task).__name__}: has no MJX simulator of this library that C MuJoCo could replace"
            )
        return task.replace(sim=_replaced(sim))

    return on_task(env, change)


def _replaced(sim: Simulator) -> SimulatorInC:
    model = sim.plain_model()
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)  # NaN says more
    world, fresh = World(model), _numbers(mjx.put_model(sim.mj_model, impl="jax"))
    for name, x in _numbers(sim.model).items():  # numbers that were set when the task was made
        field = world.field(name)
        if field is not None and np.size(field) == x.size and not np.array_equal(x, fresh[name]):
            world.set(name, np.asarray(x))
    return SimulatorInC(**vars(sim), world=world)


def _numbers(model: mjx.Model) -> dict[str, jax.Array]:
    """The arrays of floats of a model and of its options, by name."""
    options = {f"opt.{name}": x for name, x in vars(model.opt).items()}
    return {
        k: x
        for k, x in (vars(model) | options).items()
        if isinstance(x, jax.Array) and _is_float(x)
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A broken episode is reported as such. MuJoCo would also print it, and write it to a file."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: "unstable" in text or print(text, file=sys.stderr))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _read(derive: Callable, leaves: list[tuple[str, jax.Array]], tree: Any) -> set[str]:
    """The names of the leaves of `mjx.Data` that `derive` reads."""
    names, values = zip(*leaves, strict=True)
    traced = jax.make_jaxpr(lambda *xs: derive(jax.tree.unflatten(tree, xs)))(*values)
    return {name for name, used in zip(names, _used(traced), strict=True) if used}


def _used(traced: ClosedJaxpr) -> list[bool]:
    """Which arguments the results depend on."""
    return list(dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))[1])


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
