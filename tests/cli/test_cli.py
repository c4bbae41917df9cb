"""The scripts, as a person runs them: by subprocess, with good flags and bad."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import forks
from jaxrl.report import log
from jaxrl.run import checkpoint

ROOT = Path(__file__).parents[2]
TINY = "--env point_maze_open --env-options reward dense --num-envs 32 --unroll-length 4"
TINY += " --num-minibatches 2 --num-epochs 1 --eval-episodes 2 --num-evals 2 --devices 1"
pytestmark = pytest.mark.slow  # every command starts JAX and compiles


def command(*words):
    flags = [w for word in words for w in (word.split() if isinstance(word, str) else [str(word)])]
    return forks.run(flags, cwd=ROOT, env=dict(os.environ), timeout=400)


def refuses(process, *words):
    """One line on stderr naming `words`, no traceback, and a failure to the shell."""
    assert process.returncode == 2, process.stderr + process.stdout
    lines = [x for x in process.stderr.strip().splitlines() if not x.startswith("WARNING")]
    assert len(lines) == 1 and "Traceback" not in process.stderr, process.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    done = command("experiments/ppo.py", TINY, "--total-steps 1280 --seeds 2 --run-dir", path)
    assert done.returncode == 0, done.stderr
    assert "return" in done.stdout and "compiled in" in done.stdout
    return path


def test_a_run_leaves_everything_it_promises(run_dir):
    files = ("config.json", "metrics.jsonl", "learning_curve.png", "tensorboard", "video.mp4")
    for name in files:
        assert (run_dir / name).exists(), name
    records = log.read(run_dir)
    assert records[-1]["env_steps"] == 1280
    assert [r["env_steps"] for r in records if r["kind"] == "eval"] == [0, 640, 1280]
    assert checkpoint.steps(run_dir / "checkpoints") == [640, 1280]


def test_play_prints_returns_and_plot_draws(run_dir, tmp_path):
    played = command("-m jaxrl.play --episodes 3 --no-video", run_dir)
    assert played.returncode == 0, played.stderr
    assert "return" in played.stdout
    drawn = command("-m jaxrl.plot", run_dir, "--out", tmp_path / "curve.png")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_a_run_directory_that_exists_is_not_overwritten(run_dir):
    before = (run_dir / "metrics.jsonl").read_bytes()
    refuses(
        command("experiments/ppo.py", TINY, "--total-steps 1280 --run-dir", run_dir),
        "exists",
        "--resume",
    )
    assert (run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("flag, words", [("gamma", "0.5"), ("matmul-precision", "bfloat16")])
def test_resume_with_another_setting_is_refused(run_dir, flag, words):
    flags = f"--total-steps 1280 --seeds 2 --resume --{flag} {words} --run-dir"
    name = flag.replace("-", "_")
    refuses(command("experiments/ppo.py", TINY, flags, run_dir), name, words)


def test_a_config_file_broken_by_hand_is_named(run_dir, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    text = (run_dir / "config.json").read_text()
    (broken / "config.json").write_text(text.replace('"learner": "ppo",', '"learner": "ppo"'))
    refuses(command("-m jaxrl.play", broken), "config.json line 4")
    config = json.loads(text)
    config["config"]["learning_rat"] = config["config"].pop("learning_rate")
    (broken / "config.json").write_text(json.dumps(config))
    refuses(command("-m jaxrl.play", broken), "learning_rat", "learning_rate")


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--num-evals 100000000", ("num_evals=100000000", "at most 10000")),
        ("--devices 100000", ("devices=100000", "at most 256")),
        ("--num-minibatches 3", ("num_minibatches=3", "num_envs=32")),
        ("--gamma 1.5", ("gamma=1.5", "between 0 and 1")),
        ("--env hoper", ("hoper", "hopper")),
        ("--env-options gravty 3", ("gravty",)),
        ("--seeds 0", ("seeds=0", "at least 1")),
        ("--devices 64", ("devices=64",)),
        ("--resume --run-dir no/such/run", ("no/such/run",)),
        ("--resume --run-dir README.md", ("README.md is not a run",)),
    ],
)
def test_bad_flags_are_one_clear_line(flags, words, tmp_path):
    where = "" if "--run-dir" in flags else f"--run-dir {tmp_path / 'run'}"
    refuses(command("experiments/ppo.py", TINY, where, flags), *words)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_run_directory_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    flags = f"--total-steps 1280 --run-dir {tmp_path / 'file' / 'run'}"
    refuses(command("experiments/ppo.py", TINY, flags), "file")


def test_sigterm_saves_and_resume_ends_as_if_never_stopped(tmp_path):
    """Against an uninterrupted run of the same length, bit for bit."""
    flags = f"{TINY} --total-steps 204800 --no-video --run-dir"
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "experiments/ppo.py", *flags.split(), str(stopped)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout:
        if "return" in line and "%" in line and not line.strip().startswith("0%"):
            break  # training is under way
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(60) == 130, rest
    assert "--resume" in rest
    reached = checkpoint.steps(stopped / "checkpoints")[-1]
    assert 0 < reached < 204800
    resumed = command("experiments/ppo.py", flags, stopped, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole = tmp_path / "whole"
    assert command("experiments/ppo.py", flags, whole).returncode == 0
    last = lambda run: checkpoint.digests(run / "checkpoints", 204800)
    digests = lambda run: {k: v for k, v in last(run).items() if "seconds" not in k}
    assert digests(stopped) == digests(whole)
    curve = lambda run: [r["return"] for r in log.read(run) if r["kind"] == "eval"]
    np.testing.assert_array_equal(curve(stopped), curve(whole))


def test_a_finished_run_can_be_resumed_by_its_folder_alone(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    done = command("experiments/ppo.py --resume --no-video --run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "IQM" in done.stdout and "return" in done.stdout
    before, after = (log.read(run) for run in (run_dir, tmp_path / "run"))
    assert before == after


def test_a_sweep_is_one_run_directory(tmp_path):
    flags = "--learning-rates 1e-4 1e-3 --seeds 2 --total-steps 640"
    done = command("experiments/sweep.py", TINY, flags, "--run-dir", tmp_path / "sweep")
    assert done.returncode == 0, done.stderr
    assert "learning_rate=0.001" in done.stdout
    final = log.read(tmp_path / "sweep")[-1]
    assert np.shape(final["return"]) == (2, 2)
    assert (tmp_path / "sweep" / "learning_curve.png").exists()
