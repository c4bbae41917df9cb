"""MJX as a task uses it: load a model, reset, simulate one control step.

Three ideas keep it fast. The state between steps is a `Physics`, the few leaves
`mjx.step` starts from (0.1 to 0.4 kB instead of 2 to 18 kB of `mjx.Data`), so
scans carry little and a restart is a small copy. And a task names the derived
quantities it reads (`derive`), so XLA drops the rest of `mjx.Data`. On a CPU the
batch is the last axis of everything inside a step (`envs/mjx/batch_last.py`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.gl import mujoco
from envs.mjx import batch_last, cholesky, contacts, ignored, refused, runge_kutta

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that Warp is not installed
    from mujoco import mjx

MAX_FUSED_DEPTH = 8  # bodies; beyond it kinematics are cut into levels


def _traced_once(f: Callable) -> Callable:
    """Returns `jax.jit(f)` that traces once, in full precision whatever the networks' precision.

    JAX otherwise treats "no mesh" (top level) and "empty mesh" (inside loops) as different.
    """
    traced = jax.jit(f)

    def call(*args):
        mesh = jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh())
        with mesh, jax.default_matmul_precision("highest"):
            return traced(*args)

    return call


def _batched_once(f: Callable[[mjx.Model, mjx.Data], mjx.Data]) -> Callable[..., mjx.Data]:
    """`f` for one instance, whose batches, however nested, are one flat batch.

    JAX batches a loop by tracing its body anew, two or three times for each level of `vmap` and
    each loop around it; of MJX's thousands of operations that takes longer than all else. Here a
    batch of batches [R, N, ...] is one of [R * N, ...], and `f` is traced and batched once.
    """
    one = _traced_once(f)

    @functools.cache
    def batched(treedef, varies: tuple[bool, ...]):
        """`f` on `data` [N, ...] and a model of whose leaves those that vary have that axis, too."""

        def vmapped(model, data):
            if jax.default_backend() == "cpu":
                flags = [*varies, *[True] * len(jax.tree.leaves(data))]
                return batch_last.vmap(one, flags)(model, data)
            axes = jax.tree.unflatten(treedef, [0 if v else None for v in varies])
            return jax.vmap(one, (axes, 0))(model, data)

        flat = _traced_once(vmapped)
        call = jax.custom_batching.custom_vmap(lambda model, data: flat(model, data))

        @call.def_vmap
        def rule(size, in_batched, model, data):
            """[size, N, ...] where batched."""
            new_model, new_data = map(jax.tree.leaves, in_batched)
            leaves, data_treedef = jax.tree.flatten(data)
            num_old = leaves[0].shape[new_data[0]]

            def merge(x, is_new, is_old):
                """To [size * N, ...], with the axes that `x` lacks."""
                x = x if is_new else x[None]
                x = x if is_old else x[:, None]
                shape = x.shape[2:]
                return jnp.broadcast_to(x, (size, num_old, *shape)).reshape(size * num_old, *shape)

            data = [merge(x, new, True) for x, new in zip(leaves, new_data, strict=True)]
            model = [
                merge(x, new, old) if new or old else x
                for x, new, old in zip(jax.tree.leaves(model), new_model, varies, strict=True)
            ]
            both = tuple(new or old for new, old in zip(new_model, varies, strict=True))
            out = batched(treedef, both)(
                jax.tree.unflatten(treedef, model), jax.tree.unflatten(data_treedef, data)
            )
            out = jax.tree.map(lambda x: x.reshape(size, num_old, *x.shape[1:]), out)
            return out, jax.tree.map(lambda _: True, out)

        return call

    alone = jax.custom_batching.custom_vmap(lambda model, data: one(model, data))

    @alone.def_vmap
    def rule(size, in_batched, model, data):
        varies, is_new = in_batched
        spread = lambda x, new: x if new else jnp.broadcast_to(x, (size, *x.shape))
        data = jax.tree.map(spread, data, is_new)
        out = batched(jax.tree.structure(model), tuple(jax.tree.leaves(varies)))(model, data)
        return out, jax.tree.map(lambda _: True, out)

    single = jax.custom_jvp(lambda model, data: alone(model, data))
    # Functions with a batching rule of their own have no reverse mode.
    single.defjvp(lambda primals, tangents: jax.jvp(one, primals, tangents))
    return single


_forward, _step = _batched_once(mjx.forward), _batched_once(runge_kutta.step)


@struct.dataclass
class Physics:
    """The leaves `mjx.step` starts from; everything else in `mjx.Data` it recomputes.

    Leaves of size 0 (no activations, no mocap bodies) are None.
    """

    qpos: jax.Array  # [nq]
    qvel: jax.Array  # [nv]
    act: jax.Array | None  # [na]
    qacc_warmstart: jax.Array  # [nv]
    mocap_pos: jax.Array | None  # [nmocap, 3]
    mocap_quat: jax.Array | None  # [nmocap, 4]
    time: jax.Array  # []
    exact: jax.Array | None = struct.field(default=None, kw_only=True)  # see envs/mjx/in_c.py


@struct.dataclass
class Simulator:
    """An `mjx.Model` and the constant `mjx.Data` around a `Physics`.

    `model` is a pytree leaf, so a randomised body mass is
    `sim.replace(model=sim.model.replace(body_mass=...))`.
    """

    model: mjx.Model
    template: mjx.Data
    mj_model: mujoco.MjModel = struct.field(pytree_node=False)  # with the options of `physics`
    own_model: mujoco.MjModel | None = struct.field(pytree_node=False, default=None)

    def plain_model(self) -> mujoco.MjModel:
        """A copy of the compiled model with its own solver options, for C MuJoCo."""
        return copy.copy(self.mj_model if self.own_model is None else self.own_model)

    def data(
        self,
        physics: Physics,
        ctrl: jax.Array | None = None,
        xfrc_applied: jax.Array | None = None,
    ) -> mjx.Data:
        """A full `mjx.Data`; derived fields are stale until `mjx.forward` or `mjx.step`."""
        fields = {f: x for f, x in vars(compact(physics)).items() if x is not None}
        fields.pop("exact", None)
        if ctrl is not None:
            fields["ctrl"] = ctrl
        if xfrc_applied is not None:
            fields["xfrc_applied"] = xfrc_applied
        return self.template.replace(**fields)

    def physics(self, qpos: jax.Array, qvel: jax.Array) -> Physics:
        """A `Physics` at rest in every other respect."""
        return compact(self.template).replace(qpos=qpos, qvel=qvel)

    def forward(self, physics: Physics) -> mjx.Data:
        return _forward(self.model, self.data(physics))

    def contact_forces(self, data: mjx.Data) -> jax.Array:
        """See the function `contact_forces`. [nbody, 6]"""
        return contact_forces(self.model, data)

    def simulate(
        self,
        physics: Physics,
        ctrl: jax.Array,
        num_substeps: int,
        derive: Callable[[mjx.Data], Any] = lambda data: (),
        xfrc_applied: jax.Array | None = None,
    ) -> tuple[Physics, Any]:
        """The state after `num_substeps` of `mjx.step`, and what `derive` reads of the last `mjx.Data`.

        As in MuJoCo, derived positions and forces in that `mjx.Data` belong to the
        start of the last substep (or its last Runge-Kutta stage).

        Args:
          physics: the state before.
          ctrl: controls, held for all substeps. [nu]
          num_substeps: at least 1.
          derive: a function of the last `mjx.Data`.
          xfrc_applied: pushes on the bodies, held for all substeps; None is no push. Row i acts on
            the centre of mass of body i: force (N), then torque (N m), in the world's frame. A
            push of 5 N along x on the body "torso" is
            `jnp.zeros((nbody, 6)).at[sim.mj_model.body("torso").id, 0].set(5.0)`.
            [nbody, 6]

        Raises:
          ValueError: `xfrc_applied` has another shape.
        """
        pushes = (self.mj_model.nbody, 6)
        if xfrc_applied is not None and jnp.shape(xfrc_applied) != pushes:
            raise ValueError(f"xfrc_applied of shape {jnp.shape(xfrc_applied)}: must be {pushes}")

        def substep(physics: Physics):
            data = _step(self.model, self.data(physics, ctrl, xfrc_applied))
            return compact(data), derive(data)

        physics = compact(physics)
        if num_substeps == 1:
            return substep(physics)
        empty = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda p: substep(p)[1], physics)
        )
        return jax.lax.fori_loop(0, num_substeps, lambda _, c: substep(c[0]), (physics, empty))


@struct.dataclass
class TrackedPhysics(Physics):
    """A `Physics` and a point whose displacement over a control step a task rewards.

    Gymnasium reads such a point from the derived positions, which lag `qpos` by a
    substep, so it cannot be recovered from `qpos` and is part of the state.
    """

    tracked: jax.Array  # [2] xy, m


def compact(data: mjx.Data | Physics) -> Physics:
    leaves = {f: getattr(data, f, None) for f in Physics.__dataclass_fields__}
    return Physics(**{f: x if x is not None and x.size else None for f, x in leaves.items()})


def load(
    mj_model: mujoco.MjModel,
    impl: str = "jax",
    options: dict[str, Any] | None = None,
    source: Path | None = None,
) -> Simulator:
    """Puts a MuJoCo model on the device.

    Warns in one line if the "jax" implementation ignores something that the model asks for, such as
    the delay of an actuator; see `envs/mjx/ignored.py`.

    Args:
      mj_model: the compiled model; it is copied and stays as it is.
      impl: MJX implementation, "jax" or "warp" (NVIDIA GPUs only).
      options: fields of `mujoco.MjOption` to set in the copy, e.g. `{"iterations": 1}`; the key
        `disableflags` is or-ed in.
      source: the model's MJCF file, which messages then name.

    Raises:
      ValueError: unknown `impl`, an option that `mujoco.MjOption` does not have, or a model that MJX
        cannot simulate: one line names the elements and the nearest thing that works, see
        `envs/mjx/refused.py`.
    """
    if impl not in ("jax", "warp"):
        raise ValueError(f"impl={impl!r}: allowed are 'jax' and 'warp'")
    own_model, mj_model = copy.copy(mj_model), copy.copy(mj_model)
    for name, value in (options or {}).items():
        if not hasattr(mj_model.opt, name):
            raise ValueError(f"options: {name!r} is no field of mujoco.MjOption")
        if name == "disableflags":
            value |= mj_model.opt.disableflags
        setattr(mj_model.opt, name, value)
    if impl == "jax":
        ignored.warn(mj_model)
    cholesky.install()
    contacts.install()
    _cut_deep_kinematics()
    device = jax.local_devices()[0]  # MJX would take the first of all hosts
    try:
        model = mjx.put_model(mj_model, device, impl)
        template = mjx.make_data(mj_model, device, impl)
    except NotImplementedError as error:
        if impl != "jax":
            raise
        raise ValueError(refused.message(mj_model, error, source)) from error
    return Simulator(model=model, template=template, mj_model=mj_model, own_model=own_model)


# The solver settings that make MJX cheap, as MuJoCo Playground uses them: one Newton
# iteration with a short line search, no implicit damping solve; and Euler in place of RK4,
# which alone is 4 times cheaper.
FAST: dict[str, Any] = {
    "iterations": 1,
    "ls_iterations": 4,
    "integrator": int(mujoco.mjtIntegrator.mjINT_EULER),
    "solver": int(mujoco.mjtSolver.mjSOL_NEWTON),
    "disableflags": int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP),
}


# Between "fast" and the model's own: Euler with implicit damping (RK4 computes four forward passes where
# Euler computes one), and four Newton iterations. What a policy learns on it carries over to MuJoCo's own
# physics (experiments/results/ppo_1m.json).
BALANCED: dict[str, Any] = {
    "iterations": 4,
    "ls_iterations": 8,
    "integrator": int(mujoco.mjtIntegrator.mjINT_EULER),
    "solver": int(mujoco.mjtSolver.mjSOL_NEWTON),
}


LEVELS: dict[str, dict[str, Any]] = {"accurate": {}, "balanced": BALANCED, "fast": FAST}


def load_gymnasium(
    xml: str,
    physics: str = "accurate",
    impl: str = "jax",
    fast: dict[str, Any] = FAST,
    fast_contacts: int | None = None,
) -> Simulator:
    """Loads a model file of the installed `gymnasium` package.

    Args:
      xml: file name in `gymnasium/envs/mujoco/assets`.
      physics: "accurate" (the file's own options; MJX has no PGS, so that solver
        becomes Newton), "balanced" (`BALANCED` on top) or "fast" (the options in `fast` on top).
      impl: see `load`.
      fast_contacts: but for "accurate", as many contacts at most, the deepest, for each
        friction dimension; None keeps every pair's. The nearest pairs are chosen first.

    Raises:
      ValueError: unknown `physics` or `impl`.
    """
    levels = LEVELS | {"fast": fast}
    if physics not in levels:
        raise ValueError(f"physics={physics!r}: allowed are 'accurate', 'balanced' and 'fast'")
    path = Path(importlib.util.find_spec("gymnasium").origin).parent / "envs/mujoco/assets" / xml
    spec = mujoco.MjSpec.from_file(str(path))
    if physics != "accurate" and fast_contacts is not None:
        for numeric in list(spec.numerics):  # MJX reads the wrong entry where any come before
            spec.delete(numeric)
        for name in ("max_geom_pairs", "max_contact_points"):
            spec.add_numeric(name=name, data=[fast_contacts], size=1)
    mj_model = _compile(spec)
    options = {"solver": int(mujoco.mjtSolver.mjSOL_NEWTON)} if mj_model.opt.solver == 0 else {}
    return load(mj_model, impl, options | levels[physics])


def _compile(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """`spec.compile()` without the warning about `settotalmass`, which half_cheetah.xml has.

    MuJoCo's compiler calls that attribute deprecated. The masses are scaled after compilation
    instead, by the two calls that the warning names. Those leave the means of the masses and of
    the inertias as they were, which scale the solver's tolerance, so both are set here.
    """
    total_mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
    mj_model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(mj_model, total_mass)
        mujoco.mj_setConst(mj_model, mujoco.MjData(mj_model))
        mj_model.stat.meanmass = mj_model.body_mass[1:].mean()
        mj_model.stat.meaninertia = mj_model.dof_M0.mean()
    return mj_model


def contact_forces(model: mjx.Model, data: mjx.Data) -> jax.Array:
    """Contact force on each body, as MuJoCo's `cfrc_ext` after `mj_rnePostConstraint`.

    Returns [nbody, 6]: torque (N m) about the subtree's centre of mass, then force (N);
    zero for the world. MJX implementation "jax" only.
    """
    return mjx.rne_postconstraint(model, data)._impl.cfrc_ext


def _cut_deep_kinematics() -> None:
    """Keeps XLA's CPU fusion from recomputing a long chain of bodies once per descendant.

    Every body's pose is a function of its parent's; fused, the cost grows exponentially
    with depth: nothing to notice at ant's 4, 20000 times slower at pusher's 11. Barriers
    between the levels of such trees end it.
    """
    if jax.default_backend() != "cpu":
        return
    from mujoco.mjx._src import scan, smooth

    def body_tree(model, f, *args, **kwargs):
        parents, depth = model.body_parentid, [0]
        for parent in parents[1:]:
            depth.append(1 + depth[parent])
        if max(depth) > MAX_FUSED_DEPTH and f.__qualname__.startswith("kinematics."):
            level = lambda *x: jax.tree.map(jax.lax.optimization_barrier, f(*x))
            return scan.body_tree(model, level, *args, **kwargs)
        return scan.body_tree(model, f, *args, **kwargs)

    smooth.scan = cholesky.Namespace(scan, body_tree=body_tree)
