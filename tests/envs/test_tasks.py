"""Every registered task keeps the contract; our own tasks also keep their physics."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from toys import assert_trees_equal

import envs
from envs import registry
from envs.tasks.classic.point_maze import LAYOUTS, PointMaze
from envs.types import num_agents_of, sample_actions
from envs.vector import restart_where

KEY = jax.random.key(0)
STEPS, N = 6, 3
LARGE = (registry.GYMNASIUM, registry.MANIPULATION, registry.LOCOMOTION)  # these compile for long
EVERY_TASK = [
    pytest.param(name, marks=pytest.mark.slow) if task.module.startswith(LARGE) else name
    for name, task in registry.TASKS.items()
]


make = functools.cache(envs.make)  # one model, so one compilation


def build(name):
    """The task at its quickest physics."""
    try:
        return make(name, physics="fast")
    except ValueError:  # no MJX task
        return make(name)


@jax.jit
def reset_family(family, keys):
    """A family of environments [N] and keys [N]."""
    return jax.vmap(lambda env, key: env.reset(key))(family, keys)


@jax.jit
def step_family(family, states, actions):
    return jax.vmap(lambda env, state, action: env.step(state, action))(family, states, actions)


def play(family, states, actions):
    """`states` [N] and those after `actions` [T, N], stacked: [T + 1, N]."""
    played = [states]
    for action in actions:
        played.append(step_family(family, played[-1], action))
    return jax.tree.map(lambda *x: jnp.stack(x), *played)


def random_actions(env, key):
    """[STEPS, N]"""
    draw = jax.vmap(jax.vmap(lambda k: sample_actions(env, k)))
    return draw(jax.random.split(key, (STEPS, N)))


def family_of(env):
    """N copies of `env` whose every leaf has an axis, so that each may be changed."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * N), env)


@pytest.mark.parametrize("name", EVERY_TASK)
def test_the_contract(name):
    """Shapes, dtypes, bounds, finite rewards, the same numbers twice, and a family as a vmap."""
    env = build(name)
    family = family_of(env)
    keys = jax.random.split(KEY, N).at[2].set(jax.random.split(KEY, N)[1])
    actions = random_actions(env, KEY)
    actions = actions.at[:, 2].set(actions[:, 1])
    states = play(family, reset_family(family, keys), actions)
    entries = env.observation_space
    obs = states.obs
    if not isinstance(entries, dict):
        entries, obs = {"obs": entries}, {"obs": obs}
    assert set(entries) == set(obs)
    for key, space in entries.items():
        x = np.asarray(obs[key])
        assert x.shape == (STEPS + 1, N, *space.shape) and x.dtype == space.dtype
        assert x.dtype == (np.bool_ if key in ("mask", "alive") else np.float32)
        assert (x >= space.lows).all() and (x <= space.highs).all()
    agents = () if num_agents_of(env) is None else (num_agents_of(env),)
    assert actions.shape == (STEPS, N, *agents, *env.action_space.shape)
    assert (states.reward.dtype, states.reward.shape) == (jnp.float32, (STEPS + 1, N, *agents))
    assert states.terminated.dtype == states.truncated.dtype == bool
    assert np.isfinite(states.reward).all() and (np.asarray(states.reward[0]) == 0).all()
    assert np.asarray(states.info["time_limit"]).T.tolist() == [list(range(STEPS + 1))] * N
    assert all(v.shape == (STEPS + 1, N) for v in states.metrics.values())
    # The same key gives the same episode in any place and at any time, another key another.
    assert_trees_equal(states, play(family, reset_family(family, keys), actions))
    of = lambda i: jax.tree.map(lambda x: x[:, i], states)
    assert_trees_equal(of(1), of(2))
    first = np.concatenate([np.asarray(x)[0].reshape(N, -1) for x in obs.values()], axis=1)
    assert (first[0] != first[1]).any() or name == "matrix_game"  # which has one start


@pytest.mark.parametrize("name", EVERY_TASK)
def test_a_restarted_environment_is_a_reset_one(name):
    """A restart state is all a task needs: nothing else carries over from the last episode.

    `vectorize` starts an episode by putting the `data`, `obs` and `info` of an earlier `reset`
    into an environment that has been stepped. What follows must be, to the bit, what follows
    the state which that `reset` returned.
    """
    env = build(name)
    family = family_of(env)
    before, start = (reset_family(family, jax.random.split(jax.random.key(i), N)) for i in (1, 2))
    stepped = jax.tree.map(lambda x: x[-1], play(family, before, random_actions(env, KEY)))
    restarted = restart_where(jnp.ones(N, bool), stepped, start)
    actions = random_actions(env, jax.random.key(3))
    follow = lambda state: jax.tree.map(lambda x: x[1:], play(family, state, actions))
    assert_trees_equal(follow(restarted), follow(start))


