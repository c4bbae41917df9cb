"""Pictures as observations: what is drawn, on the device and by MuJoCo on the host."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import Line

import envs
from envs.render import renderer
from envs.tasks.classic.pendulum_swingup import PendulumSwingup
from envs.tasks.classic.point_maze import PointMaze
from envs.transforms import history, pixels

KEY = jax.random.key(0)
MAZE = PointMaze(layout="open")


def rod(angle):
    """A picture of a pendulum at `angle` rad from upright. [32, 32] the darkness of blue"""
    state = SimpleNamespace(data=SimpleNamespace(qpos=jnp.array([angle])))
    return np.asarray(PendulumSwingup.draw(None, state, 32, 32)).astype(int)


def middle_of_tip(angle):
    """Column and row of the middle of the blue disc."""
    image = rod(angle)
    blue = np.clip(image[..., 2] - image[..., 0], 0, None).astype(float)
    rows, columns = np.mgrid[:32, :32] + 0.5
    return (blue * columns).sum() / blue.sum(), (blue * rows).sum() / blue.sum()


def test_the_pendulum_s_tip_is_drawn_where_it_is():
    """32 pixels hold 2.4 m: the tip is 1 m, 13.3 pixels, from the middle."""
    reach = 32 / 2.4
    for angle in (0.0, 0.7, np.pi / 2, -2.0):
        expected = 16 + reach * np.sin(angle), 16 - reach * np.cos(angle)
        np.testing.assert_allclose(middle_of_tip(angle), expected, atol=0.3)


def test_a_picture_is_of_the_state_that_the_observation_is_of():
    env = pixels(MAZE, 16)
    envs.check(env)
    state = jax.jit(env.reset)(KEY)
    for _ in range(2):
        assert state.obs["pixels"].dtype == np.uint8
        drawn = np.asarray(state.obs["pixels"]).astype(int)
        again = MAZE.render(state, 16, 16)
        assert np.abs(drawn - again).max() <= 1  # rounded in another program
        np.testing.assert_array_equal(state.obs["goal"], state.data.goal)
        state = jax.jit(env.step)(state, jnp.array([1.0, 1.0]))


def test_gray_is_the_brightness():
    colours = pixels(MAZE, 8).reset(KEY).obs["pixels"]
    gray = pixels(MAZE, 8, gray=True).reset(KEY).obs["pixels"]
    assert gray.shape == (8, 8, 1) and gray.dtype == np.uint8
    expected = np.asarray(colours, float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(gray[..., 0], expected, atol=0.51)


def test_a_history_stacks_pictures_as_channels_newest_first():
    env = history(pixels(MAZE, 8), 2)
    first = env.reset(KEY)
    second = env.step(first, jnp.array([1.0, 0.0]))
    assert env.observation_space["pixels"].shape == (8, 8, 6)
    assert second.obs["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(second.obs["pixels"][..., 3:], first.obs["pixels"][..., :3])
    assert (second.obs["pixels"][..., :3] != first.obs["pixels"][..., :3]).any()


def test_every_task_is_made_from_pixels_by_name():
    env = envs.make("pixels/point_maze_open", size=8, gray=True, frames=3, reward="dense")
    assert env.observation_space["pixels"].shape == (8, 8, 3)
    assert env.reward == "dense" and env.limit == 100
    assert envs.made_by(env)[0] == "pixels/point_maze_open"


def test_a_plain_observation_becomes_the_state():
    env = envs.make("pixels/pendulum_swingup", size=8)
    assert env.observation_space.keys() == {"pixels", "state"}
    assert env.observation_space["state"].shape == (3,)


def test_mujoco_draws_a_batch_on_the_host_as_renderer_draws_each():
    env = pixels(envs.make("pendulum_swingup"), 24, on_host=True)
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 3))
    pictures = np.asarray(states.obs["pixels"])
    assert pictures.shape == (3, 24, 24, 3) and pictures.dtype == np.uint8
    with renderer(env.env, 24, 24) as draw:
        for i in range(3):
            one = jax.tree.map(lambda x, i=i: x[i], states)
            np.testing.assert_array_equal(pictures[i], draw(one))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pixels(MAZE, 0), "^size=0: must be an integer, at least 1"),
        (lambda: pixels(MAZE, 8, camera="main"), "^camera='main': the task draws itself"),
        (lambda: pixels(pixels(MAZE, 8), 8), "has an entry 'pixels' already"),
        (lambda: pixels(Line(), 8), "cannot be drawn"),
        (lambda: envs.make("pixels/cruise", gray="yes"), "^gray='yes': must be True or False"),
        (lambda: envs.make("pixels/point_maze", frames=0), "^frames=0: must be an integer"),
        (lambda: envs.make("pixels/point_maz"), "unknown task 'point_maz', did you mean"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
