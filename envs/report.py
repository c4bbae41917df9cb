"""`python -m envs.report my_robot.xml`: what a MuJoCo model costs on MJX, and what would make it faster."""

from __future__ import annotations

import argparse
import collections
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.gl import mujoco
from envs.mjcf import CONTROL_DT, compiled, solver_options
from envs.mjx.ignored import ignored
from envs.mjx.refused import geom_pairs, refused
from envs.mjx.simulator import LEVELS, Physics, Simulator, load

STEPS = 100  # that MJX is compared with C MuJoCo
BATCH = 64  # instances that are timed
EPISODE = 16  # control steps that are timed together
PAIRS = 20  # possible contacts beyond which they are worth a thought
VERTICES = 200  # of a mesh, likewise
AGREES = 1e-2  # rad/s or m/s: a larger difference after one step is not rounding


@struct.dataclass
class Parity:
    """The largest difference of MJX and C MuJoCo after one physics step from the same state."""

    qpos: float  # rad or m
    qvel: float  # rad/s or m/s
    joint: str  # of the largest difference in qvel
    step: int  # likewise
    contacts: int  # that C MuJoCo found in that step


@struct.dataclass
class Cost:
    """What one level of physics costs."""

    steps_per_second: float  # control steps, of all instances
    compile_seconds: float


def sizes(model: mujoco.MjModel) -> dict[str, int]:
    """How many of each element the model has; the world is no body."""
    return {
        "bodies": model.nbody - 1,
        "joints": model.njnt,
        "degrees of freedom": model.nv,
        "actuators": model.nu,
        "geoms": model.ngeom,
        "meshes": model.nmesh,
        "sensors": model.nsensor,
    }


def pairs(model: mujoco.MjModel) -> dict[str, int]:
    """How many pairs of geoms may touch, by their types; MJX computes every one in every step."""
    name = lambda geom: mujoco.mjtGeom(int(model.geom_type[geom])).name.split("_")[-1].lower()
    kinds = [" - ".join(sorted((name(a), name(b)))) for a, b, _ in geom_pairs(model)]
    return dict(collections.Counter(kinds).most_common())


def parity(sim: Simulator, steps: int = STEPS, seed: int = 0) -> Parity:
    """Compares MJX with C MuJoCo along an episode of random controls in C MuJoCo.

    Every step starts from the same state in both, so differences do not add up. Controls are uniform in
    `ctrlrange`, or in -1 .. 1 where an actuator has none. Each control is held for one step.

    Args:
      sim: the model on MJX; C MuJoCo uses the same options.
      steps: physics steps.
      seed: of the controls.
    """
    model = sim.mj_model
    data = mujoco.MjData(model)
    if model.nkey:
        mujoco.mj_resetDataKeyframe(model, data, 0)
    random = np.random.default_rng(seed)
    low, high = _controls(model)
    fields = ("qpos", "qvel", "act", "qacc_warmstart", "ctrl")
    before, new_qpos, new_qvel, contacts = [], [], [], []
    for _ in range(steps):
        data.ctrl[:] = random.uniform(low, high)
        before.append({name: np.array(getattr(data, name), np.float32) for name in fields})
        mujoco.mj_step(model, data)
        new_qpos.append(np.array(data.qpos))
        new_qvel.append(np.array(data.qvel))
        contacts.append(data.ncon)

    def step(start):
        physics = sim.physics(start["qpos"], start["qvel"])
        physics = physics.replace(qacc_warmstart=start["qacc_warmstart"])
        physics = physics.replace(act=start["act"] if model.na else None)
        new, _ = sim.simulate(physics, start["ctrl"], 1)
        return new.qpos, new.qvel

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *before)
    found = jax.jit(jax.vmap(step))(stacked)
    qpos, qvel = (np.abs(a - np.stack(b)) for a, b in zip(found, (new_qpos, new_qvel), strict=True))
    if not (np.isfinite(qpos).all() and np.isfinite(qvel).all()):
        qpos, qvel = (np.nan_to_num(x, nan=np.inf) for x in (qpos, qvel))
    worst, dof = np.unravel_index(qvel.argmax(), qvel.shape)
    joint = int(model.dof_jntid[dof])
    name = model.joint(joint).name or f"number {joint}"
    return Parity(float(qpos.max()), float(qvel.max()), name, int(worst), int(contacts[worst]))


def cost(sim: Simulator, substeps: int, batch: int = BATCH, seconds: float = 1.0) -> Cost:
    """Times short episodes of `batch` instances with random controls.

    Args:
      sim: the model with the options that are timed.
      substeps: physics steps of a control step.
      batch: instances.
      seconds: how long to measure, at least; one episode of `EPISODE` control steps is always timed.
    """
    model = sim.mj_model
    low, high = _controls(model)

    @jax.jit
    def episode(key: jax.Array) -> Physics:
        def step(physics: Physics, key: jax.Array) -> tuple[Physics, None]:
            controls = jax.random.uniform(key, (batch, model.nu), minval=low, maxval=high)
            return jax.vmap(lambda p, c: sim.simulate(p, c, substeps)[0])(physics, controls), None

        start = sim.physics(sim.model.qpos0, jnp.zeros(model.nv))
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), start)
        return jax.lax.scan(step, start, jax.random.split(key, EPISODE))[0]

    began = time.perf_counter()
    run = episode.lower(jax.random.key(0)).compile()
    compiling = time.perf_counter() - began
    jax.block_until_ready(run(jax.random.key(0)))
    began, count = time.perf_counter(), 0
    while not count or time.perf_counter() - began < seconds:
        jax.block_until_ready(run(jax.random.key(count)))
        count += 1
    steps = batch * EPISODE * count
    return Cost(steps / (time.perf_counter() - began), compiling)


