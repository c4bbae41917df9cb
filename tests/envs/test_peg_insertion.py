"""Peg in hole: what goes in, what must not, and that the contact is MuJoCo's."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from envs.render import renderer
from envs.transforms.randomise import randomise, scale_physics

KEY = jax.random.key(0)
N, T = 64, 60
GIVEN = np.array(False)  # actions, not the expert's
make = functools.cache(envs.make)  # one model, so one compilation


@jax.jit
def starts(env, keys):
    return jax.vmap(env.reset)(keys)


@jax.jit
def play(env, states, actions, expert):
    """The states [T, N] that `actions` [T, N, P], or the expert's, lead to from `states` [N]."""

    def step(states, actions):
        own = jax.vmap(env.expert, (0, None))(states.obs, 0)
        states = jax.vmap(env.step)(states, jnp.where(expert, own, actions))
        return states, states

    return jax.lax.scan(step, states, actions)[1]


@jax.jit
def placed(env, tips, holes):
    """States [N] with the tip at `tips` [N, P] and the hole at `holes` [N, P]."""

    def place(key, tip, hole):
        data = env.reset(key).data
        places, quats = env.blocks(hole)
        physics = env.sim.physics(tip, jnp.zeros_like(tip))
        physics = physics.replace(mocap_pos=places, mocap_quat=quats)
        data = data.replace(physics=physics, target=tip, hole=hole, seen=hole)
        return env.reset(key).replace(data=data, obs=env._obs(data, jnp.zeros_like(tip)))

    return jax.vmap(place)(jax.random.split(KEY, len(tips)), jnp.asarray(tips), jnp.asarray(holes))


def beside(env, offsets):
    """States [N] with the tip 4 mm above an upright hole, off its axis by `offsets` [N] m."""
    size = env.action_space.shape[0]
    tips = jnp.zeros((N, size)).at[:, 0].set(jnp.asarray(offsets)).at[:, -2].set(0.004)
    return placed(env, tips, jnp.zeros((N, size)))


def down(env):
    """Full speed downwards, T steps."""
    return jnp.zeros((T, N, *env.action_space.shape)).at[..., -2].set(-1.0)


def penetration(env, data):
    """The deepest contact (m) of one state, as MuJoCo sees it."""
    mj = mujoco.MjData(env.sim.mj_model)
    mj.qpos[:] = data.physics.qpos
    mj.mocap_pos[:], mj.mocap_quat[:] = data.physics.mocap_pos, data.physics.mocap_quat
    mujoco.mj_forward(env.sim.mj_model, mj)
    return -min(mj.contact.dist, default=0.0)


def test_the_expert_succeeds():
    env = make("peg_insertion", time_limit=None)
    states = starts(env, jax.random.split(KEY, N))
    states = play(env, states, jnp.zeros((T, N, 3)), ~GIVEN)
    success = np.asarray(states.metrics["success"])  # [T, N]
    assert (success.max(0) > 0).mean() >= 0.98
    np.testing.assert_array_equal(states.reward, success)
    np.testing.assert_array_equal(states.terminated, success > 0)
    place = jax.vmap(jax.vmap(env.to_hole))(states.data.physics.qpos, states.data.hole)
    inside = np.asarray(place[..., 1]) < -0.01
    assert np.abs(place[..., 0])[inside].max() < 0.0008  # half the clearance, and softness


