"""`python -m jaxrl.export`: what it writes, and its errors in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import drawn

import envs
from jaxrl.cli import export, runs
from jaxrl.learners.on_policy import ppo
from jaxrl.report import terminal
from jaxrl.run import checkpoint


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Two seeds on a pendulum that nobody trained, saved as a run."""
    folder = tmp_path_factory.mktemp("runs") / "pendulum"
    env = envs.make("pendulum_swingup")
    config = ppo.Config(
        num_envs=4, unroll_length=2, num_minibatches=1, actor_hidden=(4,), critic_hidden=(4,)
    )
    learner = ppo.make(env, config)
    train = {"total_steps": 8, "seeds": 2, "seed": 0, "sweep": {}, "num_evals": 1}
    train |= {"eval_episodes": 2, "devices": 1}
    runs.write_config(folder, runs.describe("ppo", "pendulum_swingup", {}, config, train))
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    state = jax.tree.map(lambda *x: jnp.stack(x), drawn(shapes, 0), drawn(shapes, 1))
    checkpoint.save(folder / "checkpoints", 8, {"learner": state})
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `main` without what it sets for a whole process: its exit code and what it printed."""
    monkeypatch.setattr(export.runtime, "setup", lambda: None)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            terminal.run(lambda: export.main([str(x) for x in arguments]))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_it_writes_the_policy_of_one_seed_and_its_contract(run_dir, command, tmp_path):
    out = tmp_path / "robot"
    code, printed, _ = command(run_dir, "--to", "jax", "--out", out, "--seed-index", 1)
    files = "contract.json, model.mjb, policy.jax, run_mujoco.py, starts.npz"
    assert not code and f"{out}: {files}" in printed
    contract = json.loads((out / "contract.json").read_text())
    assert contract["trained"] == {
        "learner": "ppo",
        "env": "pendulum_swingup",
        "env_overrides": {},
        "unit": "env steps",
        "steps": 8,
        "seed_index": 1,
    }
    assert contract["control"]["rate_hz"] > 0 and contract["versions"]["jax"] == jax.__version__
    assert [joint["type"] for joint in contract["robot"]["joints"]] == ["hinge"]
    (entry,) = contract["inputs"]
    obs = np.linspace(-1.0, 1.0, *entry["shape"], dtype=np.float32)
    call = jax.export.deserialize(bytearray((out / "policy.jax").read_bytes())).call
    policy = runs.load(run_dir).policy(1)
    expected, _ = policy.act(policy.init_carry(), obs, jax.random.key(0))
    np.testing.assert_allclose(call(obs)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RUN", "--to", "pickle"), "to='pickle': must be one of onnx, jax, stablehlo, npz"),
        (("RUN", "--to", "npz", "--seed-index", "2"), "seed index 2: this run has 0 .. 1"),
        (("RUN", "--to", "npz", "--step", "9"), "no checkpoint at step 9; there are [8]"),
        (("FULL", "--to", "npz"), "FULL is not a run"),
    ],
)
def test_mistakes_are_one_line(run_dir, command, tmp_path, arguments, message):
    places = {"RUN": run_dir, "FULL": tmp_path}
    arguments = [places.get(x, x) for x in arguments]
    code, _, error = command(*arguments, "--out", tmp_path / "out")
    expected = f"error: {message}".replace("FULL", str(tmp_path))
    assert code == 2 and error.startswith(expected) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(run_dir, command, tmp_path):
    (tmp_path / "mine").write_text("x")
    code, _, error = command(run_dir, "--to", "npz", "--out", tmp_path)
    assert code == 2 and error == f"error: {tmp_path} exists: choose another --out\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
