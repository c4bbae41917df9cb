"""Put a peg into a hole that is hardly wider: contact, a sparse reward, delta position control."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator
from envs.tasks.assets import load_asset
from envs.types import Box, State, check_range, first_state

WIDTH = 0.02  # m, of the peg
# One iteration, as in `envs.physics.FAST`, lets a peg that stands on a rim sink and shake.
FAST = {"iterations": 2, "ls_iterations": 4}


@struct.dataclass
class PegData:
    """A pose is that of the peg's tip, or of the middle of a hole's mouth. P entries (m, rad)."""

    physics: Physics  # qpos [P] is the tip's pose
    target: jax.Array  # [P] where the controller pulls the tip
    hole: jax.Array  # [P]
    seen: jax.Array  # [P] the hole's pose as it is observed


@struct.dataclass
class PegInsertion:
    """obs [12]: pose of the peg's tip (x, z in m, pitch in rad), its velocity, the hole's pose
    minus the tip's, the target minus the tip's pose (3 each); with `touch` also the contact force
    on the tip (N, N, N m). action [3] in [-1, 1]: how far the target moves, in units of `max_step`.

    A spring and a damper pull a peg 20 mm wide to the target. Its tip has to reach `depth` in a
    hole of another place and tilt in every episode: that returns 1 and terminates, nothing else
    is rewarded. The edges are rounded by 1 mm, so a peg 1 mm beside the hole may slip in; 2 mm
    beside, it stands on the rim. Gravity is compensated.

    For `envs.transforms.randomise`: `scale_physics` with "body_mass", "geom_friction" (0.3; the
    peg's counts), "jnt_stiffness" (the controller's gains) and "dof_damping"; or numbers of the
    task such as `clearance`.

    Attributes:
      clearance: m, how much wider than the peg the hole is; above 0.
      depth: m below the rim that the tip has to reach, at most 0.03.
      hole_range: the hole is uniform in +- these (m, m, rad).
      start_range: the tip starts uniform in +- these, around 45 mm above the middle (m, m, rad).
      hole_noise: m; the hole's place is observed with an error uniform in +- this along every
        axis, the same all episode.
      max_step: how far an action of 1 moves the target (m, m, rad); 25 actions are a second.
      max_lead: how far the target gets from the tip (m, m, rad). It bounds the push: 25 N, 0.5 N m.
      touch: whether the contact force is observed.

    Raises:
      ValueError: `clearance`, `depth` or `hole_noise` out of range.
    """

    sim: Simulator
    clearance: float = 0.001
    depth: float = 0.02
    hole_range: tuple[float, ...] = (0.02, 0.01, 0.15)
    start_range: tuple[float, ...] = (0.01, 0.01, 0.1)
    hole_noise: float = 0.0
    max_step: tuple[float, ...] = (0.004, 0.004, 0.04)
    max_lead: tuple[float, ...] = (0.01, 0.01, 0.1)
    touch: bool = struct.field(pytree_node=False, default=False)
    frame_skip: int = struct.field(pytree_node=False, default=8)

    num_modes = 1  # of the expert

    def __post_init__(self):
        check_range(self, 0.0, 0.02, "clearance", above=True)
        check_range(self, 0.0, 0.03, "depth", above=True)
        check_range(self, 0.0, math.inf, "hole_noise")

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("peg_insertion.xml", physics, impl, FAST)

    @property
    def observation_space(self) -> Box:
        return Box(((5 if self.touch else 4) * len(self.max_step),))

    @property
    def action_space(self) -> Box:
        return Box((len(self.max_step),), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_hole, k_start, k_noise = jax.random.split(key, 3)
        hole = uniform(k_hole, self.hole_range)
        start = uniform(k_start, self.start_range).at[-2].add(0.045)
        error = self.hole_noise * jax.random.uniform(k_noise, hole.shape, minval=-1.0)
        still = jnp.zeros_like(start)
        places, quats = self.blocks(hole)
        physics = self.sim.physics(start, still).replace(mocap_pos=places, mocap_quat=quats)
        data = PegData(physics, start, hole, hole + error.at[-1].set(0.0))
        return first_state(data, self._obs(data, still), self._metrics(data))

    def step(self, state: State, action: jax.Array) -> State:
        data, force = self.advance(state.data, action)
        metrics = self._metrics(data)
        return state.next(
            data=data,
            obs=self._obs(data, force),
            reward=metrics["success"],
            terminated=metrics["success"] > 0,
            metrics=metrics,
        )

    def advance(self, data: PegData, action: jax.Array) -> tuple[PegData, jax.Array]:
        """One control step: what it leads to, and the contact force on the tip [P]."""
        pose, lead = data.physics.qpos, jnp.array(self.max_lead)
        target = data.target + jnp.array(self.max_step) * jnp.clip(action, -1.0, 1.0)
        target = jnp.clip(target, pose - lead, pose + lead)
        target = jnp.clip(target, *map(jnp.array, self.workspace))
        ctrl = self.sim.model.jnt_stiffness * target  # the springs rest at 0; this shifts them
        force_of = lambda data: data.qfrc_constraint
        physics, force = self.sim.simulate(data.physics, ctrl, self.frame_skip, force_of)
        return data.replace(physics=physics, target=target), force

    def expert(self, obs: jax.Array, mode: jax.Array) -> jax.Array:
        """Lines up above the hole, then goes in; lifts a peg that stands beside it. [P]"""
        pose, _, gap, lead = jnp.split(obs[: 4 * len(self.max_step)], 4)
        return self.insert(pose, pose + gap, lead)

    def insert(self, pose: jax.Array, hole: jax.Array, lead: jax.Array) -> jax.Array:
        """The action that brings the tip from `pose` nearer to the bottom of `hole`."""
        place = self.to_hole(pose, hole)
        beside, height, angle = jnp.abs(place[:-2]).max(), place[-2], jnp.abs(place[-1])
        lined_up = (beside < self.clearance / 2) & (angle < 0.02)
        inside = (beside < 2e-3) & (height < -1e-3)
        # A funnel above the hole, 4 mm high at its middle.
        height = jnp.where(lined_up | inside, -self.depth - 0.01, 0.004 + 0.5 * beside)
        return self.along(pose, hole, lead, height)

    def along(
        self, pose: jax.Array, hole: jax.Array, lead: jax.Array, height: jax.Array
    ) -> jax.Array:
        """The action that brings the target to `height` on the axis of `hole`.

        The target moves along the axis by less than an action may, so that no clipping turns
        it off the axis.
        """
        now, reach = self.to_hole(pose + lead, hole)[-2], 0.9 * self.max_step[-2]
        height = jnp.clip(height, now - reach, now + reach)
        wanted = self.to_world(jnp.zeros_like(pose).at[-2].set(height), hole)
        return jnp.clip((wanted - pose - lead) / jnp.array(self.max_step), -1.0, 1.0)

    workspace = ((-0.06, -0.04, -0.5), (0.06, 0.08, 0.5))  # m, m, rad: where a target may be

    def to_hole(self, pose: jax.Array, hole: jax.Array) -> jax.Array:
        """`pose` as seen from the hole: beside its axis, above its rim, angle. [3]"""
        x, z, angle = pose - hole
        return jnp.stack([*_turn(x, z, hole[2]), angle])

    def to_world(self, place: jax.Array, hole: jax.Array) -> jax.Array:
        """The inverse of `to_hole`."""
        x, z, angle = place
        return hole + jnp.stack([*_turn(x, z, -hole[2]), angle])

    def blocks(self, hole: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [2, 3] and quaternions [2, 4] of the blocks to the left and right of a hole."""
        half = (WIDTH + self.clearance) / 2
        sides = [self.to_world(jnp.array([x, 0.0, 0.0]), hole) for x in (-half, half)]
        places = jnp.stack([jnp.array([p[0], 0.0, p[1]]) for p in sides])
        turned = jnp.array([jnp.cos(hole[2] / 2), 0.0, jnp.sin(hole[2] / 2), 0.0])
        return places, jnp.stack([turned, turned])

    def _obs(self, data: PegData, force: jax.Array) -> jax.Array:
        pose = data.physics.qpos
        parts = [pose, data.physics.qvel, data.seen - pose, data.target - pose]
        return jnp.concatenate([*parts, force] if self.touch else parts)

    def _metrics(self, data: PegData) -> dict[str, jax.Array]:
        """`distance` (m) is that of the tip to where it has to be, `angle` (rad) to the hole's."""
        place = self.to_hole(data.physics.qpos, data.hole)
        return {
            "success": self._reached(place).astype(jnp.float32),
            "distance": self._distance(place),
            "angle": jnp.abs(place[-1]),
        }

    def _reached(self, place: jax.Array) -> jax.Array:
        return (place[-2] <= -self.depth) & (jnp.linalg.norm(place[:-2]) < WIDTH / 2)

    def _distance(self, place: jax.Array) -> jax.Array:
        above = jnp.maximum(place[-2] + self.depth, 0.0)
        return jnp.hypot(jnp.linalg.norm(place[:-2]), above)