def test_beside_the_hole_the_peg_stands_on_the_rim():
    """Pushed down with all its might for 2.4 s, less than 0.3 mm deep."""
    env = make("peg_insertion", time_limit=None)
    offsets = np.linspace(0.002, 0.03, N // 2)
    states = play(env, beside(env, np.concatenate([offsets, -offsets])), down(env), GIVEN)
    z = np.asarray(states.data.physics.qpos[..., 1])
    assert z.min() > -0.001
    assert not states.metrics["success"].any()
    last = jax.tree.map(lambda x: x[-1], states.data)
    lead = np.asarray(last.target - last.physics.qpos)[:, 1]
    np.testing.assert_allclose(lead, -0.01, atol=1e-4)
    depths = [penetration(env, jax.tree.map(lambda x, i=i: x[i], last)) for i in range(N)]
    assert 0.0 < min(depths) and max(depths) < 3e-4


def test_above_the_hole_the_peg_goes_in_and_a_wider_hole_takes_more():
    env = make("peg_insertion", time_limit=None)
    offsets = np.linspace(0.0, 0.006, N)
    widest = []
    for clearance in (0.0005, 0.001, 0.004):
        task = env.replace(clearance=clearance)
        states = play(task, beside(task, offsets), down(task), GIVEN)
        success = np.asarray(states.metrics["success"]).max(0) > 0
        assert success[0] and not success[-1]
        widest.append(offsets[success].max())
    assert widest[0] < widest[1] < 0.0018 < widest[2] < 0.0035


def test_contact_is_mujocos():
    """Against C MuJoCo with a solver that converges, pushed about on and in the hole."""
    env = make("peg_insertion", time_limit=None)
    states = beside(env, np.linspace(-0.004, 0.004, N))
    actions = np.random.default_rng(0).uniform(-1, 1, (T, N, 3)).astype(np.float32)
    actions[..., 1] = actions[..., 1] - 0.5
    states = play(env, states, actions, GIVEN)
    model = env.sim.mj_model
    iterations, model.opt.iterations = model.opt.iterations, 100
    errors, touched = [], 0
    for i in range(0, N, 4):
        mj = mujoco.MjData(model)
        mj.qpos[:] = beside(env, np.linspace(-0.004, 0.004, N)).data.physics.qpos[i]
        mj.mocap_pos[:] = states.data.physics.mocap_pos[0, i]
        mj.mocap_quat[:] = states.data.physics.mocap_quat[0, i]
        for t in range(30):
            mj.ctrl[:] = model.jnt_stiffness * np.asarray(states.data.target[t, i])
            for _ in range(env.frame_skip):
                mujoco.mj_step(model, mj)
            touched += mj.ncon > 0
            errors.append(np.abs(mj.qpos - states.data.physics.qpos[t, i]).max())
    model.opt.iterations = iterations
    assert touched > 100
    assert np.quantile(errors, 0.9) < 1e-4


def test_nothing_tunnels():
    """Full speed in random directions: no contact is ever deeper than 1 mm."""
    env = make("peg_insertion", time_limit=None)
    states = starts(env, jax.random.split(KEY, N))
    rng = np.random.default_rng(1)
    actions = np.repeat(rng.choice([-1.0, 1.0], (T // 6, N, 3)), 6, axis=0).astype(np.float32)
    actions[..., 1] = np.where(np.arange(T)[:, None] % 30 < 24, -1.0, 1.0)
    states = play(env, states, actions, GIVEN)
    ongoing = np.asarray(states.metrics["success"]).cumsum(0) == 0
    depths = [
        penetration(env, jax.tree.map(lambda x, t=t, i=i: x[t, i], data))
        for data in [jax.device_get(states.data)]
        for t, i in np.argwhere(ongoing)[::5]
    ]
    assert (np.array(depths) > 1e-5).sum() > 50 and max(depths) < 1e-3
    assert np.isfinite(states.obs).all()


def test_in_space_the_expert_succeeds_and_beside_the_hole_the_peg_stands():
    env = make("peg_insertion_3d", time_limit=None)
    assert env.observation_space.shape == (16,) and env.action_space.shape == (4,)
    states = starts(env, jax.random.split(KEY, N))
    states = play(env, states, jnp.zeros((T, N, 4)), ~GIVEN)
    assert (states.metrics["success"].max(0) > 0).mean() >= 0.98
    tips = np.random.default_rng(0).uniform(-0.03, 0.03, (N, 4)) * [1, 1, 0, 10]
    tips[:, 2] = 0.004
    turned = np.abs(tips[:, 3])
    reach = np.abs(tips[:, :2]).max(1) + 0.01 * (np.cos(turned) + np.sin(turned)) - 0.0105
    tips = np.where((reach > 0.002)[:, None], tips, [0.002, 0.0, 0.004, 0.0])
    states = play(env, placed(env, tips, np.zeros((N, 4))), down(env), GIVEN)
    assert np.asarray(states.data.physics.qpos[..., 2]).min() > -0.001
    assert not states.metrics["success"].any()
    last = jax.tree.map(lambda x: x[-1], states.data)
    depths = [penetration(env, jax.tree.map(lambda x, i=i: x[i], last)) for i in range(N)]
    assert 0.0 < min(depths) and max(depths) < 3e-4


def test_options():
    env = make("peg_insertion")
    assert env.observation_space.shape == (12,) and env.action_space.shape == (3,)
    assert make("peg_insertion", touch=True).observation_space.shape == (15,)
    keys = jax.random.split(KEY, 200)
    exact = starts(env, keys)
    noisy = starts(make("peg_insertion", hole_noise=0.003), keys)
    np.testing.assert_array_equal(exact.data.hole, noisy.data.hole)
    error = np.asarray(noisy.obs - exact.obs)
    np.testing.assert_array_equal(error[:, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]], 0.0)
    assert 0.0028 < np.abs(error[:, 6:8]).max() <= 0.003
    assert (np.abs(np.asarray(exact.data.hole)).max(0) > 0.9 * np.array([0.02, 0.01, 0.15])).all()
    for name, value in (("clearance", 0.0), ("depth", 0.05)):
        with pytest.raises(ValueError, match=f"{name}={value}: must be above 0"):
            make("peg_insertion", **{name: value})


def test_touch_is_the_force_of_what_the_tip_stands_on():
    """Nothing in the air; on the rim as much upwards as the springs press down, in N."""
    env = make("peg_insertion", touch=True, time_limit=None)
    states = play(env, beside(env, np.linspace(0.006, 0.014, N)), down(env), GIVEN)
    force = np.asarray(states.obs[..., -3:])
    np.testing.assert_allclose(force[0], 0.0, atol=1e-4)
    lead = states.data.physics.qpos[-1, :, 1] - states.data.target[-1, :, 1]
    stiffness = env.sim.mj_model.jnt_stiffness[1]
    np.testing.assert_allclose(force[-1, :, 1], stiffness * lead, rtol=0.02)


@pytest.mark.parametrize("task", ["peg_insertion_3d", "assembly"])
def test_the_other_insertions_have_random_physics_too(task):
    env = randomise(make(task), scale_physics(0.5, 2.0, ("geom_friction",)))
    (drawn,) = starts(env, jax.random.split(KEY, 4)).info["randomise"].values()
    assert len(np.unique(np.asarray(drawn).reshape(4, -1).sum(1))) == 4


def test_randomised_physics_differ_and_matter():
    fields = ("body_mass", "geom_friction", "jnt_stiffness", "dof_damping")
    env, sample = make("peg_insertion", time_limit=None), scale_physics(0.5, 2.0, fields)
    states = starts(randomise(env, sample), jax.random.split(KEY, 4))
    drawn = states.info["randomise"]
    for field in fields:
        (path,) = [p for p in drawn if p.endswith(field)]
        assert len(np.unique(np.asarray(drawn[path]).reshape(4, -1).sum(1))) == 4
    states = starts(env, jax.random.split(KEY, N))
    nominal, other = (
        play(task, states, down(env), GIVEN).data.physics.qpos[5, :, 1]
        for task in (env, sample(KEY, env))
    )
    assert np.abs(nominal - other).max() > 1e-4  # it lags by another length


@pytest.mark.parametrize("task", ["peg_insertion", "peg_insertion_3d"])
def test_picture_shows_peg_and_hole(task):
    env = make(task)
    state = env.reset(KEY)
    try:
        draw = renderer(env, 160, 120)
    except RuntimeError as error:
        pytest.skip(str(error))
    with draw:
        picture = draw(state)
        data = state.data
        lower = data.replace(physics=data.physics.replace(qpos=data.physics.qpos - 0.01))
        other = draw(state.replace(data=lower))
    assert picture.shape == (120, 160, 3) and picture.std() > 5
    assert ((picture[..., 0] > 120) & (picture[..., 2] < 90)).mean() > 0.005  # the orange peg
    assert np.abs(picture.astype(int) - other).max() > 50
