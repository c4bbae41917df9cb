"""Every term of `envs.rewards` equals a number computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from envs import rewards

TURNED = jnp.array([np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)])  # 90 degrees about z
ON_ITS_SIDE = jnp.array([np.cos(np.pi / 4), np.sin(np.pi / 4), 0.0, 0.0])  # 90 degrees about x


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_velocity_tracking_is_1_over_e_at_an_error_of_the_scale():
    command = jnp.array([1.0, 0.0])
    close(rewards.velocity_tracking(command, command), 1.0)
    close(rewards.velocity_tracking(jnp.array([1.3, 0.4]), command), np.exp(-1.0))  # error 0.5 m/s
    close(rewards.velocity_tracking(jnp.array([1.0, 1.0]), command, scale=2.0), np.exp(-0.25))


def test_orientation_is_the_squared_sine_of_the_tilt():
    tilt = np.radians(30.0)
    tilted = jnp.array([np.cos(tilt / 2), np.sin(tilt / 2), 0.0, 0.0])
    quats = jnp.stack([jnp.array([1.0, 0.0, 0.0, 0.0]), TURNED, tilted, ON_ITS_SIDE])
    close(rewards.orientation(quats), [0.0, 0.0, 0.25, 1.0])
    close(rewards.orientation(ON_ITS_SIDE, up=(0.0, 1.0, 0.0)), 0.0)


def test_torque_is_the_sum_of_squares():
    close(rewards.torque(jnp.array([1.0, -2.0, 3.0])), 14.0)


def test_power_counts_braking_like_driving():
    close(rewards.power(jnp.array([2.0, -3.0]), jnp.array([4.0, 0.5])), 8.0 + 1.5)


def test_action_smoothness_is_the_squared_distance_of_neighbours():
    close(rewards.action_smoothness(jnp.array([0.5, -1.0]), jnp.array([0.0, 1.0])), 0.25 + 4.0)


def test_feet_air_time_pays_the_feet_that_land():
    air_time = jnp.array([0.7, 0.3, 0.9, 0.0])
    touching = jnp.array([True, True, False, True])  # the third still flies, the fourth stood
    close(rewards.feet_air_time(air_time, touching), (0.7 - 0.5) + (0.3 - 0.5))
    close(rewards.feet_air_time(air_time, touching, target=0.1), 0.6 + 0.2)


def test_airborne_counts_seconds_until_the_foot_touches():
    touching = jnp.array([False, True])
    close(rewards.airborne(jnp.array([0.1, 0.4]), touching, dt=0.02), [0.12, 0.0])


def test_contact_counts_the_bodies_above_the_threshold():
    forces = jnp.array([0.0, 0.9, 1.1, 50.0])
    close(rewards.contact(forces), 2.0)
    close(rewards.contact(forces, threshold=10.0), 1.0)


def test_alive_is_0_in_the_step_that_terminates():
    close(rewards.alive(jnp.array([False, True])), [1.0, 0.0])


def test_to_body_turns_against_the_bodys_own_turn():
    """The body looks along y: what moves along y in the world moves forwards."""
    close(rewards.to_body(TURNED, jnp.array([0.0, 2.0, 1.0])), [2.0, 0.0, 1.0])


@pytest.mark.parametrize("term", ["velocity_tracking", "action_smoothness", "power"])
def test_a_term_of_a_batch_is_that_of_its_rows(term):
    a, b = jnp.arange(12.0).reshape(2, 3, 2) / 10, jnp.ones((2, 3, 2))
    f = getattr(rewards, term)
    assert f(a, b).shape == (2, 3)
    close(f(a, b)[1, 2], f(a[1, 2], b[1, 2]))
