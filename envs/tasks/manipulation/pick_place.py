"""Pick a cube up with a parallel gripper and carry it to a goal, on the table or in the air."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator
from envs.tasks.assets import load_asset
from envs.types import Box, State, check_range, first_state

CUBE = 0.02  # m, half the cube's side
OPEN = 0.04  # m, from the middle to each pad
LOW, HIGH = (-0.2, -0.2, 0.012), (0.2, 0.2, 0.3)  # m, where the hand may be sent
FAR_APART = 0.1  # m, the goal is at least this far from the cube's start


@struct.dataclass
class PickData:
    physics: Physics
    target: jax.Array  # [4] where the hand is sent (m) and how far each pad from the middle


@struct.dataclass
class PickPlace:
    """obs [20]: hand xyz, opening; what is missing to where they were sent (4); cube xyz, first
    two columns of its rotation matrix (6); goal xyz. All in m.
    action [4] in [-1, 1]: moves the position targets of hand xyz by `hand_step` and of the
    opening by `finger_step` per unit, at 20 Hz.

    The hand is the point between the pads; the opening is how far each pad is from it (cube:
    0.02 m, open: 0.04 m), and targets below the cube's width squeeze it. The cube starts at
    random on the table, turned by up to `yaw_range`; the goal is on the table in half of the
    episodes, else up to `goal_height` above it. The reward is `success`: 1 with the cube's
    centre within `goal_radius` of the goal, which ends the episode.

    The cube is free and held by friction alone. For `randomise`: the friction of the grasp
    is the rows of the pads in `geom_friction`, that of cube and table the larger of the rows
    of the table and the cube's corners; the cube's `body_mass` is the last. Damping is
    explicit, so `dof_damping` over `body_mass` must stay below 2.5 times the nominal.

    Attributes:
      goal_radius: m.
      hand_step, finger_step: m per control step.
      start_range: m, cube and goal have |x| and |y| below it; 0.12 .. 0.2.
      yaw_range: rad; above 0.8 the pads meet the cube's edges.
      goal_height: m, of the cube's centre.
      continuing: the episode goes on after success.

    Raises:
      ValueError: `start_range` out of range.
    """

    sim: Simulator
    goal_radius: float = 0.02
    hand_step: float = 0.02
    finger_step: float = 0.01
    start_range: float = 0.15
    yaw_range: float = 0.5
    goal_height: float = 0.2
    continuing: bool = struct.field(pytree_node=False, default=False)
    frame_skip: int = struct.field(pytree_node=False, default=5)

    num_modes = 2  # of `expert`: carry low or high

    def __post_init__(self):
        check_range(self, 0.12, 0.2, "start_range")

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("pick_place.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((20,))

    @property
    def action_space(self) -> Box:
        return Box((4,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_cube, k_yaw, k_goal, k_height, k_air, k_hand = jax.random.split(key, 6)
        cube = self.start_range * jax.random.uniform(k_cube, (2,), minval=-1.0)
        # The first of 16 goals that is far enough: almost surely there is one.
        goals = self.start_range * jax.random.uniform(k_goal, (16, 2), minval=-1.0)
        goal = goals[jnp.argmax(jnp.linalg.norm(goals - cube, axis=-1) > FAR_APART)]
        height = jax.random.uniform(k_height, minval=2 * CUBE, maxval=self.goal_height)
        height = jnp.where(jax.random.bernoulli(k_air), height, CUBE)
        half_yaw = self.yaw_range / 2 * jax.random.uniform(k_yaw, minval=-1.0)
        turn = jnp.stack([jnp.cos(half_yaw), jnp.zeros(()), jnp.zeros(()), jnp.sin(half_yaw)])
        low, high = jnp.array([-0.15, -0.15, 0.1]), jnp.array([0.15, 0.15, 0.2])
        hand = jax.random.uniform(k_hand, (3,), minval=low, maxval=high)
        fingers = jnp.full(2, OPEN)
        qpos = jnp.concatenate([hand, fingers, cube, jnp.array([CUBE]), turn])
        physics = self.sim.physics(qpos, jnp.zeros(11)).replace(
            mocap_pos=jnp.append(goal, height)[None], mocap_quat=jnp.array([[1.0, 0.0, 0.0, 0.0]])
        )
        data = PickData(physics, jnp.append(hand, OPEN))
        obs = _obs(data)
        return first_state(data, obs, self._metrics(obs))

    def step(self, state: State, action: jax.Array) -> State:
        step = jnp.stack([self.hand_step] * 3 + [self.finger_step])
        target = state.data.target + step * jnp.clip(action, -1.0, 1.0)
        target = jnp.clip(target, jnp.array([*LOW, 0.0]), jnp.array([*HIGH, OPEN]))
        ctrl = jnp.append(target, target[3])
        physics, _ = self.sim.simulate(state.data.physics, ctrl, self.frame_skip)
        data = PickData(physics, target)
        obs = _obs(data)
        metrics = self._metrics(obs)
        done = metrics["success"] > 0
        return state.next(
            data=data,
            obs=obs,
            reward=metrics["success"],
            terminated=None if self.continuing else done,
            metrics=metrics,
        )

    def _metrics(self, obs: jax.Array) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(obs[8:11] - obs[17:20])
        success = (distance <= self.goal_radius).astype(jnp.float32)
        return {"success": success, "distance": distance, "height": obs[10]}

    def expert(self, obs: jax.Array, mode: jax.Array) -> jax.Array:
        """The action [4] of a scripted expert that sees one observation [20] only.

        Above the cube, down a funnel, close, carry. `mode` 0 carries the cube 3 cm above the
        table or at the height of the goal, 1 carries it 10 cm higher and comes down on it.
        """
        hand, opening, cube, goal = obs[:3], obs[3], obs[8:11], obs[17:20]
        sent = obs[:4] + obs[4:8]
        offset = cube - hand
        aside, below = jnp.linalg.norm(offset[:2]), jnp.abs(offset[2])
        between = (aside < 0.012) & (below < 0.012)
        held = between & (opening < CUBE + 0.006)
        hover = cube + jnp.array([0.0, 0.0, 1.0]) * jnp.clip(4.0 * (aside - 0.005), 0.0, 0.08)
        way = jnp.linalg.norm((goal - cube)[:2])
        least = jnp.where(mode == 0, CUBE + 0.03, goal[2] + 0.1)
        over = jnp.clip(4.0 * (way - 0.015), 0.0, jnp.maximum(least - goal[2], 0.0))
        carry = goal.at[2].add(over) - offset
        # Up before it goes far: the cube must not be dragged.
        low = jnp.maximum(carry[2] - hand[2], 0.0)
        carry = carry.at[:2].set(hand[:2] + (carry - hand)[:2] * jnp.clip(1.3 - 20 * low, 0.0, 1.0))
        aim = jnp.where(held, carry, hover)
        move = (aim - sent[:3]) / self.hand_step
        move = jnp.clip(move / jnp.maximum(1.0, jnp.abs(move).max()), -1.0, 1.0)
        fingers = jnp.where(between, -1.0, 1.0)
        return jnp.append(move, fingers)


def _obs(data: PickData) -> jax.Array:
    qpos = data.physics.qpos
    now = jnp.append(qpos[:3], qpos[3:5].mean())
    rotation = _matrix(qpos[8:12] / jnp.linalg.norm(qpos[8:12]))
    goal = data.physics.mocap_pos[0]
    return jnp.concatenate(
        [now, data.target - now, qpos[5:8], rotation[:, 0], rotation[:, 1], goal]
    )


def _matrix(quat: jax.Array) -> jax.Array:
    """The rotation matrix [3, 3] of a unit quaternion [4]."""
    w, x, y, z = quat
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