@struct.dataclass
class PegInsertion3D(PegInsertion):
    """`PegInsertion` with a square peg upright in space: a pose is x, y, z (m) and yaw (rad).

    obs [16] and action [4]; with `touch` obs [20].
    """

    hole_range: tuple[float, ...] = (0.02, 0.02, 0.01, 0.3)
    start_range: tuple[float, ...] = (0.01, 0.01, 0.01, 0.1)
    max_step: tuple[float, ...] = (0.004, 0.004, 0.004, 0.04)
    max_lead: tuple[float, ...] = (0.01, 0.01, 0.01, 0.1)

    workspace = ((-0.06, -0.06, -0.04, -0.6), (0.06, 0.06, 0.08, 0.6))

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("peg_insertion_3d.xml", physics, impl, FAST)

    def to_hole(self, pose: jax.Array, hole: jax.Array) -> jax.Array:
        """`pose` as seen from the hole: two ways beside its axis, above its rim, angle. [4]"""
        x, y, z, angle = pose - hole
        return jnp.stack([*_turn(x, y, -hole[3]), z, angle])

    def to_world(self, place: jax.Array, hole: jax.Array) -> jax.Array:
        """The inverse of `to_hole`."""
        x, y, z, angle = place
        return hole + jnp.stack([*_turn(x, y, hole[3]), z, angle])

    def blocks(self, hole: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [4, 3] and quaternions [4, 4] of the blocks, a pinwheel around the hole."""
        half = (WIDTH + self.clearance) / 2
        corners = [(half, -half), (half, half), (-half, half), (-half, -half)]
        places = [self.to_world(jnp.array([x, y, 0.0, 0.0]), hole)[:3] for x, y in corners]
        angles = (hole[3] + jnp.pi / 2 * jnp.arange(4)) / 2
        zero = jnp.zeros(4)
        return jnp.stack(places), jnp.stack([jnp.cos(angles), zero, zero, jnp.sin(angles)], 1)


def uniform(key: jax.Array, bounds: tuple[float, ...]) -> jax.Array:
    """Uniform in +- `bounds`. [P]"""
    return jnp.array(bounds) * jax.random.uniform(key, (len(bounds),), minval=-1.0)


def _turn(x: jax.Array, y: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, y) turned counterclockwise."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return c * x - s * y, s * x + c * y
