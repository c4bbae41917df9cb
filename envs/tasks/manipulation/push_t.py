"""Push a T-shaped block onto its target: planar, contact-rich, more than one way to do it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.mjx.simulator import Physics, Simulator
from envs.tasks.assets import load_asset
from envs.types import Box, State, check_range, first_state

# The T in its own frame, whose origin is its centre of mass: x0, x1, y0, y1 of bar and stem, m.
WIDTH = 0.05
BAR_BOTTOM = 5 / 14 * WIDTH
RECTANGLES = np.array(
    [
        [-2.0 * WIDTH, 2.0 * WIDTH, BAR_BOTTOM, BAR_BOTTOM + WIDTH],
        [-0.5 * WIDTH, 0.5 * WIDTH, BAR_BOTTOM - 3.0 * WIDTH, BAR_BOTTOM],
    ]
)
AREA = 7 * WIDTH**2  # m^2
LEVER = 0.0665  # m, the mean distance of the T's points from its centre of mass
PUSHER_RADIUS = 0.02  # m
HALF_TABLE = 0.5  # m
FAR_APART = 0.16  # m, where pusher and T cannot touch, whatever their angle


@struct.dataclass
class PushT:
    """obs [16]: pusher xy (m), block xy, cos and sin of its angle, target xy, cos and sin (10);
    pusher xy as the block sees it, and the block as the target sees it: xy, cos and sin (6).
    action [2]: velocity of the pusher in [-1, 1], `max_speed` per unit.

    A round pusher moves a T on a table (1 m wide) to a target pose, after Push-T of
    Florence et al. 2021 and Chi et al. 2023, at 10 Hz. `coverage` is the area that the T
    shares with the target over the T's area, exact up to rounding (`coverage` below).
    `success` is 1 from `success_coverage` on and ends the episode.

    Physics are MJX, not a quasi-static formula: contacts may slip, break and touch both
    sides of a corner, and masses and frictions are leaves of the model. What makes it
    cheap: five degrees of freedom, two sphere-box contacts, no contact with the table.
    For `randomise`: the friction between pusher and T is the pusher's row of `geom_friction`,
    the T's friction on the table the last three entries of `dof_damping`; and `body_mass`.

    Attributes:
      target: x, y (m) and angle (rad) of the target pose.
      success_coverage: in (0, 1].
      max_speed: m/s of the pusher, along either axis.
      start_range: m, the T starts with |x| and |y| below it; at any angle.
      reward: "coverage", or "sparse" (1 at success, else 0). Success ends an episode, so
        that the sum of coverages is not what to maximise unless `continuing`.
      continuing: the episode goes on after success.

    Raises:
      ValueError: unknown `reward`, or `success_coverage` out of range.
    """

    sim: Simulator
    target: tuple[float, float, float] = (0.0, 0.0, np.pi / 4)
    success_coverage: float = 0.95
    max_speed: float = 0.5
    start_range: float = 0.25
    reward: str = struct.field(pytree_node=False, default="coverage")
    continuing: bool = struct.field(pytree_node=False, default=False)
    frame_skip: int = struct.field(pytree_node=False, default=8)

    num_modes = 2  # of `expert`: round the block anticlockwise or clockwise

    def __post_init__(self):
        if self.reward not in ("coverage", "sparse"):
            raise ValueError(f"reward={self.reward!r}: allowed are 'coverage' and 'sparse'")
        check_range(self, 0.0, 1.0, "success_coverage", above=True)

    @staticmethod
    def simulator(physics: str = "accurate", impl: str = "jax") -> Simulator:
        return load_asset("push_t.xml", physics, impl)

    @property
    def observation_space(self) -> Box:
        return Box((16,))

    @property
    def action_space(self) -> Box:
        return Box((2,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        k_block, k_angle, k_pusher = jax.random.split(key, 3)
        block = self.start_range * jax.random.uniform(k_block, (2,), minval=-1.0)
        angle = jax.random.uniform(k_angle, minval=-jnp.pi, maxval=jnp.pi)
        # The first of 16 places that is clear of the T: all of them are not once in 10^8.
        places = 0.9 * HALF_TABLE * jax.random.uniform(k_pusher, (16, 2), minval=-1.0)
        clear = jnp.linalg.norm(places - block, axis=-1) > FAR_APART
        qpos = jnp.concatenate([places[jnp.argmax(clear)], block, angle[None]])
        x, y, turn = (jnp.asarray(v, jnp.float32) for v in self.target)
        data = self.sim.physics(qpos, jnp.zeros(5)).replace(
            mocap_pos=jnp.stack([x, y, jnp.zeros(())])[None],
            mocap_quat=jnp.stack([jnp.cos(turn / 2), *jnp.zeros(2), jnp.sin(turn / 2)])[None],
        )
        obs = _obs(data)
        return first_state(data, obs, self._metrics(obs))

    def step(self, state: State, action: jax.Array) -> State:
        place = state.data.qpos[:2]
        reach = (HALF_TABLE - PUSHER_RADIUS) / self._step_length  # the pusher stays on the table
        move = jnp.clip(action, -1.0, 1.0)
        move = jnp.clip(move, -reach - place / self._step_length, reach - place / self._step_length)
        data, _ = self.sim.simulate(state.data, self.max_speed * move, self.frame_skip)
        obs = _obs(data)
        metrics = self._metrics(obs)
        done = metrics["success"] > 0
        return state.next(
            data=data,
            obs=obs,
            reward=metrics["coverage" if self.reward == "coverage" else "success"],
            terminated=None if self.continuing else done,
            metrics=metrics,
        )

    @property
    def _step_length(self) -> jax.Array:
        """What the pusher moves in a control step at full speed, m."""
        return self.max_speed * self.frame_skip * self.sim.model.opt.timestep

    def _metrics(self, obs: jax.Array) -> dict[str, jax.Array]:
        turn = obs[14:16]
        covered = coverage(obs[12:14], turn)
        success = (covered >= self.success_coverage).astype(jnp.float32)
        distance = jnp.linalg.norm(obs[2:4] - obs[6:8])
        angle = jnp.abs(jnp.arctan2(turn[1], turn[0]))
        return {"success": success, "coverage": covered, "distance": distance, "angle": angle}

    def expert(self, obs: jax.Array, mode: jax.Array) -> jax.Array:
        """The action [2] of a scripted expert that sees one observation [16] only.

        It weighs every place of the T's outline and three directions to push there: how far
        to travel, round the T anticlockwise (`mode` 0) or clockwise (1); how long to push;
        and how much of the error that push leaves. The last is weighed by its logarithm, as
        every further push leaves about the same fraction of it. The law of motion is that
        of an ellipsoidal limit surface. On its way and while pushing a plan stays the best,
        since its costs fall as it is carried out, so nothing needs to be remembered.
        """
        to_block = lambda v: _rotate(obs[4:6], v, inverse=True)
        pusher = obs[10:12]  # in the frame of the T, like all below
        goal = to_block(obs[6:8] - obs[2:4])
        turn = obs[14:16]
        error = jnp.concatenate([goal, -LEVER * jnp.arctan2(turn[1], turn[0])[None]])

        # WHAT A PUSH DOES: forces [K, 3, 2], twists of the T [K, 3, 3]
        ring = RING
        side = np.stack([-ring.normal[:, 1], ring.normal[:, 0]], axis=1)
        force = -ring.normal[:, None] + PUSH_SLOPES[:, None] * side[:, None]
        torque = _cross(ring.contact[:, None], force) / LEVER
        twist = np.concatenate([force, torque[..., None]], axis=-1)
        spin = torque[..., None] / LEVER
        velocity = force + spin * _perpendicular(ring.contact)[:, None]  # of the contact
        amount = jnp.maximum(twist @ error, 0.0) / (twist**2).sum(-1)
        left = jnp.linalg.norm(error - amount[..., None] * twist, axis=-1)
        length = amount * np.linalg.norm(velocity, axis=-1)  # [K, 3] m

        # WHERE TO PUSH
        count = len(ring.normal)
        at = jnp.argmin(jnp.sum((ring.place - pusher) ** 2, axis=-1))
        sign = jnp.where(mode == 0, 1, -1)
        ahead = (sign * (jnp.arange(count) - at)) % count
        steps = jnp.where(ahead > count - SHORT_CUT, ahead - count, ahead)  # [K] signed
        travel = RING_SPACING * jnp.abs(steps)
        world = obs[2:4] + _rotate(obs[4:6], ring.place)
        barred = ~ring.flat | (jnp.abs(world) > HALF_TABLE - PUSHER_RADIUS).any(-1)
        cost = travel[:, None] + length + ERROR_WEIGHT * jnp.log1p(left / ERROR_SCALE)
        useless = left > LEAST_GAIN * jnp.linalg.norm(
            error
        )  # else it would stay where a push ended
        cost = jnp.where(barred[:, None] | useless, cost + 100.0, cost)
        best = jnp.argmin(cost)
        k, direction = best // 3, best % 3

        # GO THERE OR PUSH
        normal, contact = jnp.asarray(ring.normal)[k], jnp.asarray(ring.contact)[k]
        stride = jnp.where(_gap(pusher) < CLEARANCE / 2, 0, jnp.clip(steps[k], -STRIDE, STRIDE))
        go = jnp.asarray(ring.place)[(at + sign * stride) % count] - pusher
        along = jnp.asarray(velocity)[k, direction]
        along = along / jnp.linalg.norm(along)
        gap = jnp.dot(pusher - contact, normal) - PUSHER_RADIUS
        aside = (contact - pusher) - jnp.dot(contact - pusher, normal) * normal
        push = jnp.minimum(PUSH_GAIN * length[k, direction], MAX_PUSH) * along
        push = push - jnp.maximum(gap, 0.0) * normal + SIDE_GAIN * aside
        move = jnp.where(jnp.abs(steps[k]) <= 1, push, go)
        move = _rotate(obs[4:6], move) / self._step_length
        return jnp.clip(move / jnp.maximum(1.0, jnp.abs(move).max()), -1.0, 1.0)


def _obs(data: Physics) -> jax.Array:
    angle = data.qpos[4]
    w, z = data.mocap_quat[0, 0], data.mocap_quat[0, 3]
    turn = jnp.stack([w * w - z * z, 2.0 * w * z])  # cos and sin of twice its angle
    heading = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    pusher, block, target = data.qpos[:2], data.qpos[2:4], data.mocap_pos[0, :2]
    seen_by_block = _rotate(heading, pusher - block, inverse=True)
    offset = _rotate(turn, block - target, inverse=True)
    angle_between = _rotate(turn, heading, inverse=True)
    return jnp.concatenate(
        [pusher, block, heading, target, turn, seen_by_block, offset, angle_between]
    )


def coverage(offset: jax.Array, turn: jax.Array) -> jax.Array:
    """The area that a T at `offset` [2], turned by cos and sin `turn` [2], shares with one at
    the origin, over its own. [] in [0, 1]

    Exact up to rounding (1e-6): by Green's theorem the area that a polygon P shares with the
    rectangle [x0, x1] x [y0, y1] is the integral over P's outline, where y0 < y < y1, of
    clip(x, x0, x1) dy. Along an edge that is piecewise linear, so trapezoids give it.
    """
    x0, x1, y0, y1 = RECTANGLES.T
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(2, 4, 2)
    a = offset + _rotate(turn, jnp.asarray(corners))  # [2, 4, 2] anticlockwise
    b = jnp.roll(a, -1, axis=1)
    a, b = a[:, :, None], b[:, :, None]  # [2, 4, 1, 2] against [2] rectangles
    delta = b - a

    def crossing(i, value):
        """Where an edge's coordinate i passes `value`, as a fraction of the edge."""
        safe = jnp.where(delta[..., i] == 0.0, 1.0, delta[..., i])
        passed = jnp.where(a[..., i] < value, jnp.inf, -jnp.inf)
        at = jnp.where(delta[..., i] == 0.0, passed, (value - a[..., i]) / safe)
        return jnp.clip(at, 0.0, 1.0)

    enter, leave = crossing(1, y0), crossing(1, y1)
    low, high = jnp.minimum(enter, leave), jnp.maximum(enter, leave)
    bends = [jnp.clip(crossing(0, x), low, high) for x in (x0, x1)]
    knots = jnp.stack([low, jnp.minimum(*bends), jnp.maximum(*bends), high])
    width = jnp.clip(a[..., 0] + knots * delta[..., 0], x0, x1) - x0
    area = jnp.sum((width[1:] + width[:-1]) / 2 * jnp.diff(knots, axis=0) * delta[..., 1])
    return jnp.clip(area / AREA, 0.0, 1.0)


