"""Flags of the scripts, apart from what tests/test_cli.py runs."""

import sys

import pytest

from jaxrl import script

PRESET = {"physics": "fast", "time_limit": "100"}


def parse(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["ppo.py", *flags])
    return script.parse(lambda env: script.Args(env=env, env_options=PRESET), env="hopper")


@pytest.mark.parametrize(
    "flags, options",
    [
        ((), PRESET),
        (("--env-options", "impl", "jax", "--seeds", "2"), PRESET | {"impl": "jax"}),
        (("--env-options", "physics", "accurate"), PRESET | {"physics": "accurate"}),
    ],
)
def test_options_of_the_environment_go_on_top_of_the_presets(monkeypatch, flags, options):
    assert parse(monkeypatch, *flags).env_options == options


def test_an_option_without_a_value_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--env-options", "impl", "jax", "physics")
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())  # out of its box
    assert "must be pairs of NAME and VALUE, not 'impl jax physics'" in said


def test_option_values_are_read_as_python_would():
    given = {"a": "0.5", "b": "true", "c": "None", "d": "(1, 2)", "e": "fast", "f": "3"}
    expected = {"a": 0.5, "b": True, "c": None, "d": (1, 2), "e": "fast", "f": 3}
    assert script.numbers(given) == expected
