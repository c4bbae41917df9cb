"""Flags of the scripts, apart from what tests/test_cli.py runs."""

import sys

import pytest

from jaxrl import runs, script

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


def test_a_run_goes_on_with_the_flags_that_began_it(monkeypatch, tmp_path):
    def description(args):
        train = {"seeds": args.seeds, "total_steps": int(args.total_steps)}
        return {
            "learner": "ppo",
            "env": args.env,
            "env_overrides": {},
            "config": {},
            "train": train,
        }

    begun = parse(monkeypatch, "--env", "ant", "--seeds", "3", "--run-dir", str(tmp_path / "run"))
    script.open_run(begun.run_dir, description(begun), resume=False)
    moved = (tmp_path / "run").rename(tmp_path / "moved")

    args = parse(monkeypatch, "--run-dir", str(moved), "--resume")
    assert (args.env, args.seeds, args.run_dir) == ("ant", 3, moved)
    script.open_run(moved, description(args), resume=True)

    other = parse(
        monkeypatch, "--run-dir", str(moved), "--resume", "--total-steps", "2e6", "--env", "hopper"
    )
    with pytest.raises(ValueError, match="its env is ant, not hopper"):
        script.open_run(moved, description(other), resume=True)
    unlike = description(args) | {"train": {"seeds": 3, "total_steps": 2_000_000, "weighted": 1.0}}
    with pytest.raises(ValueError, match="its weighted is None, not 1.0"):
        script.open_run(moved, unlike, resume=True)
    assert runs.read_config(moved)["train"]["total_steps"] == 1_000_000  # as it was

    longer = parse(monkeypatch, "--run-dir", str(moved), "--resume", "--total-steps", "2e6")
    script.open_run(moved, description(longer), resume=True)
    assert runs.read_config(moved)["train"]["total_steps"] == 2_000_000
    with pytest.raises(ValueError, match="its total_steps is 2000000, not 1000000"):
        script.open_run(moved, description(args), resume=True)

    monkeypatch.setattr(sys, "argv", ["sac.py", "--run-dir", str(moved), "--resume"])
    with pytest.raises(ValueError, match=r"was begun by ppo\.py: resume with that, not sac\.py"):
        script.parse(script.Args)


def test_option_values_are_read_as_python_would():
    given = {"a": "0.5", "b": "true", "c": "None", "d": "(1, 2)", "e": "fast", "f": "3"}
    expected = {"a": 0.5, "b": True, "c": None, "d": (1, 2), "e": "fast", "f": 3}
    assert script.numbers(given) == expected