@pytest.mark.parametrize("name", EVERY_TASK)
def test_a_whole_number_may_be_an_integer(name):
    """As an option of the command line is: a step still returns the types of a reset."""
    task = build(name).env
    numbers = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    whole = {k: int(v) for k, v in numbers.items() if isinstance(v, float) and v.is_integer()}
    task = task.replace(**whole)
    state = jax.eval_shape(task.reset, KEY)
    action = jax.eval_shape(lambda key: sample_actions(task, key), KEY)
    stepped = jax.eval_shape(task.step, state, action)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert types(state) == types(stepped)


@pytest.mark.parametrize("name", ["cartpole_swingup", "point_maze"])
def test_a_family_is_its_members(name):
    env = build(name)
    change = {"cartpole_swingup": "stop_stiffness", "point_maze": "mass"}[name]
    noise = {"cartpole_swingup": "reset_noise_scale", "point_maze": "start_noise"}[name]
    member = lambda i: env.replace(env=env.env.replace(**{change: 1.0 + i, noise: 0.1 * i}))
    family = jax.tree.map(lambda *x: jnp.stack(x), *[member(jnp.float32(i)) for i in range(N)])
    keys = jax.random.split(KEY, N)
    actions = random_actions(env, KEY)
    states = play(family, reset_family(family, keys), actions)
    for i in range(N):
        alone = family_of(member(jnp.float32(i)))
        same = lambda x, i=i: jnp.stack([x[i]] * N)
        played = play(alone, reset_family(alone, same(keys)), jax.vmap(same)(actions))
        pick = lambda tree, j: jax.tree.map(lambda x: x[:, j], tree)
        assert_trees_equal(pick(states, i), pick(played, 0), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- cartpole and pendulum


@jax.jit
def step(env, state, action):
    return env.step(state, action)


@jax.jit
def swing(env, qpos, qvel, actions):
    """The states [T] of an MJX task that starts at `qpos`, `qvel`."""
    state = env.reset(KEY).replace(data=env.sim.physics(qpos, qvel))
    return jax.lax.scan(lambda s, a: (env.step(s, a),) * 2, state, actions)[1]


@pytest.mark.parametrize(
    "name, physics, start",
    [
        ("cartpole_swingup", "accurate", [0.3, 2.5, 0.5, -1.0]),
        ("cartpole_swingup", "accurate", [1.75, 0.4, 2.0, 3.0]),  # into the end stop
        ("cartpole_swingup", "fast", [0.3, 2.5, 0.5, -1.0]),
        ("pendulum_swingup", "accurate", [2.0, 1.0]),
    ],
)
def test_physics_agree_with_mujoco(name, physics, start):
    env = make(name, physics=physics).env
    model = env.sim.mj_model
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = np.split(np.array(start), 2)
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (300, 1)).astype(np.float32)
    states = swing(env, *jnp.split(jnp.array(start), 2), actions)
    touched = 0
    for t, action in enumerate(actions[:60]):  # later, chaos
        push = np.clip(action, -1.0, 1.0)
        x, velocity = data.qpos[0], data.qvel[0]
        if name == "cartpole_swingup" and abs(x) > env.rail:
            inward = env.stop_stiffness * (abs(x) - env.rail) + env.stop_damping * velocity
            push = push - max(inward, 0.0) / 10.0  # all of it happens on the right
            touched += 1
        data.ctrl[:] = push
        for _ in range(env.frame_skip):
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(states.data.qpos[t], data.qpos, atol=1e-3)
        np.testing.assert_allclose(states.data.qvel[t], data.qvel, atol=1e-2)
    assert (touched > 0) == (start[0] == 1.75)
    assert (np.asarray(states.reward) >= 0).all() and (np.asarray(states.reward) <= 1).all()


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_end_stops_hold_the_cart(side):
    env = make("cartpole_swingup").env
    start = jnp.array([0.0, jnp.pi])
    states = swing(env, start, jnp.zeros(2), np.full((300, 1), side, np.float32))
    x = side * np.asarray(states.data.qpos[:, 0])
    assert 1.8 < x.max() < 2.1 and abs(x[-1] - 1.85) < 0.1


def test_no_constraint_rows():
    """What makes these tasks cheap: MJX has no solver to run."""
    for name in ("cartpole_swingup", "pendulum_swingup"):
        sim = make(name).sim
        assert sim.template._impl.efc_J.shape[0] == 0, name


