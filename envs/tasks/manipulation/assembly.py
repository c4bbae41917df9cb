"""Put two parts into two holes: `PegInsertion` twice in an episode, one reward each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.mjx.simulator import Physics, Simulator
from envs.tasks.assets import load_asset
from envs.tasks.manipulation.peg_insertion import FAST, PegInsertion, uniform
from envs.types import Box, State, first_state

APART = 0.07  # m from the middle to either hole, before `hole_range`
AWAY = -10.0  # m along y, behind the camera, where the parts are that are in no hole yet


@struct.dataclass
class AssemblyData:
    """A pose is x, z (m) and pitch (rad) of the tip or of the middle of a hole's mouth."""

    physics: Physics  # qpos [3] is the tip's pose
    target: jax.Array  # [3] where the controller pulls the tip
    holes: jax.Array  # [2, 3] A and B
    seen: jax.Array  # [2, 3] the holes' poses as they are observed
    filled: jax.Array  # [2] 1 where a part is in, else 0


@struct.dataclass
class Assembly(PegInsertion):
    """obs [17]: pose of the tip (x, z in m, pitch in rad), its velocity, the poses of hole A and of
    hole B minus the tip's, the target minus the tip's pose (3 each), which holes are filled (2);
    with `touch` also the contact force on the tip (N, N, N m). action [3] as in `PegInsertion`.

    A tool carries a part at its tip and more of them inside. It pushes one into each of two holes,
    140 mm apart, in any order: reaching `depth` in a hole that is not filled returns 1 and leaves
    the part there, the second one also terminates. The tool may go into a filled hole again, to no
    effect. Contact, control and what to randomise are those of `PegInsertion`. The expert's mode
    is the hole that it fills first.

    Attributes: those of `PegInsertion`; `hole_range` and `hole_noise` hold for each hole.
    """

    hole_range: tuple[float, ...] = (0.01, 0.01, 0.15)
    start_range: tuple[float, ...] = (0.03, 0.01, 0.1)

    num_modes = 2  # of the expert
    workspace = ((-0.1, -0.04, -0.5), (0.1, 0.08, 0.5))  # m, m, rad: where a target may be

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("assembly.xml", physics, impl, FAST)

    @property
    def observation_space(self) -> Box:
        return Box((20 if self.touch else 17,))

    def reset(self, key: jax.Array) -> State:
        k_holes, k_start, k_noise = jax.random.split(key, 3)
        offsets = jax.vmap(lambda k: uniform(k, self.hole_range))(jax.random.split(k_holes))
        holes = jnp.array([[-APART, 0.0, 0.0], [APART, 0.0, 0.0]]) + offsets
        start = uniform(k_start, self.start_range).at[1].add(0.045)
        error = self.hole_noise * jax.random.uniform(k_noise, (2, 3), minval=-1.0)
        data = AssemblyData(
            physics=self.sim.physics(start, jnp.zeros(3)),
            target=start,
            holes=holes,
            seen=holes + error.at[:, 2].set(0.0),
            filled=jnp.zeros(2),
        )
        data = self.with_mocap(data)
        return first_state(data, self._obs(data, jnp.zeros(3)), self._metrics(data))

    def step(self, state: State, action: jax.Array) -> State:
        data, force = self.advance(state.data, action)
        there = jax.vmap(self._inside, (None, 0))(data.physics.qpos, data.holes)
        filled = jnp.maximum(data.filled, there)
        reward = jnp.sum(filled - data.filled)
        data = self.with_mocap(data.replace(filled=filled))
        metrics = self._metrics(data)
        return state.next(
            data=data,
            obs=self._obs(data, force),
            reward=reward,
            terminated=metrics["success"] > 0,
            metrics=metrics,
        )

    def expert(self, obs: jax.Array, mode: jax.Array) -> jax.Array:
        """Out of the hole it is in, over to the next one at 45 mm, and into it. [3]"""
        pose, _, gap_a, gap_b, lead = obs[:15].reshape(5, 3)
        filled_a, filled_b = obs[15:17]
        second = jnp.where(filled_a > 0, True, jnp.where(filled_b > 0, False, mode == 1))
        a, b = pose + gap_a, pose + gap_b
        hole, other = jnp.where(second, b, a), jnp.where(second, a, b)
        beside, height, _ = self.to_hole(pose, other)
        leave = self.along(pose, other, lead, 0.03)
        across = jnp.stack([jnp.where(pose[1] > 0.03, hole[0], pose[0] + lead[0]), 0.045, hole[2]])
        across = jnp.clip((across - pose - lead) / jnp.array(self.max_step), -1.0, 1.0)
        far = jnp.abs(self.to_hole(pose, hole)[0]) > 0.02
        action = jnp.where(far, across, self.insert(pose, hole, lead))
        return jnp.where((jnp.abs(beside) < 0.005) & (height < 0.004), leave, action)

    def with_mocap(self, data: AssemblyData) -> AssemblyData:
        """`data` with the blocks at its holes and parts in those that are filled."""
        places, quats = jax.vmap(self.blocks)(data.holes)  # [2, 2, 3], [2, 2, 4]
        seat = lambda hole: self.to_world(jnp.array([0.0, 0.006 - self.depth, 0.0]), hole)
        seats = jax.vmap(seat)(data.holes)
        parts = jnp.stack([seats[:, 0], AWAY * (1.0 - data.filled), seats[:, 1]], 1)
        physics = data.physics.replace(
            mocap_pos=jnp.concatenate([places.reshape(4, 3), parts]),
            mocap_quat=jnp.concatenate([quats.reshape(4, 4), quats[:, 0]]),
        )
        return data.replace(physics=physics)

    def _inside(self, pose: jax.Array, hole: jax.Array) -> jax.Array:
        return self._reached(self.to_hole(pose, hole)).astype(jnp.float32)

    def _obs(self, data: AssemblyData, force: jax.Array) -> jax.Array:
        pose = data.physics.qpos
        parts = [pose, data.physics.qvel, *(data.seen - pose), data.target - pose, data.filled]
        return jnp.concatenate([*parts, force] if self.touch else parts)

    def _metrics(self, data: AssemblyData) -> dict[str, jax.Array]:
        """`parts` are in; `distance` (m) is that of the tip to where the nearest of the others goes."""
        place = jax.vmap(self.to_hole, (None, 0))(data.physics.qpos, data.holes)
        distance = jnp.where(data.filled > 0, jnp.inf, jax.vmap(self._distance)(place)).min()
        return {
            "success": data.filled.min(),
            "parts": data.filled.sum(),
            "distance": jnp.where(data.filled.min() > 0, 0.0, distance),
        }
