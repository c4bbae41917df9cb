"""Robots with legs that walk at a commanded velocity, on flat ground or on stairs."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs import rewards
from envs.mjx.simulator import Physics, Simulator, mjx
from envs.tasks.assets import load_asset
from envs.tasks.locomotion import terrain
from envs.types import Box, State, check_range, first_state

TERMS = ("velocity", "turn", "upright", "bounce", "torque", "smooth", "pose", "feet_air", "alive")
TERRAINS = ("flat", "stairs")
AROUND = 0.3  # m: how far the critic sees the ground on four sides
STARTS = 0.2  # m: the start is this near to the middle, along x and along y
# Standard deviations at `sensor_noise` = 1: rad/s, 1, rad, rad/s.
GYRO, GRAVITY, POSITION, VELOCITY = 0.1, 0.03, 0.01, 0.5


@struct.dataclass
class WalkData:
    """The state of the task."""

    physics: Physics
    action: jax.Array  # [A] the last one
    command: jax.Array  # [3] velocity along x and y of the trunk (m/s), turn (rad/s)
    clock: jax.Array  # [] int32: control steps until the next command
    air_time: jax.Array  # [F] s
    direction: jax.Array  # [] 1: stairs lead up, -1: down
    tracked: jax.Array  # [] the sum of `tracking` over the episode
    steps: jax.Array  # [] int32, of the episode
    key: jax.Array


@struct.dataclass
class Contact:
    """What a control step derives from the last physics step."""

    points: jax.Array  # [P, 3] m, the centres of the spheres that may touch the ground
    torque: jax.Array  # [A] N m, of the servos


@struct.dataclass
class LeggedVelocity:
    """Walk at a commanded velocity. A robot is a subclass with a model.

    obs: "obs" is what a robot senses, with noise: angular velocity of the trunk (rad/s) [3], the
    direction of gravity in its frame [3], the command [3], joint angles from the standing pose (rad)
    [A], joint velocities (rad/s) [A], the last action [A]. "privileged" is for a critic, without noise:
    the same angular velocity, gravity, joint angles and velocities; velocity of the trunk in its frame
    (m/s) [3], its height above the ground (m) [1], the contact of each foot (0 or 1; 0 at a reset) and
    its air time (s) [2 F], the friction of each contact sphere [P], the mass of the trunk (kg) [1], the
    mean stiffness of the servos (N m/rad) [1], and the ground in front, behind, left and right, from
    that under the trunk (m) [4].

    action [A] in [-1, 1]: targets of the servos, `action_scale` rad per unit from the standing pose.

    The terms of the reward are metrics `reward_NAME`, and a weight is per second. The metric `tracking`
    is the share of the two tracking terms that a step obtains, 0 .. 1, and `tracking_share` its mean
    over the episode so far. The episode terminates when the trunk falls.

    Attributes:
      terrain: "flat", or "stairs" (`envs.tasks.locomotion.terrain`).
      level: of the stairs; a stair is `level * rise_per_level` m high, and leads up in half of the
        episodes.
      sensor_noise: scales the noise of the sensors; 0: none.
      command_x, command_y, command_turn: ranges of commands, in m/s, m/s and rad/s.
      command_still: the probability that a command is to stand still.
      command_period: control steps from one command to the next. The first one of an episode ends
        after 1 to `command_period` steps.
      tracking_scale: the error at which a tracking term is 1/e, in m/s and rad/s.
      air_target: how long a foot swings, in s.
    """

    sim: Simulator
    level: float = 0.0
    rise_per_level: float = 0.01  # m
    action_scale: float = 0.5  # rad
    sensor_noise: float = 1.0
    reset_noise: float = 0.1  # rad and rad/s
    command_x: tuple[float, float] = (-0.5, 1.0)
    command_y: tuple[float, float] = (-0.3, 0.3)
    command_turn: tuple[float, float] = (-0.8, 0.8)
    command_still: float = 0.1
    tracking_scale: float = 0.5
    air_target: float = 0.2
    velocity_weight: float = 1.5
    turn_weight: float = 0.75
    upright_weight: float = -1.0
    bounce_weight: float = -1.0
    torque_weight: float = -2e-4
    smooth_weight: float = -0.02
    pose_weight: float = -0.1
    feet_air_weight: float = 1.0
    alive_weight: float = 0.25
    max_tilt: float = 1.0  # rad
    min_height: float = 0.15  # m
    command_period: int = struct.field(pytree_node=False, default=200)
    frame_skip: int = struct.field(pytree_node=False, default=5)
    terrain: str = struct.field(pytree_node=False, default="flat")

    XML: ClassVar[str]
    FEET: ClassVar[tuple[tuple[str, ...], ...]]  # names of spheres, of each foot as many

    def __post_init__(self):
        if self.terrain not in TERRAINS:
            raise ValueError(f"terrain={self.terrain!r}: allowed are 'flat' and 'stairs'")
        check_range(self, 0.0, 100.0, "level")
        check_range(self, 0.0, 1.0, "rise_per_level", "command_still")
        check_range(self, 0.0, 10.0, "sensor_noise", "reset_noise")
        check_range(self, 0.0, 10.0, "tracking_scale", "action_scale", above=True)

    @classmethod
    def simulator(cls, physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset(cls.XML, physics, impl)

    @property
    def observation_space(self) -> dict[str, Box]:
        joints, feet, points = self.sim.mj_model.nu, len(self.FEET), len(self._points)
        return {
            "obs": Box((9 + 3 * joints,)),
            "privileged": Box((6 + 2 * joints + 4 + 2 * feet + points + 6,)),
        }

    @property
    def action_space(self) -> Box:
        return Box((self.sim.mj_model.nu,), -1.0, 1.0)

    @property
    def dt(self) -> jax.Array:
        """Seconds of a control step."""
        return self.frame_skip * self.sim.model.opt.timestep

    @property
    def standing(self) -> np.ndarray:
        """The angles of the joints in the standing pose, in rad. [A]"""
        return self.sim.mj_model.key_qpos[0, 7:].astype(np.float32)

    @property
    def _points(self) -> np.ndarray:
        """The geoms that touch the ground, foot by foot. [P]"""
        return np.array([self.sim.mj_model.geom(name).id for foot in self.FEET for name in foot])

    def reset(self, key: jax.Array) -> State:
        k_place, k_yaw, k_pose, k_vel, k_command, k_clock, k_stairs, key = jax.random.split(key, 8)
        model = self.sim.mj_model
        place = STARTS * jax.random.uniform(k_place, (2,), minval=-1.0)
        half = jax.random.uniform(k_yaw, (), maxval=jnp.pi)
        turn = jnp.stack([jnp.cos(half), 0.0 * half, 0.0 * half, jnp.sin(half)])
        pose = self.reset_noise * jax.random.uniform(k_pose, (model.nu,), minval=-1.0)
        height = jnp.asarray(model.key_qpos[0, 2:3], jnp.float32)
        qpos = jnp.concatenate([place, height, turn, self.standing + pose])
        qvel = self.reset_noise * jax.random.uniform(k_vel, (model.nv,), minval=-1.0)
        data = WalkData(
            physics=self.sim.physics(qpos, qvel),
            action=jnp.zeros(model.nu),
            command=self.draw_command(k_command),
            clock=jax.random.randint(k_clock, (), 1, self.command_period + 1, jnp.int32),
            air_time=jnp.zeros(len(self.FEET)),
            direction=jax.random.rademacher(k_stairs, (), jnp.float32),
            tracked=jnp.zeros(()),
            steps=jnp.zeros((), jnp.int32),
            key=key,
        )
        zero = jnp.zeros(())
        metrics = {f"reward_{name}": zero for name in TERMS}
        metrics |= {"tracking": zero, "tracking_share": zero}
        obs = self._obs(data, jnp.zeros(len(self.FEET), bool), jax.random.fold_in(key, 0))
        return first_state(data, obs, metrics)

    def step(self, state: State, action: jax.Array) -> State:
        before = state.data
        action = jnp.clip(action, -1.0, 1.0)
        key, k_command, k_noise = jax.random.split(before.key, 3)
        physics, contact = self._simulate(before, action)
        touching = self._touching(contact.points, before.direction)
        upright, height = self._posture(physics, before.direction)
        fallen = (upright < jnp.cos(self.max_tilt)) | (height < self.min_height)
        terms, tracking = self._reward(before, action, physics, contact.torque, touching, fallen)
        # The old command is rewarded, the new one is observed.
        due = before.clock <= 1
        data = before.replace(
            physics=physics,
            action=action,
            command=jnp.where(due, self.draw_command(k_command), before.command),
            clock=jnp.where(due, self.command_period, before.clock - 1),
            air_time=rewards.airborne(before.air_time, touching, self.dt),
            tracked=before.tracked + tracking,
            steps=before.steps + 1,
            key=key,
        )
        metrics = {f"reward_{name}": x for name, x in terms.items()}
        metrics |= {"tracking": tracking, "tracking_share": data.tracked / data.steps}
        return state.next(
            data=data,
            obs=self._obs(data, touching, k_noise),
            reward=sum(terms.values()),
            terminated=fallen,
            metrics=metrics,
        )

    def draw_command(self, key: jax.Array) -> jax.Array:
        """A command [3]: uniform in its ranges, or 0 with the probability `command_still`."""
        k_still, k_command = jax.random.split(key)
        low, high = jnp.array([self.command_x, self.command_y, self.command_turn], jnp.float32).T
        command = jax.random.uniform(k_command, (3,), minval=low, maxval=high)
        return jnp.where(jax.random.bernoulli(k_still, self.command_still), 0.0, command)

    def ground(self, xy: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Height [...] and slope [..., 2] of the ground at points `xy` [..., 2]."""
        if self.terrain == "flat":
            return jnp.zeros(xy.shape[:-1]), jnp.zeros(xy.shape)
        return terrain.stairs(xy, direction * self.level * self.rise_per_level)

    def _simulate(self, before: WalkData, action: jax.Array) -> tuple[Physics, Contact]:
        points = self._points

        def derive(data: mjx.Data) -> Contact:
            return Contact(data.geom_xpos[points], data.actuator_force)

        target = self.standing + self.action_scale * action
        if self.terrain == "flat":
            return self.sim.simulate(before.physics, target, self.frame_skip, derive)

        def substep(_, carry):
            physics, contact = self.sim.simulate(carry[0], target, 1, derive)
            # Where the spheres were a physics step ago: a few millimetres from where they are.
            height, slope = self.ground(contact.points[:, :2], before.direction)
            place = jnp.concatenate([contact.points[:, :2], height[:, None]], -1)
            tilt = terrain.turned_to(terrain.normal(slope))
            return physics.replace(mocap_pos=place, mocap_quat=tilt), contact

        empty = Contact(jnp.zeros((len(points), 3)), jnp.zeros_like(action))
        return jax.lax.fori_loop(0, self.frame_skip, substep, (before.physics, empty))

    def _touching(self, points: jax.Array, direction: jax.Array) -> jax.Array:
        """Whether a sphere of each foot is in the ground. [F] bool"""
        height, slope = self.ground(points[:, :2], direction)
        gap = (points[:, 2] - height) * terrain.normal(slope)[:, 2]
        radius = self.sim.mj_model.geom_size[self._points, 0]
        return (gap < radius).reshape(len(self.FEET), -1).any(-1)

    def _posture(self, physics: Physics, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The cosine of the trunk's tilt, and its height above the ground in m; both []."""
        up = rewards.to_body(physics.qpos[3:7], jnp.array([0.0, 0.0, 1.0]))
        return up[2], physics.qpos[2] - self.ground(physics.qpos[:2], direction)[0]

    def _reward(
        self,
        before: WalkData,
        action: jax.Array,
        physics: Physics,
        torque: jax.Array,
        touching: jax.Array,
        fallen: jax.Array,
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """The weighted terms and the share of the tracking terms, all []."""
        quat, velocity = physics.qpos[3:7], physics.qvel[:3]
        moving = rewards.to_body(quat, velocity)[:2]
        scale, command = self.tracking_scale, before.command
        linear = rewards.velocity_tracking(moving, command[:2], scale)
        turning = rewards.velocity_tracking(physics.qvel[5:6], command[2:], scale)
        asked = jnp.abs(command).max() > 0.05
        air = rewards.feet_air_time(before.air_time, touching, self.air_target)
        terms = {
            "velocity": self.velocity_weight * linear,
            "turn": self.turn_weight * turning,
            "upright": self.upright_weight * rewards.orientation(quat),
            "bounce": self.bounce_weight * jnp.square(velocity[2]),
            "torque": self.torque_weight * rewards.torque(torque),
            "smooth": self.smooth_weight * rewards.action_smoothness(action, before.action),
            "pose": self.pose_weight * jnp.square(physics.qpos[7:] - self.standing).sum(),
            "feet_air": self.feet_air_weight * air * asked,
            "alive": self.alive_weight * rewards.alive(fallen),
        }
        whole = self.velocity_weight + self.turn_weight
        tracking = (terms["velocity"] + terms["turn"]) / whole
        return {name: self.dt * x for name, x in terms.items()}, tracking

    def _obs(self, data: WalkData, touching: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        physics, model = data.physics, self.sim.model
        quat, place = physics.qpos[3:7], physics.qpos[:2]
        gravity = rewards.to_body(quat, jnp.array([0.0, 0.0, -1.0]))
        sensed = [physics.qvel[3:6], gravity, physics.qpos[7:] - self.standing, physics.qvel[6:]]
        sizes = (GYRO, GRAVITY, POSITION, VELOCITY)
        std = jnp.concatenate([jnp.full(x.shape, s) for x, s in zip(sensed, sizes, strict=True)])
        clean = jnp.concatenate(sensed)
        noisy = clean + self.sensor_noise * std * jax.random.normal(key, clean.shape)
        obs = jnp.concatenate([noisy[:6], data.command, noisy[6:], data.action])
        sides = place + AROUND * jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        here = self.ground(place, data.direction)[0]
        trunk = self.sim.mj_model.body("trunk").id
        privileged = [
            clean,
            rewards.to_body(quat, physics.qvel[:3]),
            (physics.qpos[2] - here)[None],
            touching.astype(jnp.float32),
            data.air_time,
            model.geom_friction[self._points, 0],
            model.body_mass[trunk][None],
            model.actuator_gainprm[:, 0].mean()[None],
            self.ground(sides, data.direction)[0] - here,
        ]
        return {"obs": obs, "privileged": jnp.concatenate(privileged)}


@struct.dataclass
class QuadrupedVelocity(LeggedVelocity):
    """A robot dog of 10 kg with twelve hinges, whose legs are 0.4 m long. See `LeggedVelocity`."""

    XML: ClassVar[str] = "quadruped_velocity.xml"
    FEET: ClassVar = (("FL_foot",), ("FR_foot",), ("RL_foot",), ("RR_foot",))


@struct.dataclass
class BipedVelocity(LeggedVelocity):
    """A biped of 9 kg with ten hinges, whose legs are 0.47 m long. See `LeggedVelocity`."""

    command_x: tuple[float, float] = (-0.3, 0.6)
    command_y: tuple[float, float] = (-0.2, 0.2)
    command_turn: tuple[float, float] = (-0.6, 0.6)
    air_target: float = 0.3
    min_height: float = 0.3  # m

    XML: ClassVar[str] = "biped_velocity.xml"
    FEET: ClassVar = (("L_toe", "L_heel"), ("R_toe", "R_heel"))