def test_pendulum_is_gymnasiums():
    gym = gymnasium.make("Pendulum-v1").unwrapped
    gym.reset(seed=0)
    gym.state = np.array([2.0, 0.5])
    env = make("pendulum_swingup").env
    state = env.reset(KEY)
    state = state.replace(data=env.sim.physics(jnp.array([2.0]), jnp.array([0.5])))
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 1)).astype(np.float32):
        expected = gym.step(2.0 * action)[0]
        state = step(env, state, action)
        np.testing.assert_allclose(state.obs, expected, atol=2e-4)


@pytest.mark.parametrize("name", ["cartpole_swingup", "pendulum_swingup"])
def test_reward_is_one_at_rest_upright_and_zero_hanging(name):
    env = make(name).env
    nq = env.sim.mj_model.nq
    for angle, expected in ((0.0, 1.0), (np.pi, 0.0)):
        data = env.sim.physics(jnp.zeros(nq).at[-1].set(angle), jnp.zeros(nq))
        start = env.reset(KEY).replace(data=data)
        state, pushed = step(env, start, jnp.zeros(1)), step(env, start, jnp.ones(1))
        np.testing.assert_allclose(state.reward, expected, atol=1e-3)
        assert pushed.reward <= state.reward + 1e-3


def test_cartpole_starts_hanging_and_pendulum_anywhere():
    obs = jax.vmap(lambda k: make("cartpole_swingup").reset(k).obs)(jax.random.split(KEY, 50))
    assert (np.asarray(obs[:, 1]) < -0.99).all() and np.ptp(np.asarray(obs), axis=0).min() > 0
    obs = jax.vmap(lambda k: make("pendulum_swingup").reset(k).obs)(jax.random.split(KEY, 50))
    assert obs[:, 0].min() < -0.9 and obs[:, 0].max() > 0.9


@pytest.mark.parametrize("name", ["cartpole_swingup", "pendulum_swingup"])
def test_the_camera_exists(name):
    model = make(name).sim.mj_model
    assert mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "main") >= 0


# ---------------------------------------------------------------- point maze


