"""Reference motions that are computed, for `transforms.imitate`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from envs.transforms.imitate import Motion

THIGH = SHANK = 0.2  # m, of the quadruped
DIAGONAL = (0.0, 0.5, 0.5, 0.0)  # phases of the four legs, in the order of `QuadrupedVelocity.FEET`


def trot(speed: float, period: float = 0.5, lift: float = 0.06, height: float = 0.29) -> Motion:
    """A trot of `quadruped_velocity` along x. Two diagonal legs stand while the others swing.

    A standing foot stays where it is on the ground, and a swinging one moves along a sine arch. Joint
    angles follow from the law of cosines.

    Args:
      speed: of the trunk, in m/s.
      period: s, a multiple of the control step of 0.02 s.
      lift: how far a swinging foot is raised, in m.
      height: of the hips above the feet's centres, in m; below the 0.4 m of a leg.

    Returns:
      A motion of period / 0.02 s poses that moves on by speed * period.

    Raises:
      ValueError: a leg is too short for the stride.
    """
    steps, radius = round(period / 0.02), 0.022
    time = np.arange(steps) / steps
    stride = speed * period / 2  # m that the trunk moves while a foot stands
    qpos = np.zeros((steps, 19))
    qpos[:, 0], qpos[:, 2], qpos[:, 3] = time * speed * period, height + radius, 1.0
    for leg, offset in enumerate(DIAGONAL):
        phase = (time + offset) % 1.0
        stands = phase < 0.5
        x = stride * np.where(stands, 0.5 - 2 * phase, 2 * phase - 1.5)
        z = np.where(stands, 0.0, lift * np.sin(2 * np.pi * (phase - 0.5))) - height
        length = np.hypot(x, z)
        if length.max() >= THIGH + SHANK:
            raise ValueError(f"speed={speed}, period={period}: a leg is too short for this stride")
        bend = np.arccos(length / (2 * THIGH))  # thigh and shank are equally long
        pitch = np.arctan2(-x, -z) + bend
        qpos[:, 7 + 3 * leg : 10 + 3 * leg] = np.stack([0 * pitch, pitch, -2 * bend], -1)
    qvel = np.zeros((steps, 18))
    qvel[:, 0] = speed
    joints = qpos[:, 7:]
    qvel[:, 6:] = (np.roll(joints, -1, 0) - np.roll(joints, 1, 0)) / 0.04
    shift = np.array([speed * period, 0.0, 0.0])
    return Motion(*(jnp.asarray(x, jnp.float32) for x in (qpos, qvel, shift)))
