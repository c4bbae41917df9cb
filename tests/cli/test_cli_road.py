"""The refinement road, as a person walks it: demonstrations, imitation, residual, both at once."""

import json
import shutil

import numpy as np
import pytest
from test_cli import command, refuses

import envs
from jaxrl.cli import runs
from jaxrl.data import files as data_files
from jaxrl.report import log
from jaxrl.run import checkpoint

pytestmark = pytest.mark.slow  # every command starts JAX and compiles

ENV = "--env point_maze_open"
SHORT = "--eval-episodes 4 --num-evals 1 --no-video --devices 1"
CLONE = "--hidden 16 --batch-size 16 --updates-per-step 10 --horizon 4 --execute 2"
PPO = "--num-envs 8 --unroll-length 8 --num-minibatches 2 --actor-hidden 16 --critic-hidden 16"
SAC = (
    "--num-envs 8 --batch-size 16 --updates-per-step 2 --replay-size 160 --learning-starts 16"
    " --actor-starts 32 --actor-hidden 16 --critic-hidden 16"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Demonstrations, and a run that cloned them with two seeds."""
    folder = tmp_path_factory.mktemp("road")
    flags = f"{ENV} --episodes 8 --noise 0.3 --successful --out {folder / 'demos.npz'}"
    done = command("experiments/demos.py", flags)
    assert done.returncode == 0, done.stderr
    flags = f"{SHORT} {CLONE} --seeds 2 --total-steps 20 --data {folder / 'demos.npz'}"
    done = command("experiments/imitate.py", flags, "--run-dir", folder / "base")
    assert done.returncode == 0, done.stderr
    assert "network evaluations per control step: 5" in done.stdout
    return folder


def test_demonstrations_are_a_data_set_with_its_page(folder):
    demos = data_files.load(folder / "demos.npz")
    assert 0 < len(demos.lengths) <= 8 and demos.metadata["noise"] == 0.3
    assert (folder / "demos.png").stat().st_size > 10_000


def test_a_residual_keeps_its_base_and_starts_as_it(folder):
    run = folder / "ppo"
    base = folder / "base_to_lose"
    shutil.copytree(folder / "base", base)
    flags = f"{SHORT} {PPO} --total-steps 128 --base-seed 1 --scale 0.3 --base"
    done = command("experiments/residual.py", flags, base, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(base)
    cloned = [r for r in log.read(folder / "base") if r["kind"] == "eval"][-1]
    start = [r for r in log.read(run) if r["kind"] == "eval"][0]
    assert start["success"] == [cloned["success"][1]]
    assert json.loads((run / "config.json").read_text())["residual"]["scale"] == 0.3
    played = command("-m jaxrl.play --episodes 2 --no-video", run)
    assert played.returncode == 0, played.stderr
    again = command("experiments/residual.py", flags, base, "--resume --run-dir", run)
    assert again.returncode == 0, again.stderr
    nested = command(  # a residual of the residual
        "experiments/residual.py", f"{SHORT} {PPO} --total-steps 64 --base", run, "--run-dir", base
    )
    assert nested.returncode == 0, nested.stderr
    assert [r for r in log.read(base) if r["kind"] == "eval"][0]["success"] == [
        [r for r in log.read(run) if r["kind"] == "eval"][-1]["success"][0]
    ]
    assert runs.load(base).env.policies == 2
    flags = f"--kinds expert --episodes 3 --out {folder / 'refined'}"
    distilled = command("experiments/record.py", run, flags)
    assert distilled.returncode == 0, distilled.stderr
    demos = data_files.load(folder / "refined_expert.npz")
    assert demos.metadata["env"] == "point_maze_open" and len(demos.lengths) == 3
    assert np.abs(demos.steps_for(envs.make("point_maze_open")).action).max() <= 1.0


def test_an_off_policy_residual_learns_from_the_demonstrations_too(folder):
    run = folder / "sac"
    flags = f"{SHORT} {SAC} --learner sac --total-steps 80 --data {folder / 'demos.npz'} --base"
    done = command("experiments/residual.py", flags, folder / "base", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(log.read(run)[-1]["return"]).all()


def test_the_road_goes_on_where_it_was(folder):
    run = folder / "road"
    small = CLONE.replace("--", "--base.") + " " + PPO.replace("--", "--rl.")
    flags = f"{ENV} --demos 6 --bc-updates 20 --rl-steps 640 --episodes 8 --no-video {small}"
    done = command("experiments/refine.py", flags, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert "base + residual" in done.stdout and (run / "refine.png").stat().st_size > 10_000
    first = json.loads((run / "refine.json").read_text())
    newest = max(checkpoint.steps(run / "residual/checkpoints"))
    shutil.rmtree(run / "residual/checkpoints" / f"{newest:012d}")  # as if killed before the end
    refuses(command("experiments/refine.py", flags, "--run-dir", run), "exists", "--resume")
    other = command("experiments/refine.py", flags, "--scale 0.2 --resume --run-dir", run)
    refuses(other, "its scale is 0.5, not 0.2")
    done = command("experiments/refine.py", flags, "--resume --run-dir", run)
    assert done.returncode == 0, done.stderr
    assert "imitation" not in done.stdout.split("refinement")[0]
    again = json.loads((run / "refine.json").read_text())
    assert again["base + residual"] == first["base + residual"]


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("demos", "--env hopper --out {folder}/x.npz", ("no scripted expert",)),
        ("demos", "--env point_maze_open --out {folder}/demos.npz", ("demos.npz exists",)),
        ("imitate", "--data {folder}/demos.npz --env hopper", ("actions have shape",)),
        ("residual", "--base {folder}", ("is not a run",)),
        ("residual", "--base {folder}/base --env hopper", ("point_maze_open", "not hopper")),
        ("residual", "--base {folder}/base --base-seed 5", ("seed index 5", "0 .. 1")),
        ("residual", "--base {folder}/base --scale 0", ("scale=0", "above 0")),
        ("residual", "--base {folder}/base --data x.npz", ("ppo cannot use demonstrations",)),
    ],
)
def test_mistakes_are_one_clear_line(folder, script, flags, words):
    refuses(command(f"experiments/{script}.py", flags.format(folder=folder)), *words)


def test_a_flag_with_choices_names_them():
    done = command("experiments/imitate.py", "--data demos.npz --head vae")
    refuses(done, "error: --head='vae': allowed are gaussian, flow, diffusion")
