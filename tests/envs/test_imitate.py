"""`imitate`: a random start in the motion, phase and targets, the reward, and its end."""

import functools
import math

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from toys import Line

import envs
from envs.tasks.locomotion.motions import trot
from envs.transforms import imitate
from envs.transforms.imitate import Motion

KEY, T = jax.random.key(0), 8


def swing():
    """A pendulum that turns by a quarter of a radian in every step."""
    angles = 0.25 * jnp.arange(T)[:, None]
    return Motion(angles, jnp.zeros((T, 1)))


@functools.cache
def pendulum():
    env = imitate(envs.make("pendulum_swingup").env, swing(), max_error=0.5)
    return env, jax.jit(jax.vmap(env.reset)), jax.jit(env.step)


def test_episodes_start_everywhere_in_the_motion():
    env, reset, _ = pendulum()
    state = reset(jax.random.split(KEY, 64))
    frame = np.asarray(state.info["imitate"]["frame"])
    assert set(frame) == set(range(T))
    np.testing.assert_allclose(state.data.qpos[:, 0], 0.25 * frame)
    np.testing.assert_allclose(state.obs["target"], 0.0)
    np.testing.assert_allclose(state.obs["phase"][:, 0], np.cos(2 * np.pi * frame / T), atol=1e-6)
    np.testing.assert_allclose(state.obs["phase"][:, 1], np.sin(2 * np.pi * frame / T), atol=1e-6)
    envs.check(env)


def test_errors_are_those_of_the_next_pose():
    """It stands at 0.3 rad with 0.1 rad/s where the motion is at 0.5 rad and at rest."""
    env, _, _ = pendulum()
    physics = env.sim.physics(jnp.array([0.3]), jnp.array([0.1]))
    errors = env.errors(physics, {"frame": jnp.int32(2), "lap": jnp.int32(0)})
    expected = {"pose": 0.04, "velocity": 0.01, "root": 0.0, "drift": 0.0}
    for name, x in expected.items():
        np.testing.assert_allclose(errors[name], x, rtol=1e-4, err_msg=name)


def test_a_step_is_paid_for_the_next_pose_and_ends_where_the_motion_is_lost():
    env, reset, step = pendulum()
    state = jax.tree.map(lambda x: x[0], reset(jax.random.split(KEY, 64)))
    for frame, ended in ((2, False), (T - 1, True)):  # after the last pose the motion jumps back
        slot = {"frame": jnp.int32(frame), "lap": jnp.int32(0)}
        physics = env.sim.physics(jnp.array([0.25 * frame]), jnp.zeros(1))
        new = step(state.replace(data=physics, info={"imitate": slot}), jnp.zeros(1))
        after = {"frame": jnp.int32((frame + 1) % T), "lap": jnp.int32((frame + 1) // T)}
        assert jax.tree.map(int, new.info["imitate"]) == jax.tree.map(int, after)
        errors = env.errors(new.data, after)
        pose, velocity = (float(errors[name]) for name in ("pose", "velocity"))
        expected = 0.65 * math.exp(-2 * pose) + 0.1 * math.exp(-0.1 * velocity) + 0.25
        np.testing.assert_allclose(new.reward, expected, rtol=1e-5)
        assert bool(new.terminated) == ended == (pose > 0.25)


def test_standing_feet_of_a_trot_stay_on_the_ground():
    """By MuJoCo's own kinematics, over two laps."""
    env = envs.make("quadruped_velocity", physics="fast").env
    speed, period = 0.4, 0.4
    motion = trot(speed, period, lift=0.05)
    model = env.sim.mj_model
    data, feet, steps = mujoco.MjData(model), env._points, len(motion.qpos)
    env = imitate(env, motion)
    places = []
    for i in range(2 * steps):
        data.qpos[:] = env.pose({"frame": jnp.int32(i % steps), "lap": jnp.int32(i // steps)})[0]
        mujoco.mj_kinematics(model, data)
        places.append(data.geom_xpos[feet].copy())
    places = np.stack(places)  # [2 T, 4, 3]
    half = steps // 2
    for leg, start in ((0, 0), (1, half), (2, half), (3, steps)):
        standing = places[start : start + half, leg]
        np.testing.assert_allclose(standing, standing[:1].repeat(half, 0), atol=2e-3)
        np.testing.assert_allclose(standing[:, 2], 0.022, atol=1e-4)
    np.testing.assert_allclose(places[:, :, 2].max(0), 0.072, atol=1e-3)
    np.testing.assert_allclose(places[steps:, :, 0] - places[:steps, :, 0], 0.16, atol=1e-4)


def test_the_place_of_the_root_counts():
    """0.1 m behind and turned by 60 degrees: 0.01 and the squared sine of 30 degrees."""
    env = imitate(envs.make("quadruped_velocity", physics="fast").env, trot(0.5), max_drift=0.3)
    slot = {"frame": jnp.int32(3), "lap": jnp.int32(2)}
    qpos, qvel = env.pose(slot)
    np.testing.assert_allclose(qpos[0], 2 * 0.25 + 3 * 0.01, rtol=1e-5)
    turned = jnp.array([math.cos(math.pi / 6), 0.0, 0.0, math.sin(math.pi / 6)])
    errors = env.errors(env.sim.physics(qpos.at[0].add(-0.1).at[3:7].set(turned), qvel), slot)
    np.testing.assert_allclose(errors["root"], 0.01 + 0.25, rtol=1e-4)
    np.testing.assert_allclose(errors["drift"], 0.01, rtol=1e-4)
    assert float(errors["pose"]) == float(errors["velocity"]) == 0.0


def test_wrong_motions_are_named():
    pendulum_env = envs.make("pendulum_swingup").env
    with pytest.raises(ValueError, match=r"motion: qpos has shape \(8, 2\), expected \(T, 1\)"):
        imitate(pendulum_env, Motion(jnp.zeros((T, 2)), jnp.zeros((T, 1))))
    with pytest.raises(ValueError, match="qpos has 8 poses and qvel 7"):
        imitate(pendulum_env, Motion(jnp.zeros((T, 1)), jnp.zeros((7, 1))))
    with pytest.raises(ValueError, match="max_error=0: must be above 0"):
        imitate(pendulum_env, swing(), max_error=0)
    with pytest.raises(ValueError, match="the state of Line holds no Physics"):
        imitate(Line(), swing())
    with pytest.raises(ValueError, match="a leg is too short"):
        trot(3.0)
