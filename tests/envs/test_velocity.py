"""Robots with legs: reward, commands, ground, and every transform around them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.tasks.locomotion import terrain
from envs.tasks.locomotion.variation import vary
from envs.transforms import curriculum, delay, history, noise, push, randomise
from envs.vector import vectorize

KEY, N, LIMIT = jax.random.key(0), 4, 500


@functools.cache
def task(name="quadruped_velocity", **options):
    return envs.make(name, physics="fast", **options).env


# ---------------------------------------------------------------- ground


def test_stairs_lead_up_in_square_rings():
    """Risers begin 0.6 m from the middle, then every 0.35 m; each climbs over 0.06 m."""
    points = jnp.array([[0.5, -0.5], [0.63, 0.2], [0.7, 0.0], [0.1, -0.98], [-2.0, 1.0]])
    height, slope = terrain.stairs(points, jnp.float32(0.12))
    # 2.0 = 0.6 + 4 * 0.35: at the foot of the fifth riser.
    np.testing.assert_allclose(height, [0.0, 0.06, 0.12, 0.18, 0.48], atol=1e-5)
    expected = [[0, 0], [2, 0], [0, 0], [0, -2], [0, 0]]
    np.testing.assert_allclose(slope[:4], expected[:4], atol=1e-5)
    down, slope = terrain.stairs(points, jnp.float32(-0.12))
    np.testing.assert_allclose(down, -height)
    np.testing.assert_allclose(slope[1], [-2.0, 0.0], atol=1e-5)


def test_slope_is_the_derivative_of_height():
    points = jnp.array([[0.63, 0.2], [0.1, -0.98], [-0.62, 0.1], [0.3, 1.33], [0.2, 0.8]])
    height = lambda xy: terrain.stairs(xy, jnp.float32(0.1))[0]
    found = terrain.stairs(points, jnp.float32(0.1))[1]
    np.testing.assert_allclose(jax.vmap(jax.grad(height))(points), found, atol=1e-4)


def test_a_plane_turned_to_the_ground_has_its_normal():
    up = terrain.normal(jnp.array([[0.0, 0.0], [1.0, 0.0], [0.3, -2.0]]))
    np.testing.assert_allclose(up[1], [-math.sqrt(0.5), 0.0, math.sqrt(0.5)], atol=1e-6)
    w, x, y, z = terrain.turned_to(up).T
    axis = jnp.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x**2 + y**2)], -1)
    np.testing.assert_allclose(axis, up, atol=1e-6)


# ---------------------------------------------------------------- reward and commands


def test_the_reward_of_a_known_moment():
    env = task()
    data = env.reset(KEY).data
    half = math.sqrt(0.5)  # turned to the left by 90 degrees, so y of the world is ahead
    qpos = jnp.concatenate([jnp.array([0, 0, 0.3, half, 0, 0, half]), env.standing + 0.1])
    qvel = jnp.zeros(18).at[jnp.array([1, 2, 5])].set(jnp.array([0.5, 0.2, 0.3]))
    before = data.replace(
        command=jnp.array([0.5, 0.5, 0.3]),
        action=jnp.zeros(12),
        air_time=jnp.array([0.3, 0.0, 0.35, 0.3]),
    )
    moment = (
        jnp.full(12, 0.5),
        data.physics.replace(qpos=qpos, qvel=qvel),
        jnp.full(12, 2.0),
        jnp.array([True, True, True, False]),
        jnp.array(False),
    )
    terms, tracking = env._reward(before, *moment)
    expected = {
        "velocity": 1.5 * math.exp(-1.0),  # 0.5 m/s too slow to the side
        "turn": 0.75,
        "upright": 0.0,
        "bounce": -0.04,
        "torque": -2e-4 * 48.0,
        "smooth": -0.02 * 3.0,
        "pose": -0.1 * 0.12,
        "feet_air": 0.1 + 0.15,  # of two landings, after 0.3 and 0.35 s
        "alive": 0.25,
    }
    for name, x in expected.items():
        np.testing.assert_allclose(terms[name], 0.02 * x, rtol=1e-4, atol=1e-6, err_msg=name)
    assert terms.keys() == expected.keys()
    np.testing.assert_allclose(tracking, (1.5 * math.exp(-1.0) + 0.75) / 2.25, rtol=1e-5)
    # No swing is asked for where the command is to stand.
    terms, _ = env._reward(before.replace(command=jnp.zeros(3)), *moment)
    assert float(terms["feet_air"]) == 0.0


def test_commands_fill_their_ranges():
    commands = np.asarray(jax.vmap(task().draw_command)(jax.random.split(KEY, 2000)))
    low, high = np.array([[-0.5, 1.0], [-0.3, 0.3], [-0.8, 0.8]]).T
    assert (commands >= low).all() and (commands <= high).all()
    assert (commands.min(0) < low + 0.05).all() and (commands.max(0) > high - 0.05).all()
    assert abs((commands == 0).all(1).mean() - 0.1) < 0.03


def test_a_biped_has_two_feet_of_two_spheres():
    env = task("biped_velocity")
    points = jnp.array([[0, 0, 0.01], [0, 0, 0.2], [0, 0, 0.2], [0, 0, 0.017]])
    assert env._touching(points, jnp.ones(())).tolist() == [True, False]
    envs.check(env)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="terrain='hills': allowed are 'flat' and 'stairs'"):
        task(terrain="hills")
    with pytest.raises(ValueError, match="friction=\\(0, 1\\): must be 0 < low <= high"):
        vary(friction=(0, 1))


# ---------------------------------------------------------------- every transform around it


@functools.cache
def program():
    """The stairs with every transform: the environments, their start, a compiled step."""
    env = envs.make("quadruped_velocity", physics="fast", terrain="stairs")
    env = randomise(env, vary(masses=(0.95, 1.05), friction=(0.7, 1.0), offset=0.01))
    env = push(env, "trunk", force=40.0, period=1000, duration=1)
    env = delay(env, obs_steps=1, action_steps=1)
    env = history(noise(env, obs_std={"obs": 0.01}), 2)
    env = curriculum(env, "tracking", 0.75, 0.5, levels=12, reset_reads_level=False)
    vec = vectorize(env, N)
    start = jax.jit(vec.reset)(KEY)
    clock = start.now.info["push"] | {"clock": jnp.full(N, 500, jnp.int32)}  # no push for now
    now = start.now.replace(info=start.now.info | {"push": clock})
    return start.replace(now=now), jax.jit(vec.step)


def stepped(state, steps=1, **changes):
    """The states after steps with action 0; the first starts from `state` with changed data and info.

    One trace serves all tests as long as no change is of a weak type.
    """
    data = {k: v for k, v in changes.items() if hasattr(state.now.data, k)}
    info = {k: v for k, v in changes.items() if k not in data}
    now = state.now.replace(data=state.now.data.replace(**data), info=state.now.info | info)
    state = state.replace(now=now)
    for _ in range(steps):
        state = program()[1](state, jnp.zeros((N, 12)))
    return state


@pytest.mark.slow
def test_every_episode_has_a_robot_of_its_own():
    start, _ = program()
    drawn = start.now.info["randomise"]
    for name in ("body_mass", "geom_friction", "actuator_gainprm", "actuator_biasprm", "qpos0"):
        x = np.asarray(drawn[f"env.sim.model.{name}"]).reshape(N, -1)
        assert len({row.tobytes() for row in x}) == N, name
    gains, biases = (
        drawn[f"env.sim.model.actuator_{name}prm"][..., i] for name, i in (("gain", 0), ("bias", 1))
    )
    np.testing.assert_allclose(gains, -biases)
    state = stepped(start)
    newest = np.asarray(state.obs["privileged"])[:, : state.obs["privileged"].shape[1] // 2]
    friction = drawn["env.sim.model.geom_friction"][:, -1, 0]
    np.testing.assert_allclose(newest[:, -10], friction, rtol=1e-6)  # a critic sees it
    assert np.isfinite(np.asarray(state.obs["obs"])).all()


@pytest.mark.slow
def test_commands_are_redrawn_when_they_are_due():
    start, _ = program()
    state = stepped(
        start, clock=jnp.array([1, 5, 1, 2]), command=jnp.full((N, 3), 9.0, jnp.float32)
    )
    assert state.now.data.clock.tolist() == [200, 4, 200, 1]
    changed = (np.asarray(state.now.data.command) != 9.0).all(1)
    assert changed.tolist() == [True, False, True, False]


@pytest.mark.slow
def test_levels_follow_the_share_of_tracking():
    """Episodes of 500 steps that end now; this last step adds at most 1 to the score."""
    start, _ = program()
    slot = start.now.info["curriculum"] | {
        "level": jnp.array([2, 2, 0, 11]),
        "score": LIMIT * jnp.array([0.8, 0.4, 0.1, 0.9]),
    }
    state = stepped(start, curriculum=slot, time_limit=jnp.full(N, LIMIT - 1, jnp.int32))
    assert state.now.truncated.all()
    assert state.now.info["curriculum"]["level"].tolist() == [3, 1, 0, 11]
    assert state.now.info["curriculum"]["score"].tolist() == [0.0] * N


@pytest.mark.slow
def test_the_robot_stands_on_stairs_of_its_own_level():
    """1.5 m from the middle, on the third tread; stairs are 0.1 m high at level 10, 0 at level 0."""
    start, _ = program()
    level, direction = jnp.array([10, 10, 5, 0]), jnp.array([1.0, -1.0, 1.0, 1.0])
    ground = jnp.array([0.3, -0.3, 0.15, 0.0])
    physics = start.now.data.physics
    pose = jnp.array([1.5, 0.0, 0.313, math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)])
    pose = jnp.concatenate([pose, task().standing]) + jnp.zeros((N, 1))
    physics = physics.replace(
        qpos=pose.at[:, 2].add(ground),
        qvel=jnp.zeros_like(physics.qvel),
        mocap_pos=physics.mocap_pos.at[..., 2].set(ground[:, None]),
    )
    slot = start.now.info["curriculum"] | {"level": level}
    state = stepped(start, 25, physics=physics, direction=direction, curriculum=slot)
    assert state.now.info["time_limit"].tolist() == [25] * N  # no episode ended
    data = state.now.data
    np.testing.assert_allclose(data.physics.qpos[:, 2] - ground, 0.297, atol=0.015)
    assert (np.asarray(data.air_time) == 0).all()
    np.testing.assert_allclose(data.physics.mocap_pos[..., 2].T, [ground] * 4, atol=1e-5)


@pytest.mark.slow
def test_a_push_moves_the_trunk_and_a_fall_ends_the_episode():
    start, _ = program()
    clock = start.now.info["push"]["clock"].at[0].set(0)
    physics = start.now.data.physics
    fallen = jnp.array([math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0])
    physics = physics.replace(qpos=physics.qpos.at[3, 3:7].set(fallen))
    pushed = stepped(start, push=start.now.info["push"] | {"clock": clock}, physics=physics)
    alone = stepped(start, physics=physics)
    change = np.asarray(pushed.now.data.physics.qvel - alone.now.data.physics.qvel)[:, :2]
    force = np.asarray(pushed.now.info["push"]["force"])[0, :2]
    assert np.linalg.norm(change[0]) > 0.2 * np.linalg.norm(force) * 0.02 / 10.2
    assert (change[1:3] == 0).all() and change[0] @ force > 0
    assert pushed.now.terminated.tolist() == [False, False, False, True]
