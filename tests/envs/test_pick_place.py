"""Pick and place: friction holds the cube, letting go drops it, the expert brings it there."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from envs.render import renderer
from envs.tasks.manipulation import pick_place
from envs.transforms.randomise import randomise, scale_physics
from envs.vector import all_finite

KEY = jax.random.key(0)
N, STEPS, AFTER = 64, 60, 15  # AFTER: steps with open fingers at the end


@functools.cache
def make():
    return envs.make("pick_place", time_limit=None)


@functools.cache
def starts():
    return jax.jit(jax.vmap(make().reset))(jax.random.split(KEY, N))


@functools.cache
def family():
    """N copies of the task, whose every leaf has an axis, so that all tests share one program."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * N), make())


@jax.jit
def step(family, states, actions):
    return jax.vmap(lambda env, state, action: env.step(state, action))(family, states, actions)


def play(family, states, steps, act):
    """The states [T + 1, N] and actions [T, N] under `act(obs [N, 20], t)`."""
    history, actions = [jax.device_get(states)], []
    for t in range(steps):
        actions.append(np.asarray(act(states.obs, t)))
        states = step(family, states, actions[-1])
        history.append(jax.device_get(states))
    return jax.tree.map(lambda *x: np.stack(x), *history), np.stack(actions)


@functools.cache
def expert():
    return jax.jit(jax.vmap(make().expert))


@functools.cache
def expert_episodes():
    """The expert, odd environments in mode 1; at the end all open their fingers."""
    modes = jnp.arange(N) % make().num_modes
    let_go = jnp.tile(jnp.array([0.0, 0.0, 0.0, 1.0]), (N, 1))
    act = lambda obs, t: expert()(obs, modes) if t < STEPS else let_go
    return play(family(), starts(), STEPS + AFTER, act)


def first_success(states):
    """The index of the first state with success, or the last one. [N]"""
    reached = states.metrics["success"] > 0
    return np.where(reached.any(0), reached.argmax(0), len(reached) - 1)


def test_starts_lie_on_the_table_and_goals_apart():
    env = make()
    obs = np.asarray(jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 500)).obs)
    assert obs.shape == (500, 20) and obs.dtype == np.float32
    cube, goal = obs[:, 8:11], obs[:, 17:20]
    assert np.abs(cube[:, :2]).max() < env.start_range > np.abs(goal[:, :2]).max()
    np.testing.assert_allclose(cube[:, 2], pick_place.CUBE, atol=1e-6)
    assert np.linalg.norm(goal - cube, axis=1).min() > pick_place.FAR_APART
    assert 0.4 < (goal[:, 2] > 0.03).mean() < 0.6 and goal[:, 2].max() < env.goal_height
    yaw = np.arctan2(obs[:, 12], obs[:, 11])
    assert 0.4 < np.abs(yaw).max() < env.yaw_range
    columns = obs[:, 11:17].reshape(-1, 2, 3)
    np.testing.assert_allclose(
        columns @ columns.swapaxes(1, 2), np.tile(np.eye(2), (500, 1, 1)), atol=1e-5
    )


def test_the_expert_succeeds_in_both_modes():
    states, actions = expert_episodes()
    assert all_finite(states.data) and (np.abs(actions) <= 1.0).all()
    success = states.metrics["success"].max(axis=0)
    assert success[::2].mean() >= 0.95 and success[1::2].mean() >= 0.95
    np.testing.assert_array_equal(states.reward[1:], states.metrics["success"][1:])
    np.testing.assert_array_equal(states.terminated[1:], states.metrics["success"][1:] > 0)
    distance = np.linalg.norm(states.obs[..., 8:11] - states.obs[..., 17:20], axis=-1)
    np.testing.assert_array_equal(states.metrics["success"] > 0, distance <= make().goal_radius)


def test_the_modes_carry_low_and_high():
    states, _ = expert_episodes()
    last = first_success(states)
    before = np.arange(len(states.obs))[:, None] <= last
    height = np.where(before, states.obs[..., 10], 0.0).max(axis=0)
    goal = states.obs[0, :, 19]
    assert (height[1::2] > goal[1::2] + 0.06).mean() > 0.9
    assert (height[::2] < np.maximum(goal[::2], 0.05) + 0.03).mean() > 0.9


