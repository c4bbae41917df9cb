"""C MuJoCo in the place of MJX: the task's functions see what `mj_step` computes."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from envs.mjx.in_c import in_c
from envs.transforms import on_task, randomise, scale_physics
from envs.types import is_sound

ARM = """
<mujoco>
  <option timestep="0.01" iterations="50"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <body>
      <joint name="hip" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".03" mass="1"/>
      <body pos="0 0 -.3">
        <joint name="knee" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".03" mass="1"/>
        <site name="tip" pos="0 0 -.3"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="hip" gear="{gear}" ctrlrange="-1 1"/></actuator>
</mujoco>"""
BALL = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 .1"/>
    <body name="ball" pos="0 0 .1"><freejoint/><geom size=".1" mass="2"/></body>
    <body pos="2 0 1"><joint name="other" axis="0 1 0"/><geom size=".1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="other" ctrlrange="-1 1"/></actuator>
</mujoco>"""
STEPS, SKIP = 60, 2


def arm(gear=2.0, physics="fast", **functions):
    tip = lambda now: now.data.site_xpos[0]
    reward = functions.pop("reward", lambda now: tip(now)[2])
    return envs.from_mjcf(
        ARM.format(gear=gear), reward=reward, frame_skip=SKIP, physics=physics, **functions
    )


def test_every_instance_follows_mj_step_in_float64():
    """Two arms swing chaotically, so float32 numbers between the steps would show."""
    env = in_c(arm(observe=lambda now: jnp.concatenate([now.data.qpos, now.data.site_xpos[0]])))
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2, 1)).astype(np.float32)
    first = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2))

    def one(state, action):
        state = jax.vmap(env.step)(state, action)
        return state, (state.obs, state.reward)

    controls = (actions + np.float32(1)) - np.float32(1)  # as `control_range` rounds them
    _, (obs, reward) = jax.jit(lambda s, a: jax.lax.scan(one, s, a))(first, jnp.asarray(actions))
    model = mujoco.MjModel.from_xml_string(ARM.format(gear=2.0))  # not with the options of "fast"
    for i in range(2):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = first.data.physics.qpos[i], first.data.physics.qvel[i]
        for t in range(STEPS):
            data.ctrl[:] = controls[t, i]
            mujoco.mj_step(model, data, SKIP)
            np.testing.assert_array_equal(obs[t, i, :2], np.float32(data.qpos))
            np.testing.assert_array_equal(obs[t, i, 2:], np.float32(data.site_xpos[0]))
            assert reward[t, i] == np.float32(data.site_xpos[0, 2])


def test_a_state_that_a_task_changes_is_the_one_that_is_simulated():
    env = in_c(arm())
    state = jax.jit(env.reset)(jax.random.key(0))
    moved = state.data.physics.replace(qpos=jnp.array([1.0, -1.0]), qvel=jnp.zeros(2))
    step = jax.jit(env.step)
    after = step(state.replace(data=state.data.replace(physics=moved)), jnp.zeros(1))
    assert after.obs[0] == pytest.approx(1.0, abs=0.1) and after.obs[1] == pytest.approx(
        -1.0, abs=0.1
    )


def test_what_a_transform_draws_is_set_in_c_mujoco_too():
    """A single step from rest: the velocity is inversely proportional to the drawn mass."""
    cart = ARM.format(gear=2.0).replace('axis="0 1 0" damping="0.1"', 'type="slide" axis="1 0 0"')
    plain = envs.from_mjcf(
        cart, lambda key, sim: (jnp.zeros(2), jnp.zeros(2)), reward=lambda now: 0.0
    )
    env = in_c(randomise(plain, scale_physics(0.2, 5.0, ("body_mass", "body_inertia"))))
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 4))
    after = jax.jit(jax.vmap(env.step))(states, jnp.ones((4, 1)))
    drawn = states.info["randomise"]
    mass, inertia = (next(x for k, x in drawn.items() if name in k) for name in ("mass", "inertia"))
    model = mujoco.MjModel.from_xml_string(cart)
    for i in range(4):
        model.body_mass[:], model.body_inertia[:] = mass[i], inertia[i]
        data = mujoco.MjData(model)
        data.ctrl[:] = 1.0
        mujoco.mj_step(model, data, 2)
        np.testing.assert_allclose(after.obs[i], [*data.qpos, *data.qvel], rtol=1e-6)
    assert np.ptp(after.obs[:, 2]) > 0.003


def test_gravity_that_a_transform_draws_is_set_too():
    down = lambda key: jnp.array([0.0, 0.0, -20.0]) * jax.random.uniform(key)

    def draw(key, env):
        change = lambda sim: sim.replace(model=sim.model.tree_replace({"opt.gravity": down(key)}))
        return on_task(env, lambda task: task.replace(sim=change(task.sim)))

    still = lambda key, sim: (jnp.array([1.0, 0.0]), jnp.zeros(2))
    env = in_c(randomise(arm(reset=still), draw))
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 3))
    after = jax.jit(jax.vmap(env.step))(states, jnp.zeros((3, 1)))
    (gravity,) = states.info["randomise"].values()
    model = mujoco.MjModel.from_xml_string(ARM.format(gear=2.0))
    for i in range(3):
        model.opt.gravity[:] = gravity[i]
        data = mujoco.MjData(model)
        data.qpos[0] = 1.0
        mujoco.mj_step(model, data, SKIP)
        np.testing.assert_allclose(after.obs[i], [*data.qpos, *data.qvel], rtol=1e-6)
    assert np.ptp(after.obs[:, 2]) > 0.01


def test_contact_forces_are_those_of_c_mujoco():
    env = in_c(
        envs.from_mjcf(
            BALL,
            lambda key, sim: (sim.model.qpos0, jnp.zeros(7)),
            reward=lambda now: now.sim.contact_forces(now.data)[1, 5],
            frame_skip=200,
        )
    )
    state = jax.jit(env.step)(jax.jit(env.reset)(jax.random.key(0)), jnp.zeros(1))
    assert float(state.reward) == pytest.approx(2 * 9.81, rel=1e-2)


def test_contacts_themselves_are_refused_because_c_mujoco_lists_them_in_another_way():
    env = in_c(envs.from_mjcf(BALL, reward=lambda now: now.data._impl.contact.dist[0]))
    with pytest.raises(ValueError, match="reads 'contact.dist' of mjx.Data, which C MuJoCo"):
        jax.eval_shape(env.step, jax.eval_shape(env.reset, jax.random.key(0)), jnp.zeros(1))


def test_a_simulation_that_breaks_is_unsound_without_a_word_of_mujocos(capfd):
    env = in_c(arm(gear=1e13))
    state = jax.jit(env.step)(jax.jit(env.reset)(jax.random.key(0)), jnp.ones(1))
    state = jax.jit(env.step)(state, jnp.ones(1))
    assert not is_sound(env, state) and "unstable" not in "".join(capfd.readouterr())


def test_a_task_without_a_simulator_is_refused():
    with pytest.raises(ValueError, match="^env=PointMaze: has no MJX simulator"):
        in_c(envs.make("point_maze_open"))
