"""An exported policy in plain C MuJoCo, as someone without jax and this library runs it."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from by_hand import drawn

import envs
from envs.mjx.in_c import SimulatorInC
from jaxrl.cli import export, play, runs
from jaxrl.learners.on_policy import ppo
from jaxrl.run import checkpoint

MODULE = '''
import jax.numpy as jnp
import envs

XML = """
<mujoco>
  <option timestep="0.01"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <body>
      <joint name="slide" type="slide" axis="1 0 0" damping="0.5"/>
      <geom size=".1" mass="1"/>
      <body>
        <joint name="pole" axis="0 1 0" damping="0.05"/>
        <geom type="capsule" fromto="0 0 0 0 0 .5" size=".03" mass="0.3"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="slide" gear="10" ctrlrange="-1 0.5"/></actuator>
</mujoco>"""

reward = lambda now: jnp.cos(now.data.qpos[1]) - 0.1 * (now.action**2).sum()
fallen = lambda now: jnp.abs(now.data.qpos[1]) > 1.0
speed = lambda now: {"obs": now.data.qvel}


def make(time_limit=60, physics="fast"):
    return envs.from_mjcf(
        XML, reward=reward, terminate=fallen, time_limit=time_limit, physics=physics, frame_skip=2
    )


def make_seen():
    return envs.from_mjcf(XML, reward=reward, observe=speed, frame_skip=2)
'''
TASK = """
import numpy as np

def reward(model, data, action):
    return np.cos(data.qpos[1]) - 0.1 * (np.clip(action, -1, 1) ** 2).sum()

def terminated(model, data):
    return abs(data.qpos[1]) > 1.0
"""
ALONE = """
import json, sys
for name in ("jax", "jaxlib", "jaxrl", "envs", "flax", "onnxruntime"):
    sys.modules[name] = None  # importing it fails
import runpy
sys.path.insert(0, "out")
import run_mujoco
task = runpy.run_path("task.py")
returns, lengths = run_mujoco.run("out", reward=task["reward"], terminated=task["terminated"])
print(json.dumps([returns.tolist(), lengths.tolist()]))
sys.argv = ["run_mujoco.py", "--task", "task.py", "--episodes", "2"]
runpy.run_path("out/run_mujoco.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a task and two runs that nobody trained."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_pole.py").write_text(MODULE)
    (folder / "task.py").write_text(TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for function in ("make", "make_seen"):
            save(folder / function, f"own_pole:{function}")
        yield folder
    sys.modules.pop("own_pole", None)


def save(folder, name):
    config = ppo.Config(
        num_envs=2, unroll_length=2, num_minibatches=1, actor_hidden=(8,), critic_hidden=(4,)
    )
    learner = ppo.make(envs.make(name), config)
    train = {"total_steps": 4, "seeds": 1, "seed": 0, "sweep": {}, "num_evals": 1}
    train |= {"eval_episodes": 2, "devices": 1}
    runs.write_config(folder, runs.describe("ppo", name, {}, config, train))
    state = drawn(jax.eval_shape(learner.init, jax.random.key(0)))
    state = jax.tree.map(lambda x: x[None], state)
    checkpoint.save(folder / "checkpoints", 4, {"learner": state})


def in_c_alone(env, *args, measure=play._measure):
    """What play measures, without the minutes that MJX compiles."""
    if isinstance(env.sim, SimulatorInC):
        return measure(env, *args)
    return {"return": np.full(32, 77.0), "length": np.full(32, 5), "terminated": np.ones(32, bool)}


def test_plain_mujoco_reaches_the_returns_that_play_measures(place, monkeypatch, capsys):
    contract = export.export(place / "make", "npz", place / "out")
    monkeypatch.setattr(play, "_measure", in_c_alone)
    measured = play.play_on_mujoco(place / "make")
    printed = capsys.readouterr().out
    assert "C MuJoCo" in printed and "77" in printed and "32 episodes" in printed
    ended = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=place, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    first, *rest = ended.stdout.splitlines()
    returns, lengths = json.loads(first)
    np.testing.assert_array_equal(lengths, measured["length"])
    np.testing.assert_allclose(returns, measured["return"], rtol=1e-4)
    assert np.std(lengths) > 1.0  # episodes end one after the other
    assert rest[0].startswith("2 episodes: mean length ") and "mean return" in rest[1]
    about = contract["mujoco"]
    assert about["observation"] == ["qpos", "qvel"] and about["control"] == "ctrl range"
    assert (about["substeps"], about["time_limit"]) == (2, 60)


def test_an_observation_of_the_tasks_own_is_asked_for_in_one_line(place):
    export.export(place / "make_seen", "npz", place / "seen")
    ended = subprocess.run(
        [sys.executable, place / "seen" / "run_mujoco.py"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "write observe(model, data) in NumPy in a file, and give it as --task" in ended.stderr


def test_a_model_that_is_not_the_contracts_is_refused(place):
    out = place / "changed"
    export.export(place / "make", "npz", out)
    with open(out / "model.mjb", "ab") as file:
        file.write(b" ")
    ended = subprocess.run(
        [sys.executable, out / "run_mujoco.py"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2 and "model.mjb: not the file of contract.json" in ended.stderr


def test_a_format_that_numpy_does_not_read_needs_a_policy_of_the_users(place):
    export.export(place / "make", "stablehlo", place / "mlir")
    ended = subprocess.run(
        [sys.executable, place / "mlir" / "run_mujoco.py"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "has no run_policy.py; export the policy --to npz or --to onnx" in ended.stderr


def test_a_task_without_a_mujoco_model_exports_without_one():
    found = export.in_mujoco.files(
        envs.make("point_maze_open"), jax.random.split(jax.random.key(0), 2)
    )
    assert found == ({}, {})