def _rotate(turn: jax.Array, v: jax.Array, inverse: bool = False) -> jax.Array:
    """`v` [..., 2] turned by cos and sin `turn` [2], or back."""
    c, s = turn[0], -turn[1] if inverse else turn[1]
    return jnp.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], axis=-1)


def _gap(pusher: jax.Array) -> jax.Array:
    """From the pusher's rim to the T, m; the pusher's centre [2] is in the T's frame."""
    low, high = RECTANGLES[:, ::2], RECTANGLES[:, 1::2]
    outside = jnp.maximum(jnp.maximum(low - pusher, pusher - high), 0.0)
    return jnp.linalg.norm(outside, axis=-1).min() - PUSHER_RADIUS


# ---------------------------------------------------------------- what the expert knows

CLEARANCE = 0.015  # m, between the pusher's rim and the T on the way round
RING_SPACING = 0.01  # m, about
SHORT_CUT = 20  # places of the ring that are reached the short way, whatever the mode
STRIDE = 4  # places
PUSH_SLOPES = np.array([0.0, 0.3, -0.3])  # tangential over normal force; friction allows 0.5
ERROR_WEIGHT, ERROR_SCALE = 0.5, 0.001  # m
LEAST_GAIN = 0.85
PUSH_GAIN, MAX_PUSH, SIDE_GAIN = 0.5, 0.03, 0.3  # a fraction, m per step, a fraction


