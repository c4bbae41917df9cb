"""Push-T: the coverage is the area shared, the physics push, the expert does it both ways round."""

import functools
import types

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from envs.render import renderer
from envs.tasks.manipulation import push_t
from envs.tasks.manipulation.push_t import RECTANGLES, coverage
from envs.transforms.randomise import randomise, scale_physics
from envs.vector import all_finite

KEY = jax.random.key(0)
N, STEPS = 64, 200


@functools.cache
def make():
    return envs.make("push_t")


@functools.cache
def family():
    """N copies of the task, whose every leaf has an axis, so that all tests share one program."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * N), make())


@jax.jit
def step(family, states, actions):
    return jax.vmap(lambda env, state, action: env.step(state, action))(family, states, actions)


def drive(states, actions, family_=None):
    """The states [T, N] under `actions` [T, 2] that all environments take."""
    after = []
    for action in np.asarray(actions, np.float32):
        states = step(family_ or family(), states, jnp.tile(action, (N, 1)))
        after.append(states)
    return jax.tree.map(lambda *x: np.stack(x), *map(jax.device_get, after))


@functools.cache
def starts():
    return jax.jit(jax.vmap(make().reset))(jax.random.split(KEY, N))


def placed(*qpos):
    """States [N] at rest with the given rows of pusher xy, block xy and angle, over and over."""
    rows = jnp.asarray(np.resize(np.array(qpos, np.float32), (N, 5)))
    return starts().replace(data=starts().data.replace(qpos=rows))


@functools.cache
def expert_episodes():
    """Observations before each step, actions, what came of them [T, N]; odd ones are mode 1."""
    env, states = make(), starts()
    expert = jax.jit(jax.vmap(env.expert))
    modes = jnp.arange(N) % env.num_modes
    rows = []
    for _ in range(STEPS):
        obs, action = states.obs, expert(states.obs, modes)
        states = step(family(), states, action)
        finite = jax.vmap(all_finite)(states.data)
        rows.append(jax.device_get((obs, action, states.metrics, states.terminated, finite)))
    return jax.tree.map(lambda *x: np.stack(x), *rows)


class Still:
    """Stands in for a simulator: nothing moves."""

    model = types.SimpleNamespace(opt=types.SimpleNamespace(timestep=0.0125))

    def simulate(self, physics, ctrl, num_substeps):
        return physics, ()


def corners(offset, angle):
    """The two rectangles of a T as polygons [2, 4, 2], anticlockwise."""
    x0, x1, y0, y1 = RECTANGLES.T
    boxes = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(2, 4, 2)
    c, s = np.cos(angle), np.sin(angle)
    return boxes @ np.array([[c, -s], [s, c]]).T + offset


def clipped_area(polygon, clip):
    """Sutherland-Hodgman, in float64: what two convex polygons share."""
    points = list(polygon)
    for a, b in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        side = [(b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) for p in points]
        kept = []
        for i, p in enumerate(points):
            q, d, e = points[i - 1], side[i], side[i - 1]
            if d * e < 0:
                kept.append(q + (p - q) * e / (e - d))
            if d >= 0:
                kept.append(p)
        points = kept
    if not points:
        return 0.0
    x, y = np.array(points).T
    return 0.5 * np.sum(np.roll(x, 1) * y - x * np.roll(y, 1))


def test_coverage_is_the_area_shared():
    rng = np.random.default_rng(0)
    offset = rng.uniform(-0.15, 0.15, (400, 2))
    offset[:200] *= 0.05
    angle = rng.uniform(-np.pi, np.pi, 400)
    angle[:200] *= 0.05
    angle[300:340] = np.repeat([0.0, np.pi / 2, np.pi, -np.pi / 2], 10)
    turn = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    got = jax.vmap(coverage)(jnp.asarray(offset, jnp.float32), jnp.asarray(turn, jnp.float32))
    target = corners(np.zeros(2), 0.0)
    for i in range(400):
        shared = sum(clipped_area(p, q) for p in corners(offset[i], angle[i]) for q in target)
        np.testing.assert_allclose(got[i], shared / push_t.AREA, atol=2e-6)
    assert 0.1 < float(jnp.mean(got > 0.9)) and float(jnp.min(got)) < 0.1


def over_target(**options):
    """The step of a block that lies on the target, and of one 1 cm beside it."""
    env = envs.make("push_t", time_limit=None, **options).replace(sim=Still())
    x, y, angle = env.target
    starts = placed([0.4, 0.4, x, y, angle], [0.4, 0.4, x + 0.01, y, angle])
    starts = [jax.tree.map(lambda v, i=i: v[i], starts) for i in range(2)]
    return [env.step(start, jnp.zeros(2)) for start in starts]


def test_at_the_target_coverage_is_one_and_the_episode_ends():
    over, beside = over_target()
    np.testing.assert_allclose(over.metrics["coverage"], 1.0, atol=1e-5)
    assert 0.8 < beside.metrics["coverage"] < 0.95
    assert (over.metrics["success"], beside.metrics["success"]) == (1.0, 0.0)
    assert over.terminated and not beside.terminated
    for state in (over, beside):
        np.testing.assert_array_equal(state.reward, state.metrics["coverage"])
    np.testing.assert_allclose(beside.metrics["distance"], 0.01, atol=1e-6)
    np.testing.assert_allclose(beside.metrics["angle"], 0.0, atol=1e-6)


def test_sparse_reward_and_continuing():
    over, beside = over_target(reward="sparse", continuing=True)
    assert (over.reward, beside.reward) == (1.0, 0.0)
    assert not over.terminated and not beside.terminated
    with pytest.raises(ValueError, match="reward='dense': allowed are 'coverage' and 'sparse'"):
        envs.make("push_t", reward="dense")


def observed(pusher, block, heading, target, turn):
    """The observation [16] of poses given as complex numbers."""
    relative = [(pusher - block) / heading, (block - target) / turn, heading / turn]
    poses = [pusher, block, heading, target, turn, *relative]
    return np.array([v for z in poses for v in (z.real, z.imag)])


def test_poses_are_also_seen_from_the_block_and_from_the_target():
    states = jax.jit(jax.vmap(make().reset))(jax.random.split(KEY, 20))
    for row in np.asarray(states.obs, np.float64):
        poses = [complex(*row[i : i + 2]) for i in range(0, 10, 2)]
        np.testing.assert_allclose(row, observed(*poses), atol=1e-6)


def test_starts_are_random_and_apart():
    env = make()
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 500))
    pusher, block = np.asarray(states.obs[:, :2]), np.asarray(states.obs[:, 2:4])
    assert np.linalg.norm(pusher - block, axis=1).min() > push_t.FAR_APART
    assert np.abs(block).max() < env.start_range and np.abs(pusher).max() < 0.45
    np.testing.assert_allclose(np.linalg.norm(states.obs[:, 4:6], axis=1), 1.0, rtol=1e-5)
    assert (np.asarray(states.obs[:, 4:6]).min(0) < -0.9).all()
    assert states.metrics["success"].mean() < 0.01
    np.testing.assert_allclose(
        states.obs[0, 6:10], [0.0, 0.0, np.cos(np.pi / 4), np.sin(np.pi / 4)], atol=1e-6
    )


def test_physics_agree_with_mujoco():
    """A push against the bar's end, which turns the T, and a rest after it."""
    env = make()
    start = [0.08, 0.15, 0.0, 0.0, 0.0]
    actions = np.concatenate([np.tile([0.1, -0.4], (12, 1)), np.zeros((8, 2))])
    states = drive(placed(start), actions)
    model = env.sim.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = start
    for t, action in enumerate(actions):
        data.ctrl[:] = env.max_speed * action
        mujoco.mj_step(model, data, env.frame_skip)
        np.testing.assert_allclose(states.data.qpos[t, 0], data.qpos, atol=1e-3)
    moved = states.data.qpos[:, 0, 2:]
    assert moved[11, 2] < -0.3 and moved[11, 1] < -0.02  # turned clockwise and pushed down
    np.testing.assert_allclose(moved[-1], moved[-3], atol=1e-4)  # it does not glide on


