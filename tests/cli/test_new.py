"""`jaxrl new` writes a task that is complete as it is."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import envs
from jaxrl.cli import new
from jaxrl.learners.on_policy import ppo


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder outside of the repository, in which a user works."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("balance", None)


def test_the_template_is_a_task_that_learners_take_by_its_name(folder, capsys):
    new.main(["balance.py"])
    assert "--env balance:make" in capsys.readouterr().out
    assert "--env balance:make" in (folder / "balance.py").read_text()
    env = envs.check(envs.make("balance:make", time_limit=30))
    assert env.limit == 30
    learner = ppo.make(env, ppo.Config(num_envs=2, num_minibatches=1, unroll_length=2))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert state.env.now.obs.shape == (2, 4)


def test_a_command_is_rewarded_before_it_changes():
    from envs import template

    sim = envs.make("envs.template:make").sim
    qpos, qvel, memory = template.reset(jax.random.key(0), sim)
    data = sim.data(sim.physics(memory["command"][None], qvel))
    still = jnp.zeros(1)
    from envs.mjcf import Moment

    now = Moment(data, still, still, memory, sim)
    assert float(template.reward(now)["tracking"]) == pytest.approx(1.0)
    commands = []
    for _ in range(300):
        memory = template.remember(now.replace(memory=memory))
        commands.append(float(memory["command"]))
    changes = sum(a != b for a, b in zip(commands, commands[1:], strict=False))
    assert 0 < changes < 20  # 3 are expected


@pytest.mark.parametrize(
    "name, message",
    [
        ("my-task.py", "my-task.py: must be the name of a Python module, such as my_task.py"),
        ("task", "task: must be the name of a Python module"),
        ("json.py", "json.py: Python has a module 'json' already"),
        ("there.py", "there.py exists: choose another name"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_overwritten(folder, name, message):
    (folder / "there.py").write_text("mine")
    with pytest.raises(ValueError, match=f"^{message}"):
        new.main([name])
    assert [x.name for x in folder.iterdir()] == ["there.py"]
    assert (folder / "there.py").read_text() == "mine"


def test_the_command_writes_a_file(folder):
    done = subprocess.run(
        [sys.executable, "-m", "jaxrl", "new", "my_arm.py"], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    compile((folder / "my_arm.py").read_text(), "my_arm.py", "exec")
