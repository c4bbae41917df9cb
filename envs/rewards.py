"""Terms of rewards for robots: pure functions of arrays, which broadcast over leading axes.

| term | range | unit |
|---|---|---|
| `velocity_tracking` | 0 .. 1 | 1 |
| `orientation` | 0 .. 1 | 1, a cost |
| `torque` | 0 .. inf | (N m)^2, a cost |
| `power` | 0 .. inf | W, a cost |
| `action_smoothness` | 0 .. inf | 1, a cost |
| `feet_air_time` | | s |
| `contact` | 0 .. bodies | 1, a cost |
| `alive` | 0 or 1 | 1 |

Costs are not negative: weight them below 0. A weight has the unit of 1 / the term's unit. With `from_mjcf`
a reward is a dict of weighted terms. The forms are those of Rudin et al. 2022 ("Learning to Walk in Minutes
Using Massively Parallel Deep Reinforcement Learning", table of rewards) where it has them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def velocity_tracking(velocity: jax.Array, command: jax.Array, scale: float = 0.5) -> jax.Array:
    """exp(-|velocity - command|^2 / scale^2): 1 where the command is met (Rudin et al. 2022). [...]

    Args:
      velocity, command: in one frame; m/s of a body, or rad/s of a turn. [..., D]
      scale: the error at which the term is 1/e, in the same unit; above 0.
    """
    error = jnp.square(velocity - command).sum(-1)
    return jnp.exp(-error / scale**2)


def orientation(quat: jax.Array, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> jax.Array:
    """The squared sine of the tilt: 0 upright (or upside down), 1 on its side. [...]

    Args:
      quat: the body's orientation in the world, (w, x, y, z) of unit length. [..., 4]
      up: the axis of the body that points up; of unit length.
    """
    vertical = to_body(quat, jnp.array([0.0, 0.0, 1.0]))
    return 1.0 - jnp.square((vertical * jnp.asarray(up)).sum(-1))


def torque(torques: jax.Array) -> jax.Array:
    """The sum of the squared torques, in (N m)^2. [...]

    Args:
      torques: such as `data.actuator_force` or `data.qfrc_actuator`, in N m. [..., J]
    """
    return jnp.square(torques).sum(-1)


def power(torques: jax.Array, velocities: jax.Array) -> jax.Array:
    """The sum of |torque x velocity|, in W: mechanical power without recuperation. [...]

    Args:
      torques: of the joints, in N m. [..., J]
      velocities: of the same joints, in rad/s. [..., J]
    """
    return jnp.abs(torques * velocities).sum(-1)


def action_smoothness(action: jax.Array, last_action: jax.Array) -> jax.Array:
    """The squared distance of two consecutive actions. [...]

    Args:
      action, last_action: `now.action` and `now.last_action`. [..., A]
    """
    return jnp.square(action - last_action).sum(-1)


def feet_air_time(air_time: jax.Array, touching: jax.Array, target: float = 0.5) -> jax.Array:
    """The sum of (air time - target) over the feet that land in this step, in s (Rudin et al. 2022). [...]

    Args:
      air_time: how long each foot had been in the air before this step (`airborne`), in s. [..., F]
      touching: whether the foot touches the ground now; bool. [..., F]
      target: the air time that is worth 0, in s.
    """
    landed = touching & (air_time > 0.0)
    return jnp.where(landed, air_time - target, 0.0).sum(-1)


def airborne(air_time: jax.Array, touching: jax.Array, dt: float) -> jax.Array:
    """The air time of each foot after a step, in s; 0 where it touches: for `remember`. [..., F]

    Args:
      air_time: before the step, in s. [..., F]
      touching: bool. [..., F]
      dt: seconds of a control step.
    """
    return jnp.where(touching, 0.0, air_time + dt)


def contact(forces: jax.Array, threshold: float = 1.0) -> jax.Array:
    """How many bodies are touched by more than `threshold` N. [...]

    Args:
      forces: the size of the contact force on each body that should not touch anything, such as that of
        a touch sensor, in N. [..., B]
      threshold: in N.
    """
    return (forces > threshold).sum(-1).astype(jnp.float32)


def alive(terminated: jax.Array) -> jax.Array:
    """1 in a step that does not terminate the episode, else 0. [...]

    Args:
      terminated: bool. [...]
    """
    return 1.0 - jnp.asarray(terminated, jnp.float32)


def to_body(quat: jax.Array, vector: jax.Array) -> jax.Array:
    """A vector of the world's frame in the frame of a body. [..., 3]

    Args:
      quat: the body's orientation in the world, (w, x, y, z) of unit length. [..., 4]
      vector: such as a velocity. [..., 3]
    """
    w, axis = quat[..., :1], -quat[..., 1:]
    shape = jnp.broadcast_shapes(axis.shape, vector.shape)
    axis, vector = jnp.broadcast_to(axis, shape), jnp.broadcast_to(vector, shape)
    # v + 2 w (a x v) + 2 a x (a x v), for the inverse rotation.
    turned = 2.0 * jnp.cross(axis, vector)
    return vector + w * turned + jnp.cross(axis, turned)
