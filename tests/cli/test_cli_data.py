"""From training to data sets and back, as a person runs it."""

import json

import numpy as np
import pytest
from test_cli import command, refuses

from jaxrl.data import files as data_files
from jaxrl.report import log
from jaxrl.run import checkpoint

pytestmark = pytest.mark.slow  # every command starts JAX and compiles

SMALL = "--actor-hidden 16 --batch-size 32 --eval-episodes 2 --num-evals 2 --no-video --devices 1"
CRITIC = "--critic-hidden 16 --updates-per-step 2 --learning-starts 32"
ONLINE = f"--env point_maze_open --num-envs 8 --replay-size 800 {SMALL} {CRITIC}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of SAC with two seeds, and the four data sets that come from it."""
    folder = tmp_path_factory.mktemp("data")
    run = folder / "run"
    flags = f"{ONLINE} --total-steps 400 --seeds 2 --keep-checkpoints 0 --run-dir"
    done = command("experiments/sac.py", flags, run)
    assert done.returncode == 0, done.stderr
    assert checkpoint.steps(run / "checkpoints") == [200, 400]
    flags = f"--episodes 3 --medium 0 --seed-index 1 --out {folder / 'maze'}"
    done = command("experiments/record.py", run, flags)
    assert done.returncode == 0, done.stderr
    assert "return" in done.stdout
    return folder


def test_the_data_sets_are_what_their_names_say(folder):
    kinds = {k: data_files.load(folder / f"maze_{k}.npz") for k in ("random", "medium", "expert")}
    for kind, dataset in kinds.items():
        assert len(dataset.lengths) == 3 and dataset.metadata["kind"] == kind
        assert (folder / f"maze_{kind}.png").stat().st_size > 10_000
    assert kinds["medium"].metadata["env_steps"] == 200
    assert kinds["expert"].metadata["env_steps"] == 400
    replay = data_files.load(folder / "maze_replay.npz")
    assert len(replay) == 200 and replay.metadata["env"] == "point_maze_open"


@pytest.mark.parametrize("learner", ["bc", "td3_bc", "iql"])
def test_offline_learners_learn_from_a_file(folder, learner):
    critic = "" if learner == "bc" else "--critic-hidden 16"
    flags = f"{SMALL} {critic} --learner {learner} --weighted 0.2 --total-steps 200"
    data = folder / "maze_medium.npz"
    run = folder / learner
    done = command("experiments/offline.py", flags, "--data", data, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert log.read(run)[-1]["env_steps"] == 200
    assert json.loads((run / "config.json").read_text())["env"] == "point_maze_open"
    played = command("-m jaxrl.play --episodes 2 --no-video", run)
    assert played.returncode == 0, played.stderr


def test_what_only_says_where_recordings_end_is_learned_from_when_told(folder):
    """As OGBench's files: no rewards, no time-outs."""
    with np.load(folder / "maze_medium.npz") as file:
        kept = {k: file[k] for k in file if k not in ("rewards", "timeouts", "metadata")}
    kept["terminals"] |= np.arange(len(kept["actions"])) == len(kept["actions"]) - 1
    np.savez(folder / "bench.npz", **kept)
    flags = f"{SMALL} --learner bc --total-steps 200 --env point_maze_open --run-dir"
    data = ("--data", folder / "bench.npz")
    run = folder / "bench"
    refuses(command("experiments/offline.py", flags, run, *data), "array 'rewards' is missing")
    data += ("--terminals-are-timeouts",)
    other = flags.replace("--learner bc", "--learner iql")
    refuses(command("experiments/offline.py", other, run, *data), "every reward is 0")
    done = command("experiments/offline.py", flags, run, *data)
    assert done.returncode == 0, done.stderr


def test_rlpd_mixes_a_file_into_its_batches(folder):
    run = folder / "rlpd"
    flags = f"{ONLINE} --policy-delay 2 --total-steps 400 --data {folder / 'maze_medium.npz'}"
    done = command("experiments/rlpd.py", flags, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(log.read(run)[-1]["return"]).all()


@pytest.mark.parametrize(
    "script", ["td3.py --learner fast_td3", "sac.py --learner pmoe --num-experts 2"]
)
def test_others_have_the_same_flags(folder, script):
    run = folder / script.replace(" ", "_")
    done = command(f"experiments/{script}", ONLINE, "--total-steps 400 --run-dir", run)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("offline", "--data no/such.npz", ("no/such.npz", "no such file")),
        ("offline", "--learner bcq", ("learner='bcq'", "td3_bc")),
        ("offline", "--data {maze} --learner bc --env hopper", ("actions have shape",)),
        ("offline", "--data {maze} --weighted -1", ("weighted=-1.0", "above 0")),
        ("offline", "--data {maze} --normalize-reward --reward-scale 7", ("reward_scale=7.0",)),
        ("rlpd", "--data {maze} --env hopper", ("actions have shape",)),
        ("record", "{run} --kinds expert --out {folder}/maze", ("maze_expert.npz exists",)),
        ("record", "{folder} --out {folder}/other", ("is not a run",)),
        ("record", "{run} --seed-index 5 --out {folder}/other", ("seed index 5", "0 .. 1")),
        ("demos", "--out {folder}/peg", ("must end in .npz",)),
        ("sac", "--env gymnax/CartPole-v1", ("must be continuous",)),
        ("sac", "--tau 2 --learner mdpo", ("tau=2.0", "between 0 and 1")),
        ("sac", "--learner reinforce", ("learner='reinforce'", "pmoe")),
    ],
)
def test_bad_flags_are_one_clear_line(folder, script, flags, words):
    names = {"folder": folder, "run": folder / "run", "maze": folder / "maze_medium.npz"}
    refuses(command(f"experiments/{script}.py", flags.format(**names)), *words)