def _controls(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest control; -1 and 1 for an actuator without `ctrlrange`. [nu], [nu]"""
    limited = model.actuator_ctrllimited.astype(bool)
    low, high = model.actuator_ctrlrange.T
    return np.where(limited, low, -1.0), np.where(limited, high, 1.0)


def advice(model: mujoco.MjModel, substeps: int) -> list[str]:
    """What to change to make the model faster on MJX, the largest savings first as a rule.

    Args:
      model: the compiled model.
      substeps: physics steps of a control step.
    """
    found = []
    by_kind = pairs(model)
    total = sum(by_kind.values())
    if total > PAIRS:
        most, count = next(iter(by_kind.items()))
        found.append(
            f"{total} pairs of geoms may touch, {count} of them {most}. MJX computes all of them in every"
            ' step: let only feet and hands collide (contype="0" conaffinity="0" elsewhere, or a list of'
            ' <pair>), or cap them with <custom><numeric name="max_contact_points" data="8"/></custom>'
        )
    touching = {geom for a, b, _ in geom_pairs(model) for geom in (a, b)}
    is_mesh = lambda geom: model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH
    meshes = sorted({int(model.geom_dataid[geom]) for geom in touching if is_mesh(geom)})
    large = [mesh for mesh in meshes if model.mesh_vertnum[mesh] > VERTICES]
    for mesh in large:
        found.append(
            f"mesh {model.mesh(mesh).name!r} collides and has {model.mesh_vertnum[mesh]} vertices: use"
            " capsules or boxes for contacts and keep the mesh for the picture"
        )
    if meshes and not large:
        names = ", ".join(repr(model.mesh(mesh).name) for mesh in meshes[:4])
        found.append(f"meshes collide ({names}): capsules, spheres and boxes are cheaper")
    option = model.opt
    if option.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        found.append(
            'integrator="RK4" computes four forward passes a step: integrator="implicitfast" or "Euler"'
            " computes one"
        )
    if option.iterations > 8 or option.ls_iterations > 16:
        found.append(
            f'iterations="{option.iterations}" ls_iterations="{option.ls_iterations}" of the solver: a batch'
            ' waits for its slowest instance, so try iterations="4" ls_iterations="8" (physics="balanced")'
            ' or 1 and 4 (physics="fast")'
        )
    if substeps > 5:
        found.append(
            f'timestep="{option.timestep:g}" takes {substeps} physics steps for a control step of'
            f" {substeps * option.timestep:g} s: try a larger timestep while the model stays stable"
        )
    if option.cone == mujoco.mjtCone.mjCONE_ELLIPTIC and total:
        found.append('cone="elliptic": try cone="pyramidal", and compare the costs of both')
    if total and any(model.geom_condim[geom] > 3 for geom in touching):
        found.append(
            'condim="4" or "6" adds rows to the solver for each contact: condim="3" is enough without'
            " torsional or rolling friction"
        )
    return found


def report(
    source: str, control_dt: float = CONTROL_DT, batch: int = BATCH, seconds: float = 1.0
) -> Iterator[str]:
    """The lines of the report on a model file.

    Raises:
      ValueError: MuJoCo cannot read the file; one line.
    """
    path, model = compiled(source)
    substeps = max(1, round(control_dt / model.opt.timestep))
    yield f"{path}: " + ", ".join(f"{n} {name}" for name, n in sizes(model).items())
    by_kind = pairs(model)
    kinds = ", ".join(f"{count} {kind}" for kind, count in by_kind.items())
    yield f"pairs that may touch: {sum(by_kind.values())}" + (f" ({kinds})" if kinds else "")
    yield f"MJX ignores: {', '.join(ignored(model)) or 'nothing'}"
    simulators = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MJX ignores is said above
        for level in LEVELS:
            try:
                simulators[level] = load(model, "jax", solver_options(model, level), path)
            except ValueError:
                if level == "accurate":
                    yield f"MJX refuses: {'; '.join(refused(model, path))}"
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        yield "solver PGS: MJX has none, Newton takes its place below"
    if not simulators:
        yield "change what MJX refuses, then ask again"
        return
    yield f"control step of {substeps * model.opt.timestep:g} s ({substeps} physics steps), {batch} instances on {jax.default_backend()}:"
    for level, sim in simulators.items():
        found = cost(sim, substeps, batch, seconds)
        each = 1e6 / found.steps_per_second
        yield (
            f"  {level:9} {found.steps_per_second:11,.0f} steps/s, {each:8.1f} us each; compiles in"
            f" {found.compile_seconds:.0f} s"
        )
    level, sim = next(iter(simulators.items()))
    found = parity(sim)
    verdict = (
        "agrees" if found.qvel < AGREES else "differs, look at contacts and at what MJX ignores"
    )
    yield (
        f"C MuJoCo over {STEPS} random steps ({level}): {verdict}. Largest difference after one step:"
        f" position {found.qpos:.1e}, velocity {found.qvel:.1e} (joint {found.joint}, step {found.step},"
        f" {found.contacts} contacts)"
    )
    hints = advice(model, substeps)
    yield "faster:" if hints else "faster: nothing stands out"
    yield from (f"  - {hint}" for hint in hints)


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m envs.report", description=__doc__)
    parser.add_argument("file", help="an MJCF or URDF file")
    parser.add_argument("--control-dt", type=float, default=CONTROL_DT, help="seconds")
    parser.add_argument("--batch", type=int, default=BATCH, help="instances that are timed")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each level is timed")
    given = parser.parse_args(arguments)
    if given.control_dt <= 0 or given.batch < 1 or given.seconds <= 0:
        print("--control-dt, --batch and --seconds must be above 0", file=sys.stderr)
        return 2
    try:
        for line in report(str(Path(given.file)), given.control_dt, given.batch, given.seconds):
            say(line)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