def held_pushes(steps, n, seed=0):
    """Full force in random directions, each held for a while. [T, N, 2]"""
    rng = np.random.default_rng(seed)
    corners = rng.choice([-1.0, 0.0, 1.0], (steps // 12 + 1, n, 2))
    return np.repeat(corners, 12, axis=0)[:steps].astype(np.float32)


@jax.jit
def drive(env, keys, actions):
    """Positions [T, N, 2], velocities and rewards of n episodes that never end."""
    states = jax.vmap(env.reset)(keys)
    step = lambda s, a: (jax.vmap(env.step)(s, a),) * 2
    _, states = jax.lax.scan(step, states, actions)
    return states


def wall_distance(walls, position):
    """Chebyshev distance (m) from points [..., 2] to the nearest wall; negative inside."""
    rows, columns = walls.shape
    best = np.full(position.shape[:-1], np.inf)
    for row, column in zip(*np.nonzero(walls), strict=True):
        centre = np.array([column + 0.5 - columns / 2, rows / 2 - row - 0.5])
        best = np.minimum(best, np.abs(position - centre).max(axis=-1) - 0.5)
    return best


def cell_of(walls, position):
    rows, columns = walls.shape
    return np.floor(rows / 2 - position[..., 1]).astype(int), np.floor(
        position[..., 0] + columns / 2
    ).astype(int)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("speed", [2.0, 60.0])  # 60 m/s is 6 cells a step
def test_walls_are_never_entered_nor_jumped(layout, speed):
    env = PointMaze(
        layout=layout, continuing=True, force=200.0 if speed > 9 else 4.0, max_speed=speed
    )
    n, steps = 16, 2000
    states = drive(env, jax.random.split(KEY, n), held_pushes(steps, n))
    position = np.asarray(states.data.position, np.float64)
    assert wall_distance(env.walls, position).min() > env.radius - 2e-4
    # Not jumped either: in a step the row changes only along free columns, and so on.
    row, column = cell_of(env.walls, position)
    for t in range(1, steps):
        for i in range(n):
            (r0, c0), (r1, c1) = (row[t - 1, i], column[t - 1, i]), (row[t, i], column[t, i])
            assert not env.walls[r0, min(c0, c1) : max(c0, c1) + 1].any()
            assert not env.walls[min(r0, r1) : max(r0, r1) + 1, c1].any()
    assert np.abs(states.data.velocity).max() <= speed + 1e-5
    if speed > 9:
        assert (np.abs(np.diff(row, axis=0)) + np.abs(np.diff(column, axis=0))).max() > 1


def test_sliding_along_a_wall_is_not_blocked():
    env = PointMaze(layout="open", continuing=True)
    state = env.reset(KEY)
    state = state.replace(data=state.data.replace(position=jnp.array([-2.0, -1.0])))
    for _ in range(60):  # along the bottom wall, pressed against it, into the corner
        state = step(env, state, jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(state.data.position, [2.4, -1.4], atol=1e-5)
    np.testing.assert_array_equal(state.data.velocity, 0.0)


def test_free_motion_is_the_damped_mass():
    env = PointMaze(layout="open", continuing=True, mass=2.0, damping=1.5, force=3.0)
    state = env.reset(KEY)
    state = state.replace(data=state.data.replace(position=jnp.array([-2.0, 0.0])))
    x, v = -2.0, 0.0
    for _ in range(10):
        state = env.step(state, jnp.array([0.8, 0.0]))
        v += 0.1 * (3.0 * 0.8 - 1.5 * v) / 2.0 / (1 + 0.1 * 1.5 / 2.0)
        x += 0.1 * v
        np.testing.assert_allclose(state.data.position, [x, 0.0], atol=1e-5)
    moved = env.replace(control="velocity").step(state, jnp.array([-0.5, 0.25]))
    np.testing.assert_allclose(moved.data.velocity, [-1.0, 0.5])


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_starts_and_goals_cover_the_free_cells(layout):
    env = PointMaze(layout=layout)
    state = jax.vmap(env.reset)(jax.random.split(KEY, 2000))
    cells = lambda mask: set(zip(*np.nonzero(mask), strict=True))
    open_, free = cells(~env.walls), cells(~env.walls & ~env.costly)
    start, goal = (
        list(zip(*cell_of(env.walls, np.asarray(p)), strict=True))
        for p in (state.data.position, state.data.goal)
    )
    assert set(start) == set(goal) == free
    assert all(s != g for s, g in zip(start, goal, strict=True))
    assert wall_distance(env.walls, np.asarray(state.data.position)).min() > env.radius
    reached, queue = set(), [min(free)]  # every goal can be reached
    while queue:
        r, c = queue.pop()
        if (r, c) in open_ - reached:
            reached.add((r, c))
            queue += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    assert free <= reached


@pytest.mark.parametrize("continuing", [False, True])
def test_reaching_the_goal_is_success(continuing):
    env = PointMaze(layout="open", continuing=continuing)
    state = env.reset(KEY)
    data = state.data.replace(position=jnp.array([0.0, 0.0]), goal=jnp.array([1.0, 0.0]))
    state = state.replace(data=data)
    while not state.metrics["success"]:
        assert state.reward == 0.0 and not state.terminated
        assert np.linalg.norm(state.data.position - data.goal) > env.goal_radius
        state = env.step(state, jnp.array([1.0, 0.0]))
    assert np.linalg.norm(state.data.position - data.goal) <= env.goal_radius
    assert state.reward == 1.0 and bool(state.terminated) is not continuing


@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_rewards_can_be_recomputed_for_any_goal(reward):
    env = PointMaze(layout="open", continuing=True, reward=reward)
    n = 8
    states = drive(env, jax.random.split(KEY, n), held_pushes(100, n))
    achieved = env.achieved_goal(states.obs)
    np.testing.assert_array_equal(achieved, states.data.position)
    again = env.goal_reward(achieved, states.obs["goal"])
    np.testing.assert_allclose(again, states.reward, rtol=1e-6)
    assert (env.goal_reward(achieved, achieved) == 1.0).all()
    assert np.ptp(np.asarray(states.reward)) > 0


def test_render_draws_walls_goal_and_agent():
    env = envs.make("point_maze_medium")
    state = env.reset(KEY)
    image = env.render(state, 320, 160)
    assert image.shape == (160, 320, 3) and image.dtype == np.uint8
    scale = 160 / 8

    def pixel(position):
        return image[int(80 - float(position[1]) * scale), int(160 + float(position[0]) * scale)]

    colours = [pixel(p) for p in (state.data.position, state.data.goal, (-3.9, 3.9))]
    assert len({tuple(c) for c in colours}) == 3
    np.testing.assert_array_equal(image[0, 0], image[2, 162])  # outside looks like wall
    moved = env.render(state.replace(data=state.data.replace(position=state.data.goal)), 320, 160)
    assert (moved != image).any()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(reward="shaped"), "reward='shaped': allowed are"),
        (dict(control="torque"), "control='torque': allowed are"),
        (dict(layout="huge"), "layout='huge': allowed are .*'u'"),
        (dict(layout=("###", "#.#")), "layout=.*all around"),
        (dict(layout=("####", "#..", "####")), "layout=.*equally long"),
        (dict(layout=("###", "#.#", "###")), "at least two free cells"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PointMaze(**options)


def test_own_layouts_work():
    env = envs.make("point_maze", layout=("####", "#..#", "####"))
    state = jax.jit(env.reset)(KEY)
    assert {
        tuple(cell_of(env.walls, np.asarray(p))) for p in (state.data.position, state.data.goal)
    } == {
        (1, 1),
        (1, 2),
    }
