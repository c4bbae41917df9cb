"""`make`: names, overrides, and messages that help."""

import pytest

import envs
from envs.transforms.time_limit import TimeLimit


def test_names_are_sorted_and_make_builds_them():
    assert envs.names() == sorted(envs.names())
    assert {"cartpole_swingup", "pendulum_swingup", "point_maze", "hopper"} <= set(envs.names())
    env = envs.make("point_maze", layout="open", goal_radius=0.5, time_limit=40)
    assert isinstance(env, TimeLimit)
    assert (env.limit, env.layout, env.goal_radius) == (40, "open", 0.5)


def test_time_limit_none_leaves_the_bare_task():
    env = envs.make("point_maze", time_limit=None)
    assert not hasattr(env, "limit")


@pytest.mark.parametrize(
    "name, message",
    [
        ("cartpole_swingpu", "unknown task 'cartpole_swingpu', did you mean cartpole_swingup"),
        ("zzz", "unknown task 'zzz'; known: .*cartpole_swingup.*point_maze"),
        ("bracks/ant", "unknown suite 'bracks'.*brax, playground, gymnax"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        envs.make(name)


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("point_maze", {"goal_radus": 0.1}, "no option 'goal_radus', did you mean goal_radius"),
        ("point_maze", {"physics": "fast"}, "no option 'physics'.*allowed: .*layout"),
        ("point_maze", {"layout": "spiral"}, "layout='spiral': allowed are .*medium"),
        ("point_maze", {"time_limit": 0}, "time_limit=0: must be an integer, at least 1"),
        ("ant", {"impl": "warp"}, "impl='warp': ant needs contact forces"),
        ("humanoid", {"impl": "warp"}, "impl='warp': humanoid needs contact forces"),
        ("cartpole_swingup", {"physics": "slow"}, "physics='slow': allowed are 'accurate'"),
        ("cartpole_swingup", {"impl": "cuda"}, "impl='cuda': allowed are 'jax'"),
        ("cartpole_swingup", {"sim": None}, "no option 'sim'"),
    ],
)
def test_a_bad_override_names_itself_and_what_is_allowed(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        envs.make(name, **overrides)
