"""Two insertions in sequence: a reward for each, in either order, and the second one ends it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.render import renderer
from envs.tasks.manipulation.assembly import AWAY

KEY = jax.random.key(0)
N, T = 64, 130
make = functools.cache(envs.make)


@functools.cache
def episodes():
    """The expert's states [T, N] and the modes [N], even ones first hole A, odd ones B."""
    env = make("assembly", time_limit=None)
    modes = jnp.arange(N) % 2

    @jax.jit
    def play(env, states):
        def step(states, _):
            actions = jax.vmap(env.expert)(states.obs, modes)
            states = jax.vmap(env.step)(states, actions)
            return states, states

        return jax.lax.scan(step, states, length=T)[1]

    return jax.device_get(play(env, jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, N)))), modes


def test_the_expert_fills_both_holes():
    states, _ = episodes()
    assert (states.metrics["success"].max(0) > 0).mean() >= 0.98
    np.testing.assert_array_equal(states.terminated, states.metrics["success"] > 0)


def test_every_part_pays_once():
    states, _ = episodes()
    np.testing.assert_array_equal(states.reward.cumsum(0), states.metrics["parts"])
    assert set(np.unique(states.reward)) == {0.0, 1.0}


def test_the_mode_is_the_hole_filled_first():
    states, modes = episodes()
    when = (states.data.filled == 0).sum(0)  # [N, 2] steps until A and B are filled
    np.testing.assert_array_equal(when[:, 1] < when[:, 0], np.asarray(modes) == 1)
    assert (np.abs(when[:, 1] - when[:, 0]) > 20).all()  # it had to travel


def test_a_part_stays_where_it_was_put():
    states, _ = episodes()
    part = states.data.physics.mocap_pos[..., 4:, :]  # [T, N, 2, 3]
    there = states.data.filled > 0
    assert (part[~there][:, 1] == AWAY).all() and (part[there][:, 1] == 0.0).all()
    holes = states.data.holes[there]
    assert (np.abs(part[there][:, [0, 2]] - holes[:, :2]).max(0) < 0.02).all()


def test_obs_are_the_parts_the_docstring_names():
    env = make("assembly")
    assert env.observation_space.shape == (17,) and env.action_space.shape == (3,)
    assert make("assembly", touch=True).observation_space.shape == (20,)
    states, _ = episodes()
    obs, pose = states.obs, states.data.physics.qpos
    np.testing.assert_array_equal(obs[..., :3], pose)
    np.testing.assert_allclose(obs[..., 6:9] + pose, states.data.holes[..., 0, :], atol=1e-6)
    np.testing.assert_allclose(obs[..., 9:12] + pose, states.data.holes[..., 1, :], atol=1e-6)
    np.testing.assert_allclose(obs[..., 12:15] + pose, states.data.target, atol=1e-6)
    np.testing.assert_array_equal(obs[..., 15:], states.data.filled)
    reset = jax.jit(lambda env: env.reset(KEY).obs)
    noisy = reset(make("assembly", hole_noise=0.002)) - reset(make("assembly"))
    assert (np.flatnonzero(noisy) == [6, 7, 9, 10]).all()


def test_picture_shows_the_part():
    states, _ = episodes()
    env = make("assembly")
    try:
        draw = renderer(env, 160, 120)
    except RuntimeError as error:
        pytest.skip(str(error))
    green = lambda x: (x[..., 1].astype(int) > x[..., [0, 2]].max(-1) + 50.0).sum()
    first, last = (jax.tree.map(lambda x, t=t: x[t, 0], states) for t in (0, T - 1))
    with draw:
        assert green(draw(first)) == 0 and green(draw(last)) > 20
