"""What MJX's JAX implementation refuses of a MuJoCo model, and the nearest thing that works.

`mjx.put_model` names neither the element nor its file. This mirrors its checks (mujoco-mjx 3.17).
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from envs.gl import mujoco

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that Warp is not installed
    from mujoco.mjx import GeomType
    from mujoco.mjx._src import types
    from mujoco.mjx._src.collision_driver import geom_pairs, has_collision_fn

SHOWN = 4  # elements of one kind that a message names

# (element of MJCF, object of MjModel, field, MJX's enum, MuJoCo's enum, what to use instead)
FIELDS = (
    ("actuator", "actuator", "actuator_dyntype", types.DynType, mujoco.mjtDyn, "a motor, position, velocity or general actuator with dyntype none, integrator, filter, filterexact or muscle"),
    ("actuator", "actuator", "actuator_gaintype", types.GainType, mujoco.mjtGain, "a motor, position, velocity or general actuator with gaintype fixed, affine or muscle"),
    ("actuator", "actuator", "actuator_biastype", types.BiasType, mujoco.mjtBias, "a motor, position, velocity or general actuator with biastype none, affine or muscle"),
    ("actuator", "actuator", "actuator_trntype", types.TrnType, mujoco.mjtTrn, "a transmission by joint, jointinparent, tendon or site"),
    ("equality", "eq", "eq_type", types.EqType, mujoco.mjtEq, "an equality connect, weld, joint or tendon"),
    ("sensor", "sensor", "sensor_type", types.SensorType, mujoco.mjtSensor, "no sensor, and compute it from `data` in your own function"),
)  # fmt: skip
NEAREST = {  # a geom that collides with what this one does not collide with
    "CYLINDER": "a capsule",
    "ELLIPSOID": "a capsule or a sphere",
    "PLANE": "a plane on one side only",
    "HFIELD": "boxes, capsules, spheres or meshes on the height field",
    "SDF": "a mesh, capsules or boxes",
}


def refused(model: mujoco.MjModel, source: Path | None = None) -> list[str]:
    """Names what MJX refuses of `model`, each with the nearest thing that works.

    Args:
      model: with the options that it will be simulated with.
      source: the MJCF file that it came from. With it an element's file and line are named.
    """
    return [*_options(model), *_fields(model, source), *_sensors(model, source), *_geoms(model, source)]  # fmt: skip


def message(model: mujoco.MjModel, error: Exception, source: Path | None = None) -> str:
    """One line for the exception that MJX raised for `model`."""
    found = refused(model, source) or [" ".join(str(error).split())]
    named = f" {source}" if source else ""
    return f"MJX cannot simulate this model{named}: {'; '.join(found)}"


def _options(model: mujoco.MjModel) -> Iterator[str]:
    option, enabled = model.opt, mujoco.mjtEnableBit
    has_fluid = option.density > 0 or option.viscosity > 0 or option.wind.any()
    if option.integrator not in set(types.IntegratorType):
        yield 'option integrator="implicit" (use implicitfast, or physics="fast")'
    elif option.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST and has_fluid:
        yield 'option integrator="implicitfast" with density, viscosity or wind (use Euler or RK4)'
    if option.solver not in set(types.SolverType):
        yield 'option solver="PGS" (use Newton or CG)'
    for i in range(int(enabled.mjNENABLE)):
        if option.enableflags & 2**i and 2**i not in set(types.EnableBit):
            yield f"flag {_short(enabled(2**i))} (leave it out)"
    if model.nflex:
        yield f"{model.nflex} flex (use rigid bodies with joints, or impl='warp' on a GPU)"


def _fields(model: mujoco.MjModel, source: Path | None) -> Iterator[str]:
    for element, kind, field, known, names, instead in FIELDS:
        values = getattr(model, field)
        missing = sorted({int(x) for x in values} - {int(x) for x in known})
        for value in missing:
            rows = np.flatnonzero(values == value)
            where = _elements(model, kind, rows, source)
            yield f"{element} {where} of type {_short(names(value))} (use {instead})"


def _sensors(model: mujoco.MjModel, source: Path | None) -> Iterator[str]:
    rows = np.flatnonzero(model.sensor_type == int(types.SensorType.CONTACT))
    matched = (types.ObjType.BODY, types.ObjType.XBODY, types.ObjType.SITE)
    by = lambda i: {int(model.sensor_objtype[i]), int(model.sensor_reftype[i])}
    wrong = [i for i in rows if by(i) & {int(x) for x in matched}]
    if wrong:
        where = _elements(model, "sensor", wrong, source)
        yield f"contact sensor {where} that matches bodies, subtrees or sites (match geom1 and geom2)"
    net = [i for i in rows if model.sensor_intprm[i, 1] == 3]
    if net:
        where = _elements(model, "sensor", net, source)
        yield f'contact sensor {where} with reduce="netforce" (use reduce="maxforce")'


def _geoms(model: mujoco.MjModel, source: Path | None) -> Iterator[str]:
    missing: dict[tuple[str, str], list[tuple[int, int]]] = {}
    margins: list[int] = []
    flat: list[int] = []
    for a, b, pair in geom_pairs(model):
        a, b = sorted((a, b), key=lambda geom: int(model.geom_type[geom]))
        kinds = tuple(GeomType(int(model.geom_type[geom])).name for geom in (a, b))
        if not has_collision_fn(*(int(model.geom_type[geom]) for geom in (a, b))):
            missing.setdefault(kinds, []).append((a, b))
        margin = model.geom_margin[[a, b]] if pair == -1 else model.pair_margin[[pair]]
        if {"MESH", "HFIELD"} & set(kinds) and margin.any():
            margins += [geom for geom in (a, b) if model.geom_margin[geom] or pair != -1]
        condim = model.geom_condim[[a, b]].max() if pair == -1 else model.pair_dim[pair]
        if condim == 1 and model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC:
            flat += [a, b]
    for (first, second), pairs in missing.items():
        named = [_elements(model, "geom", [geom], source) for geom in pairs[0]]
        more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        nearest = NEAREST.get(first, NEAREST.get(second, "capsules or boxes"))
        yield (
            f"contacts of {first.lower()} {named[0]} with {second.lower()} {named[1]}{more} (use"
            f" {nearest}, or keep them apart by contype, conaffinity or <exclude>)"
        )
    if margins:
        where = _elements(model, "geom", sorted(set(margins)), source)
        yield f"margin or gap of contacts with meshes or height fields: geom {where} (set margin to 0)"
    if flat:
        where = _elements(model, "geom", sorted(set(flat)), source)
        yield f'condim="1" of geom {where} with cone="elliptic" (use condim="3" or cone="pyramidal")'


def _elements(model: mujoco.MjModel, kind: str, rows, source: Path | None) -> str:
    """Names of some rows, such as "'hip' (robot.xml line 7), number 3 and 2 more"."""
    shown = []
    for row in map(int, rows[:SHOWN]):
        name = getattr(model, kind)(row).name
        place = located(source, name) if name and source else ""
        shown.append((f"{name!r}" if name else f"number {row}") + (f" ({place})" if place else ""))
    return ", ".join(shown) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")


def located(source: Path, name: str) -> str:
    """The file and line of the element of that name in an MJCF file and what it includes, or ""."""
    todo, seen = [Path(source)], set()
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        text = path.read_text(errors="replace")
        if found := re.search(rf"\sname\s*=\s*[\"']{re.escape(name)}[\"']", text):
            return f"{path.name} line {text.count(chr(10), 0, found.end()) + 1}"
        # MuJoCo looks for an included file beside the outermost one.
        for file in re.findall(r"<include\s[^>]*file\s*=\s*[\"']([^\"']+)[\"']", text):
            todo += [Path(source).parent / file, path.parent / file]
    return ""


def _short(value) -> str:
    """ "dcmotor" of mjtDyn.mjDYN_DCMOTOR."""
    return value.name.split("_", 1)[1].lower()