def test_the_pusher_moves_at_its_speed_and_stays_on_the_table():
    env = make()
    start = placed([-0.4, -0.4, 0.1, 0.1, 0.0])
    places = drive(start, np.tile([0.5, 0.0], (12, 1))).data.qpos[:, 0]
    np.testing.assert_allclose(np.diff(places[2:, 0]), 0.05 * env.max_speed, rtol=0.02)
    np.testing.assert_allclose(places[:, 2:], np.tile([0.1, 0.1, 0.0], (12, 1)), atol=1e-6)
    corner = drive(start, np.tile([-7.0, -7.0], (12, 1))).data.qpos[:, 0, :2]
    assert corner.min() > -0.49 and (corner[-1] < -0.47).all()


def test_the_expert_succeeds_in_both_modes():
    obs, action, metrics, terminated, finite = expert_episodes()
    assert finite.all() and np.isfinite(obs).all()
    assert (np.abs(action) <= 1.0).all()
    success = metrics["success"].max(axis=0) > 0
    assert success[::2].mean() >= 0.9 and success[1::2].mean() >= 0.9
    np.testing.assert_array_equal(metrics["success"] > 0, terminated)


def test_the_modes_go_round_the_block_on_different_sides():
    """The angle at which the block sees the pusher grows in mode 0 and falls in mode 1."""
    obs, _, metrics, *_ = expert_episodes()
    apart = obs[..., :2] - obs[..., 2:4]
    seen = np.arctan2(apart[..., 1], apart[..., 0]) - np.arctan2(obs[..., 5], obs[..., 4])
    seen = np.unwrap(seen, axis=0)
    running = np.cumsum(metrics["success"] > 0, axis=0) == 0
    last = running.sum(axis=0)
    rounds = seen[last.clip(max=STEPS - 1), np.arange(N)] - seen[0]
    assert np.mean(rounds[::2] > 0) > 0.65 and np.mean(rounds[1::2] < 0) > 0.65
    assert np.median(rounds[::2]) > 2.0 and np.median(rounds[1::2]) < -2.0


