"""`jaxrl COMMAND` runs what `python SCRIPT` runs, wherever it is called from."""

import os

import pytest
from test_cli import TINY, refuses

import envs
from experiments.bench import forks
from jaxrl.cli.commands import COMMANDS
from jaxrl.report import log


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("anywhere")


def jaxrl(folder, *words):
    return forks.run(["-m", "jaxrl", *words], cwd=folder, env=dict(os.environ), timeout=200)


def test_every_command_is_listed_and_an_unknown_one_is_named(folder):
    listed = jaxrl(folder)
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()[2:]]
    assert names == list(COMMANDS)
    refuses(jaxrl(folder, "fly"), "command='fly'", "train, sweep")
    assert jaxrl(folder, "envs").stdout.split() == envs.names()


def test_a_run_is_trained_and_played_in_the_current_folder(folder):
    flags = f"{TINY} --learner ppo --total-steps 128 --num-evals 1 --no-video --run-dir run"
    done = jaxrl(folder, "train", *flags.split())
    assert done.returncode == 0, done.stderr
    assert log.read(folder / "run")[-1]["env_steps"] == 128
    played = jaxrl(folder, "play", "run", "--episodes", "2", "--no-video")
    assert played.returncode == 0 and "return" in played.stdout, played.stderr


def test_every_command_shows_its_flags(folder):
    for name in COMMANDS:
        if name != "envs":
            done = jaxrl(folder, name, "--help")
            assert done.returncode == 0 and "usage: " in done.stdout, name
