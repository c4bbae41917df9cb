"""Mistakes in flags: one line each, with the flag, its value and what is allowed."""

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from jaxrl.cli import flags, play, plot, script
from jaxrl.report import terminal


@dataclass
class Args:
    head: Literal["flow", "gaussian"] = "flow"
    seeds: int = 1
    noise: float = 0.3
    mode: int | None = None
    hidden: tuple[int, ...] = (4,)
    successful: bool = False
    env_options: script.Options = field(default_factory=dict)


@dataclass
class OfARun(Args):
    run: tyro.conf.Positional[Path] = tyro.MISSING


MISTAKES = [
    ("--head vae", "--head='vae': allowed are flow, gaussian"),
    ("--seeds x", "--seeds='x': must be a whole number"),
    ("--seeds 1.5", "--seeds='1.5': must be a whole number"),
    ("--noise=x", "--noise='x': must be a number"),
    ("--mode x", "--mode='x': must be None or a whole number"),
    ("--hidden 8 x", "--hidden='8', 'x': must be a whole number each"),
    ("--seeds", "--seeds: needs a value"),
    ("--hed flow", "--hed: there is no such flag, did you mean --head?"),
    ("--nonsense=3", "--nonsense: there is no such flag"),
    ("--no-succesful", "--no-succesful: there is no such flag, did you mean --successful?"),
    ("--successful=True", "'True' belongs to no flag"),
    ("--seeds 1 2", "'2' belongs to no flag"),
    ("--env-options a b c", "--env-options: must be pairs of NAME and VALUE, not 'a b c'"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # tyro draws other boxes in each
@pytest.mark.parametrize("words, message", MISTAKES)
def test_a_mistake_names_the_flag_its_value_and_what_is_allowed(
    monkeypatch, words, message, encoding
):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(ValueError) as error:
        flags.read(Args, words.split())
    assert str(error.value) == message


def test_a_value_of_many_words_is_put_together_again():
    long = " ".join(["word"] * 40)  # tyro breaks lines at 80 columns
    with pytest.raises(ValueError) as error:
        flags.read(Args, ["--env-options", *long.split(), "odd"])
    assert str(error.value).endswith(f"not '{long} odd'")


def test_a_run_that_is_missing_is_named():
    with pytest.raises(ValueError, match="^PATH: is missing$"):
        flags.read(OfARun, [])


def test_what_is_not_understood_is_printed_as_tyro_says_it(monkeypatch, capsys):
    def cli(*_, **__):
        print("another form", file=sys.stderr)
        sys.exit(2)

    monkeypatch.setattr(flags.tyro, "cli", cli)
    with pytest.raises(SystemExit) as ended:
        flags.read(Args, [])
    assert ended.value.code == 2 and capsys.readouterr().err == "another form\n"


def test_help_is_printed_as_before(capsys):
    with pytest.raises(SystemExit) as ended:
        flags.read(Args, ["--help"])
    assert not ended.value.code and "--head" in capsys.readouterr().out


def test_good_flags_are_read():
    args = flags.read(Args, "--head gaussian --hidden 8 4 --env-options a 1".split())
    assert args == Args(head="gaussian", hidden=(8, 4), env_options={"a": "1"})


@pytest.mark.parametrize("words", ["--run-dir", "--env", "--env hopper --run-dir"])
def test_a_flag_without_its_value_is_one_line_wherever_it_is_read(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["ppo.py", *words.split()])
    with pytest.raises(ValueError, match=f"^{words.split()[-1]}: expected one argument$"):
        script.parse(lambda env: script.Args(env=env), env="hopper")


@pytest.mark.parametrize(
    "main, words, message",
    [
        (play.main, [], "the following arguments are required: RUN"),
        (play.main, ["x", "--on", "brax"], "--on: invalid choice: 'brax'"),
        (play.main, ["x", "--episodes", "many"], "--episodes: invalid int value: 'many'"),
        (plot.main, ["x", "--x", "days"], "--x: invalid choice: 'days'"),
    ],
)
def test_play_and_plot_print_no_usage_for_a_mistake(capsys, main, words, message):
    with pytest.raises(SystemExit) as ended:
        terminal.run(lambda: main(words))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and f"error: {message}" in said