def test_friction_holds_the_cube_while_it_is_carried_and_it_falls_when_let_go():
    states, _ = expert_episodes()
    held = states.obs[:, :, 8:11] - states.obs[:, :, :3]  # [T, N, 3] as the hand sees the cube
    lifted = states.obs[:, :, 10] > 0.05
    lifted[STEPS + 1 :] = False
    slip = np.abs(held - held[first_success(states), np.arange(N)])[lifted]
    assert len(slip) > 500 and np.percentile(slip, 99) < 0.004
    up = states.obs[STEPS, :, 10] > 0.06
    assert up.sum() > 15
    np.testing.assert_allclose(states.obs[STEPS, up, 3], pick_place.CUBE, atol=0.002)
    fallen = states.obs[-1, up, 10]
    assert (fallen < 0.04).all() and (fallen > 0.015).all()  # on the table, on some side


def test_a_cube_that_nobody_touches_stays():
    states, _ = play(family(), starts(), 10, lambda obs, t: jnp.zeros((N, 4)))
    moved = np.abs(states.obs[-1, :, 8:17] - states.obs[0, :, 8:17])
    assert moved.max() < 1e-3
    assert (
        np.abs(states.obs[-1, :, :4] - states.obs[0, :, :4]).max() < 1e-3
    )  # nor does the hand sink


def test_physics_agree_with_mujoco():
    """Reach, grasp and lift."""
    env = make()
    states, actions = expert_episodes()
    model = env.sim.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = states.data.physics.qpos[0, 0]
    for t in range(25):
        data.ctrl[:4] = states.data.target[t + 1, 0]
        data.ctrl[4] = data.ctrl[3]
        mujoco.mj_step(model, data, env.frame_skip)
        np.testing.assert_allclose(states.data.physics.qpos[t + 1, 0], data.qpos, atol=5e-3)
    assert data.qpos[3] < 0.021  # it has been gripped


def test_targets_stay_in_reach():
    far = jnp.tile(jnp.array([9.0, -9.0, -9.0, -9.0]), (N, 1))
    states, _ = play(family(), starts(), 30, lambda obs, t: far)
    x, y, z = pick_place.HIGH[0], pick_place.LOW[1], pick_place.LOW[2]
    np.testing.assert_allclose(states.data.target[-1], np.tile([x, y, z, 0.0], (N, 1)), atol=1e-6)
    assert states.obs[..., 2].min() > 0.004  # the fingertips (8 mm) hardly touch the table


def test_randomised_physics_differ_between_environments():
    """With the same start and actions, cubes of other friction and mass end elsewhere."""
    env = make()
    sample = scale_physics(0.5, 1.5, ("geom_friction", "body_mass"))
    drawn = randomise(env, sample).reset(KEY).info["randomise"]
    assert drawn["sim.model.geom_friction"].shape == (env.sim.mj_model.ngeom, 3)
    randomised = jax.vmap(sample, (0, None))(jax.random.split(KEY, N), env)
    randomised = jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), randomised, family())
    same = jax.tree.map(lambda x: jnp.stack([x[1]] * N), starts())
    _, actions = expert_episodes()
    states, _ = play(randomised, same, 30, lambda obs, t: jnp.tile(actions[t, 1], (N, 1)))
    cube = states.obs[-1, :, 8:11]
    assert np.isfinite(cube).all() and len(np.unique(cube.round(5), axis=0)) > 0.9 * N
    assert cube.std(axis=0).max() > 1e-3


def test_the_picture_shows_cube_goal_and_hand():
    state = jax.tree.map(lambda x: x[0], starts())
    try:
        draw = renderer(make(), 96, 72)
    except RuntimeError as error:
        pytest.skip(str(error))
    with draw:
        first, second = (
            draw(state.replace(data=state.data.replace(physics=physics)))
            for physics in (
                state.data.physics,
                state.data.physics.replace(qpos=state.data.physics.qpos.at[0].add(0.1)),
            )
        )
    share = lambda x, i: (x[..., i].astype(int) > 25 + np.delete(x, i, 2).max(-1)).mean()
    assert share(first, 0) > 1e-3 and share(first, 1) > 1e-3
    assert (first.max(-1) < 90).mean() > 5e-3  # the dark hand
    assert (first != second).any()
