"""What a MuJoCo model asks for and MJX's JAX implementation leaves out without a word.

`mjx.put_model` refuses much that it cannot do. The features here it accepts and ignores: no file
of MJX reads their fields (mujoco-mjx 3.17).
"""

from __future__ import annotations

import warnings

import numpy as np

from envs.gl import mujoco

# (object, field of MjModel, its name in MJCF); a row that is not 0 uses the feature.
FIELDS = (
    ("actuator", "actuator_delay", "delay"),
    ("actuator", "actuator_actearly", "actearly"),
    ("actuator", "actuator_armature", "armature"),
    ("actuator", "actuator_damping", "damping"),
    ("actuator", "actuator_dampingpoly", "damping (polynomial)"),
    ("joint", "jnt_stiffnesspoly", "stiffness (polynomial)"),
    ("joint", "jnt_springyield", "springyield"),
    ("dof", "dof_dampingpoly", "damping (polynomial)"),
    ("tendon", "tendon_stiffnesspoly", "stiffness (polynomial)"),
    ("tendon", "tendon_dampingpoly", "damping (polynomial)"),
    ("tendon", "tendon_springyield", "springyield"),
    ("geom", "geom_adhesion", "adhesion"),
    ("geom", "geom_surfacevel", "surfacevel"),
    ("pair", "pair_adhesion", "adhesion"),
    ("sensor", "sensor_delay", "delay"),
    ("sensor", "sensor_interval", "interval"),
)


def ignored(model: mujoco.MjModel) -> list[str]:
    """Names what MJX ignores of `model`, such as "actuator delay (hip, knee)"."""
    found = []
    for kind, field, feature in FIELDS:
        value = np.asarray(getattr(model, field, ()))  # an older MuJoCo lacks some fields
        rows = np.flatnonzero(value.reshape(len(value), -1).any(1)) if value.size else ()
        if len(rows):
            found.append(f"{kind} {feature} ({_names(model, kind, rows)})")
    option = model.opt
    if model.nplugin:
        found.append("plugins")
    if option.noslip_iterations:
        found.append(f"option noslip_iterations={option.noslip_iterations}")
    groups = model.actuator_group
    off = np.flatnonzero((option.disableactuator >> np.maximum(groups, 0)) & (groups >= 0))
    if len(off):
        found.append(f"option actuatorgroupdisable ({_names(model, 'actuator', off)})")
    fluid = option.density > 0 or option.viscosity > 0
    ellipsoids = np.flatnonzero(model.geom_fluid.reshape(model.ngeom, -1)[:, 0])
    if fluid and len(ellipsoids):
        found.append(f'geom fluidshape="ellipsoid" ({_names(model, "geom", ellipsoids)})')
    if option.enableflags & getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0):
        found.append("flag sleep")
    spring, damper = (
        bool(option.disableflags & bit)
        for bit in (mujoco.mjtDisableBit.mjDSBL_SPRING, mujoco.mjtDisableBit.mjDSBL_DAMPER)
    )
    if spring != damper:  # MJX then leaves out all passive forces
        found.append(f"every passive force beside the disabled {'spring' if spring else 'damper'}")
    return found


def warn(model: mujoco.MjModel) -> None:
    """Warns in one line if MJX ignores something of `model`."""
    found = ignored(model)
    if found:
        warnings.warn(
            f"MJX ignores of this model: {', '.join(found)}; it moves differently from MuJoCo's",
            stacklevel=3,
        )


def _names(model: mujoco.MjModel, kind: str, rows: np.ndarray) -> str:
    """The names of up to 4 rows; a number where there is no name."""
    if kind == "dof":
        kind, rows = "joint", np.unique(model.dof_jntid[rows])
    named = lambda i: getattr(model, kind)(i).name or str(i)
    shown = [named(int(i)) for i in rows[:4]]
    return ", ".join(shown) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