@struct.dataclass
class Ring:
    """Places all round the T, anticlockwise, where the pusher's centre keeps CLEARANCE."""

    place: np.ndarray  # [K, 2] m
    normal: np.ndarray  # [K, 2] outward
    contact: np.ndarray  # [K, 2] the nearest point of the T
    flat: np.ndarray  # [K] bool: away from corners, where a push is well defined


def _ring(distance: float, spacing: float, margin: float = 0.006) -> Ring:
    (x0, x1, y0, y1), (s0, s1, t0, _) = RECTANGLES
    outline = [(x1, y0), (x1, y1), (x0, y1), (x0, y0), (s0, y0), (s0, t0), (s1, t0), (s1, y0)]
    corners = np.array(outline)
    rows = []
    for i, corner in enumerate(corners):
        edge = np.roll(corners, -1, axis=0)[i] - corner
        long = np.linalg.norm(edge)
        normal = np.array([edge[1], -edge[0]]) / long
        for x in np.arange(0.0, long, 1e-4):  # the side that starts here
            rows.append([*(corner + edge * x / long), *normal, margin < x < long - margin])
        first = np.arctan2(normal[1], normal[0])
        for turn in np.linspace(0.0, np.pi / 2, 600):  # and the arc round its end
            away = np.array([np.cos(first + turn), np.sin(first + turn)])
            rows.append([*(corner + edge), *away, False])
    contact, normal, flat = np.split(np.array(rows), [2, 4], axis=1)
    place = contact + distance * normal
    outside = np.maximum(
        RECTANGLES[:, ::2] - place[:, None], place[:, None] - RECTANGLES[:, 1::2]
    ).clip(0.0)
    seen = np.linalg.norm(outside, axis=-1).min(axis=1) > distance - 1e-6  # not in a hollow
    place, normal, contact, flat = (x[seen] for x in (place, normal, contact, flat))
    step = np.linalg.norm(np.roll(place, -1, axis=0) - place, axis=1)
    run = np.cumsum(step) - step
    count = round(step.sum() / spacing)
    pick = np.searchsorted(run, np.arange(count) * step.sum() / count)
    return Ring(place[pick], normal[pick], contact[pick], flat[pick, 0] > 0)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _perpendicular(v: np.ndarray) -> np.ndarray:
    return np.stack([-v[..., 1], v[..., 0]], axis=-1)


RING = _ring(PUSHER_RADIUS + CLEARANCE, RING_SPACING)
