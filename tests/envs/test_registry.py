"""`make`: names, overrides, and messages that help."""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from mujoco import mjx

import envs
from envs import registry
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
        ("pendulum_swingup", {"max_start_angle": "wide"}, "max_start_angle='wide'.*a number"),
        ("pendulum_swingup", {"frame_skip": 2.5}, "task 'pendulum_swingup': frame_skip=2.5: must"),
        ("pendulum_swingup", {"frame_skip": 0}, "frame_skip=0: must be an integer, at least 1"),
        ("pendulum_swingup", {"frame_skip": True}, "frame_skip=True: must be an integer"),
        ("point_maze", {"goal_radius": "inf"}, "goal_radius='inf': must be a number, by default"),
        ((0, 0), {}, r"env=\(0, 0\): must be text"),
        ("point_maze", {"mass": True}, "mass=True: must be a number"),
        ("point_maze", {"continuing": 1}, "continuing=1: must be True or False"),
        ("point_maze", {"layout": 3}, "layout=3: rows must be"),
        ("point_maze", {"layout": [1, 2]}, r"layout=\(1, 2\): rows must be"),
        ("point_maze", {"reward": 3}, "reward=3: allowed are"),
        ("point_maze", {"time_limit": 2**31}, "time_limit=2147483648: .* below 2"),
        ("point_maze", {"mass": 0}, "mass=0: must be above 0 and at most inf"),
        ("point_maze", {"radius": 0.6}, "radius=0.6: must be 0 .. 0.49"),
        ("point_maze", {"radius": -0.3}, "radius=-0.3: must be 0 .. 0.49"),
        ("point_maze", {"start_noise": 0.8}, r"start_noise=0.8: must be 0 .. 0.4$"),
        ("point_maze", {"goal_radius": float("nan")}, "goal_radius=nan: must be a number"),
        ("pick_place", {"start_range": 0.03}, "start_range=0.03: must be 0.12 .. 0.2"),
        ("peg_insertion", {"hole_noise": -1}, "hole_noise=-1: must be 0 .. inf"),
        ("push_t", {"success_coverage": 0.0}, "success_coverage=0.0: must be above 0"),
        ("hopper", {"healthy_z_range": (2, 1)}, r"healthy_z_range=\(2, 1\): .*the lower first"),
        ("hopper", {"healthy_z_range": 0.7}, "healthy_z_range=0.7: must be 2 numbers"),
        ("hopper", {"healthy_z_range": (0.7,)}, r"healthy_z_range=\(0.7,\): must be 2 numbers"),
        ("hopper", {"healthy_z_range": (0.7, "inf")}, r"healthy_z_range=\(0.7, 'inf'\)"),
    ],
)
def test_a_bad_override_names_itself_and_what_is_allowed(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        envs.make(name, **overrides)


def test_numbers_may_be_integers_infinite_or_arrays_and_tuples_lists():
    """Lists are what JSON makes of tuples."""
    env = envs.make("point_maze", mass=2, goal_radius=float("inf"), dt=jnp.float32(0.2))
    assert (env.mass, env.goal_radius, env.dt) == (2, float("inf"), jnp.float32(0.2))
    env = envs.make("point_maze", layout=["####", "#..#", "####"])
    assert env.layout == ("####", "#..#", "####")


def test_impl_is_passed_on_to_mjx(monkeypatch):
    """Warp runs on NVIDIA GPUs only, so it is stood in for."""
    asked = []

    def stand_in(f):
        def call(model, device, impl):
            asked.append(impl)
            return f(model, device, "jax")

        return call

    for name in ("put_model", "make_data"):
        monkeypatch.setattr(mjx, name, stand_in(getattr(mjx, name)))
    envs.make("pendulum_swingup", impl="warp")
    assert asked == ["warp", "warp"]


def test_a_registered_name_is_made_listed_and_remembered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    envs.register("my_maze", lambda size=1.0: envs.make("point_maze", goal_radius=size))
    assert "my_maze" in envs.names()
    env = envs.make("my_maze", size=0.2)
    assert env.goal_radius == 0.2 and envs.made_by(env) == ("my_maze", {"size": 0.2})
    with pytest.raises(ValueError, match="^env='my_maze': .*'sise'"):
        envs.make("my_maze", sise=0.2)
    with pytest.raises(ValueError, match="unknown task 'my_mazes', did you mean my_maze"):
        envs.make("my_mazes")
    for name, message in (("my_maze", "registered already"), ("ant", "registered"), ("a/b", "'/'")):
        with pytest.raises(ValueError, match=message):
            envs.register(name, envs.make)


def test_a_function_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_task.py").write_text(
        "import envs\n\n\ndef maze(size=0.3):\n    return envs.make('point_maze', goal_radius=size)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert envs.make("my_own_task:maze", size=0.4).goal_radius == 0.4


def test_importing_envs_imports_no_suite_and_configures_no_logger():
    code = (
        "import logging, sys; import envs; heavy = {'brax', 'mujoco', 'gymnasium', 'jaxrl'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