def test_the_expert_depends_on_nothing_but_the_pose():
    """Where the table's edge is far, table, T, pusher and target may be turned together."""
    env, turn = make(), np.exp(0.7j)
    poses = np.array([0.1 + 0.12j, 0.05 - 0.02j, np.exp(0.4j), 0.0, 1.0])
    for mode in (0, 1):
        plain, turned = (
            complex(*np.asarray(env.expert(jnp.asarray(observed(*p)), mode)))
            for p in (poses, turn * poses)
        )
        np.testing.assert_allclose(turned / abs(turned), turn * plain / abs(plain), atol=1e-4)


def test_the_pusher_hardly_sinks_into_the_block():
    obs, *_ = expert_episodes()
    c, s = obs[..., 4], obs[..., 5]
    x, y = obs[..., 0] - obs[..., 2], obs[..., 1] - obs[..., 3]
    local = np.stack([c * x + s * y, c * y - s * x], axis=-1)
    gap = jax.vmap(push_t._gap)(jnp.asarray(local.reshape(-1, 2)))
    assert float(gap.min()) > -0.007 and 0.05 < float(jnp.mean(gap < 0.001)) < 0.9


def test_randomised_physics_differ_between_environments():
    """Pushed alike from one start, a T of other friction and mass ends elsewhere."""
    env = make()
    sample = scale_physics(0.3, 3.0, ("geom_friction", "dof_damping", "body_mass"))
    drawn = randomise(env, sample).reset(KEY).info["randomise"]
    assert drawn["env.sim.model.dof_damping"].shape == (env.sim.mj_model.nv,)
    randomised = jax.vmap(sample, (0, None))(jax.random.split(KEY, N), env)
    randomised = jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), randomised, family())
    states = drive(placed([0.08, 0.15, 0.0, 0.0, 0.0]), np.tile([0.2, -0.4], (12, 1)), randomised)
    ends = states.data.qpos[-1, :, 2:]
    assert np.isfinite(ends).all() and len(np.unique(ends.round(4), axis=0)) > 0.9 * N
    assert 0.003 < ends[:, :2].std(0).max() < 0.1


def test_the_picture_shows_block_pusher_and_target():
    env = make()
    state = env.reset(KEY)
    try:
        draw = renderer(env, 96, 72)
    except RuntimeError as error:
        pytest.skip(str(error))
    with draw:
        qpos = jnp.array([[0.3, 0.3, -0.2, -0.2, 0.0], [-0.3, 0.3, -0.2, 0.2, 1.0]])
        first, second = (draw(state.replace(data=state.data.replace(qpos=q))) for q in qpos)
    share = lambda x, i: (x[..., i].astype(int) > 25 + np.delete(x, i, 2).max(-1)).mean()
    assert share(first, 0) > 5e-4 and share(first, 1) > 5e-3 and share(first, 2) > 5e-3
    assert (first != second).any()
