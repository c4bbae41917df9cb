"""A user's own environment, in a file outside the repository: every command takes it."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import envs
from jaxrl.cli import play, plot, runs
from jaxrl.data import files as data_files
from jaxrl.learners.on_policy import ppo as ppo_learner
from jaxrl.report import log
from jaxrl.run import runtime
from jaxrl.run.train import train

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import imitate  # noqa: E402
import ppo  # noqa: E402
import record  # noqa: E402

MODULE = '''
import jax, jax.numpy as jnp
from flax import struct
from envs.types import Box, first_state
from envs.transforms import time_limit

@struct.dataclass
class Slide:
    """A point that moves by the action, and is paid for being near the goal."""

    goal: float = 0.0

    @property
    def observation_space(self):
        return Box((1,), -10.0, 10.0)

    @property
    def action_space(self):
        return Box((1,), -1.0, 1.0)

    def reset(self, key):
        x = jax.random.uniform(key, (1,), minval=-1.0)
        return first_state(x, x, {"success": jnp.zeros(())})

    def step(self, state, action):
        x = jnp.clip(state.data + 0.5 * action, -5.0, 5.0)
        miss = jnp.abs(x[0] - self.goal)
        near = (miss < 1.5).astype(jnp.float32)
        return state.replace(data=x, obs=x, reward=-miss, metrics={"success": near})

def make_slide(goal=0.0, limit=6):
    return time_limit(Slide(goal), limit)

def make_nothing():
    return None
'''
NAME = "outside_the_house:make_slide"
SMALL = {"num_envs": 4, "unroll_length": 4, "num_minibatches": 1, "num_epochs": 1}
SMALL |= {"actor_hidden": (4,), "critic_hidden": (4,)}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path with a module of the user's own; flags go to a `main` in this process."""
    (tmp_path / "outside_the_house.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime, "setup", lambda *_, **__: None)
    yield tmp_path
    sys.modules.pop("outside_the_house", None)


def command(monkeypatch, main, name, flags):
    monkeypatch.setattr(sys, "argv", [name, *flags.split()])
    assert not main()


def test_every_command_takes_an_environment_of_ones_own(outside, monkeypatch, capsys):
    env = envs.make(NAME, goal=0.5)
    getattr(envs, "check", lambda env: None)(env)
    small = "--num-envs 4 --unroll-length 4 --num-minibatches 1 --num-epochs 1 --devices 1"
    small += " --actor-hidden 4 --critic-hidden 4 --eval-episodes 2 --num-evals 1 --no-video"
    begun = f"--env {NAME} --env-options goal 0.5 --total-steps 16 {small}"
    command(monkeypatch, ppo.main, "ppo.py", f"{begun} --run-dir run")
    command(monkeypatch, ppo.main, "ppo.py", "--run-dir run --resume --total-steps 32")
    assert log.read("run")[-1]["env_steps"] == 32
    run = runs.load("run")
    assert run.env.env.goal == 0.5 and run.config["env"] == NAME

    play.main(["run", "--episodes", "2", "--no-video"])
    plot.main(["run"])
    assert Path("run/learning_curve.png").stat().st_size > 5000
    command(monkeypatch, record.main, "record.py", "run --kinds random --episodes 3 --out recorded")
    assert data_files.load("recorded_random.npz").metadata["env"] == NAME
    small = "--hidden 4 --batch-size 4 --updates-per-step 2 --horizon 2 --execute 1 --devices 1"
    small += " --total-steps 2 --eval-episodes 2 --num-evals 1 --no-video"
    small += f" --env {NAME}"  # a data set cannot choose what code is run
    command(
        monkeypatch, imitate.main, "imitate.py", f"--data recorded_random.npz {small} --run-dir bc"
    )
    cloned = runs.load("bc")
    assert cloned.env.env.goal == 0.5
    capsys.readouterr()
    play.main(["bc", "--episodes", "2", "--no-video"])
    assert "network evaluations per control step: " in capsys.readouterr().out


def test_a_run_from_python_is_complete(outside, capsys):
    env = envs.make(NAME, goal=0.5)
    learner = ppo_learner.make(env, ppo_learner.Config(**SMALL))
    options = {"seeds": 2, "num_evals": 1, "eval_episodes": 2, "quiet": True, "tensorboard": False}
    result = train(learner, 16, run_dir="run", **options)
    config = json.loads(Path("run/config.json").read_text())
    assert (config["learner"], config["env"]) == ("ppo", NAME)
    assert config["env_overrides"] == {"goal": 0.5} and config["train"]["seeds"] == 2
    run = runs.load("run")
    assert run.env.env.goal == 0.5 and run.env_steps == 16
    for saved, now in zip(jax.tree.leaves(run.state), jax.tree.leaves(result.state), strict=True):
        if not jax.dtypes.issubdtype(now.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(saved, now)
    plot.main(["run"])
    longer = train(learner, 32, run_dir="run", resume=True, **options)
    assert longer.env_steps == 32
    assert runs.read_config("run")["train"]["total_steps"] == 32
    with jax.threefry_partitionable(False):
        with pytest.raises(ValueError, match="its jax_threefry_partitionable is True, not False"):
            train(learner, 48, run_dir="run", resume=True, **options)


def test_a_run_of_an_environment_that_make_did_not_make_is_loaded_with_it(outside):
    import outside_the_house

    env = outside_the_house.make_slide()
    learner = ppo_learner.make(env, ppo_learner.Config(**SMALL))
    options = {"num_evals": 0, "eval_episodes": 1, "quiet": True, "tensorboard": False}
    train(learner, 16, run_dir="run", **options)
    with pytest.raises(ValueError, match="run does not say how its environment is made: give it"):
        runs.load("run")
    assert runs.load("run", env=env).env is env


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("nowhere_at_all:make", {}, "cannot import 'nowhere_at_all' .*; is its folder on PYTHON"),
        (":make", {}, "cannot import ''"),
        ("outside_the_house:make_slid", {}, "has no function 'make_slid', did you mean make_slide"),
        (
            "outside_the_house:make_slide",
            {"gaol": 1},
            "make_slide got an unexpected keyword .*gaol",
        ),
        ("outside_the_house:make_nothing", {}, "must return an Env, not NoneType"),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_line(outside, name, options, message):
    with pytest.raises(ValueError, match=f"^env='{name}': .*{message}"):
        envs.make(name, **options)
