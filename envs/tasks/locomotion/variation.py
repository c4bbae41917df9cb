"""A `sample` for `randomise`: every episode has a robot and a ground of its own."""

from __future__ import annotations

from typing import Any

import jax

from envs.transforms.base import on_task
from envs.transforms.randomise import Sample

Range = tuple[float, float]


def vary(
    masses: Range = (0.8, 1.2),
    friction: Range = (0.4, 1.2),
    gains: Range = (0.85, 1.15),
    offset: float = 0.03,
) -> Sample:
    """A `sample` for `transforms.randomise` on a task of `envs.tasks.locomotion.velocity`.

    Args:
      masses: range of a factor for each body's mass, which its inertia follows; above 0.
      friction: range of the friction of all feet, which is that of the ground; above 0.
      gains: range of a factor for the stiffness and the damping of each servo; above 0.
      offset: the largest error of an encoder, in rad; at least 0. The servos and the observation see
        the joint angle with this error.

    Raises:
      ValueError: a range that is empty or not above 0, or an offset below 0.
    """
    for name, (low, high) in {"masses": masses, "friction": friction, "gains": gains}.items():
        if not 0.0 < low <= high:
            raise ValueError(f"{name}={(low, high)}: must be 0 < low <= high")
    if not offset >= 0.0:
        raise ValueError(f"offset={offset}: must be at least 0")

    def change(key: jax.Array, task: Any) -> Any:
        k_mass, k_friction, k_gain, k_offset = jax.random.split(key, 4)
        model, joints = task.sim.model, task.sim.mj_model.nu
        mass = _uniform(k_mass, (model.nbody,), masses)
        rubber = _uniform(k_friction, (), friction)
        gain = _uniform(k_gain, (joints, 1), gains)
        error = _uniform(k_offset, (joints,), (-offset, offset))
        model = model.replace(
            body_mass=model.body_mass * mass,
            body_inertia=model.body_inertia * mass[:, None],
            geom_friction=model.geom_friction.at[:, 0].set(rubber),
            actuator_gainprm=model.actuator_gainprm * gain,
            actuator_biasprm=model.actuator_biasprm * gain,
            qpos0=model.qpos0.at[7:].add(error),  # a joint's angle is qpos - qpos0
        )
        return task.replace(sim=task.sim.replace(model=model))

    return lambda key, env: on_task(env, lambda task: change(key, task))


def _uniform(key: jax.Array, shape: tuple[int, ...], bounds: Range) -> jax.Array:
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])
