"""What broke, in words."""

import jax.numpy as jnp
import pytest
from probes import Probe

import envs
from envs.broken import what_breaks


@pytest.mark.parametrize(
    "broken, said",
    [
        ({}, ""),
        ({"pays": jnp.inf}, "reward is inf after step 1"),
        ({"pays": 1e20}, "reward is 1e+20 after step 1"),
        ({"pays": jnp.nan, "sees_clock": -jnp.inf}, "obs[1] is -inf after reset"),
    ],
)
def test_the_first_number_that_is_not_sound_is_named(broken, said):
    assert what_breaks(Probe(length=9.0).replace(**broken)) == said


def test_a_pole_without_length_breaks_its_velocity():
    pytest.importorskip("gymnax")
    assert what_breaks(envs.make("gymnax/CartPole-v1", length=0.0)) == "obs[1] is inf after step 1"


def test_a_division_by_an_option_that_is_0_is_one_line():
    pytest.importorskip("gymnax")
    line = r"^step of TimeLimit: float division by zero in `.*params\.m .*pendulum\.py\): an option"
    with pytest.raises(ValueError, match=line):
        envs.check(envs.make("gymnax/Pendulum-v1", m=0.0))
