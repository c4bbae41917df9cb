"""Flags of the scripts, apart from what tests/test_cli.py runs."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import envs
import jaxrl
from jaxrl.cli import runs, script
from jaxrl.data import dataset as data
from jaxrl.data import files as data_files
from jaxrl.learners import registry
from jaxrl.report import log
from jaxrl.run import folder, plan
from jaxrl.run.train import Result

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import demos  # noqa: E402
import presets  # noqa: E402
import record  # noqa: E402
import refine  # noqa: E402
import sac  # noqa: E402
import sweep  # noqa: E402
import train  # noqa: E402

DESCRIPTION = {
    "jaxrl": jaxrl.__version__,
    "learner": "ppo",
    "env": "ant",
    "env_overrides": {},
    "config": {},
    "train": {"total_steps": 8, "seeds": 1},
}
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


def test_an_option_without_a_value_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="must be pairs of NAME and VALUE, not 'impl jax physics'"):
        parse(monkeypatch, "--env-options", "impl", "jax", "physics")


def test_a_run_goes_on_with_the_flags_that_began_it(monkeypatch, tmp_path):
    def description(args):
        train = {"seeds": args.seeds, "total_steps": int(args.total_steps)}
        command = {"command": folder.command()}
        return DESCRIPTION | {"env": args.env, "train": train} | command

    begun = parse(monkeypatch, "--env", "ant", "--seeds", "3", "--run-dir", str(tmp_path / "run"))
    folder.open_run(begun.run_dir, description(begun), resume=False)
    moved = (tmp_path / "run").rename(tmp_path / "moved")

    args = parse(monkeypatch, "--run-dir", str(moved), "--resume")
    assert (args.env, args.seeds, args.run_dir) == ("ant", 3, moved)
    folder.open_run(moved, description(args), resume=True)

    other = parse(
        monkeypatch, "--run-dir", str(moved), "--resume", "--total-steps", "2e6", "--env", "hopper"
    )
    with pytest.raises(ValueError, match="its env is ant, not hopper"):
        folder.open_run(moved, description(other), resume=True)
    unlike = description(args) | {"train": {"seeds": 3, "total_steps": 2_000_000, "weighted": 1.0}}
    with pytest.raises(ValueError, match="its weighted is None, not 1.0"):
        folder.open_run(moved, unlike, resume=True)
    assert runs.read_config(moved)["train"]["total_steps"] == 1_000_000  # as it was

    longer = parse(monkeypatch, "--run-dir", str(moved), "--resume", "--total-steps", "2e6")
    folder.open_run(moved, description(longer), resume=True)
    assert runs.read_config(moved)["train"]["total_steps"] == 2_000_000
    with pytest.raises(ValueError, match="its total_steps is 2000000, not 1000000"):
        folder.open_run(moved, description(args), resume=True)
    again = parse(monkeypatch, "--run-dir", str(moved), "--resume")
    assert (again.total_steps, again.seeds) == (2_000_000, 3)
    folder.open_run(moved, description(again), resume=True)

    monkeypatch.setattr(sys, "argv", ["sac.py", "--run-dir", str(moved), "--resume"])
    with pytest.raises(ValueError, match=r"was begun by ppo\.py: resume with that, not sac\.py"):
        script.parse(script.Args)


def test_a_run_goes_on_however_its_flags_are_spelt(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["ppo.py", "--total_steps", "5", "--run_dir", str(tmp_path)])
    folder.open_run(tmp_path, DESCRIPTION | {"command": folder.command()}, resume=False)
    for flags in (["--run_dir", str(tmp_path)], [f"--run_dir={tmp_path}"]):
        args = parse(monkeypatch, *flags, "--resume")
        assert args.total_steps == 5 and args.run_dir == tmp_path
    with pytest.raises(ValueError, match="--resume needs --run-dir"):
        parse(monkeypatch, "--resume")


# --- Run directories ---


def test_a_directory_that_holds_only_what_a_failed_start_left_is_new(tmp_path):
    folder.open_run(tmp_path, DESCRIPTION, resume=False)
    folder.open_run(tmp_path, DESCRIPTION | {"env": "hopper"}, resume=False)
    assert runs.read_config(tmp_path)["env"] == "hopper"
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="exists: add --resume"):
        folder.open_run(tmp_path, DESCRIPTION, resume=False)


def test_runs_that_begin_in_the_same_second_get_directories_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.time, "strftime", lambda _: "now")
    made = [script.new_run_dir("ppo_brax/ant") for _ in range(3)]
    assert [str(path) for path in made] == [
        f"runs/ppo_brax_ant_now{end}" for end in ("", "-2", "-3")
    ]
    assert all(path.is_dir() for path in made)


# --- Flags out of range ---


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--total-steps", "inf"), "total_steps=inf: must be a whole number"),
        (("--total-steps", "nan"), "total_steps=nan: must be a whole number"),
        (("--total-steps", "10.5"), "total_steps=10.5: must be a whole number"),
        (("--total-steps", "0"), "total_steps=0.0: must be a whole number, at least 1"),
        (("--wandb", ""), "wandb='': must be the name of a project"),
        (("--devices", "-1"), "devices=-1: must be at least 0"),
        (("--seed", str(2**40)), f"seed={2**40}: must be 0 .. 4294967295"),
        (("--profile", __file__), f"profile={__file__}: exists, and is not a folder"),
    ],
)
def test_a_flag_out_of_range_is_named_before_jax_starts(monkeypatch, flags, message):
    args = parse(monkeypatch, *flags)
    monkeypatch.setattr(script.runtime, "setup", lambda *_: pytest.fail("it has started"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        script.prepare(args, 1)


@pytest.mark.parametrize("text", ["0x10", "many", ""])
def test_steps_that_are_no_number_are_refused_by_their_flag(monkeypatch, text):
    monkeypatch.setattr(sys, "argv", ["ppo.py", f"--total-steps={text}"])
    with pytest.raises(ValueError, match=f"^--total-steps='{text}': must be a number$"):
        script.parse(train.defaults, learner="ppo", env="hopper", data=None, total_steps=None)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--rl-steps 0", "rl_steps=0: must be a whole number, at least 1"),
        ("--bc-updates 0", "bc_updates=0: must be a whole number, at least 1"),
        ("--noise inf", "noise=inf: must be finite"),
        ("--scale 0", "scale=0.0: must be above 0"),
        ("--episodes 0", "episodes=0: must be a whole number, at least 1"),
        ("--demos 0", "demos=0: must be a whole number, at least 1"),
        (f"--bc-updates {10**30}", f"bc_updates={10**30}: must be a whole number, at most"),
        ("--seed -1", "seed=-1: must be 0 .. "),
        ("--noise -1", "noise=-1.0: must be at least 0"),
        ("--env pendulum_swingup", "this task has no scripted expert"),
    ],
)
def test_a_road_that_could_not_end_does_not_begin(monkeypatch, tmp_path, flags, message):
    run_dir = tmp_path / "run"
    monkeypatch.setattr(refine.runtime, "setup", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["refine.py", *flags.split(), "--run-dir", str(run_dir)])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        refine.main()
    assert not run_dir.exists()


@pytest.mark.parametrize("success, stops", [([0.0], True), ([None], True), ([0.01], False)])
def test_a_road_stops_with_advice_where_its_clone_never_succeeds(tmp_path, success, stops):
    with log.Logger(tmp_path, 8, quiet=True, tensorboard=False) as out:
        for step, value in ((0, [1.0]), (8, success)):
            out.log("eval", step, 1.0, 1.0, {"success": np.array(value, float)})
    if not stops:
        return refine.check_base(tmp_path)
    with pytest.raises(ValueError, match="ends at success 0.000 of 128 episodes, .*--demos"):
        refine.check_base(tmp_path)


def test_a_stage_that_ends_at_0_says_so_with_advice(monkeypatch, tmp_path):
    rows, ends = np.zeros((4, 1)), np.ones(4, bool)
    fails = {"success": np.zeros(4)}
    zero = data.from_arrays(rows, rows, rows[:, 0], rows, ends, ~ends, extras=fails)
    monkeypatch.setattr(refine.recording, "record", lambda *_, **__: zero)
    monkeypatch.setattr(refine, "scripted", lambda *_: None)
    with pytest.raises(ValueError, match="demonstrations end at success 0.000 of 50 .*--noise 0.3"):
        refine.demonstrate(refine.Args(), None, tmp_path / "demos.npz")
    refine.check_refined(np.array([0.0, 1.0]), tmp_path)
    with pytest.raises(ValueError, match="refinement ends at success 0.000 of 2 .*smaller --scale"):
        refine.check_refined(np.zeros(2), tmp_path)


@pytest.mark.parametrize("flag", ["cut_at", "terminals_are_timeouts"])
def test_a_run_goes_on_only_with_its_data_read_in_the_same_way(tmp_path, flag):
    old = DESCRIPTION["train"]
    plain = {"weighted": 0.0, "cut_at": 0, "terminals_are_timeouts": False}
    folder.open_run(tmp_path, DESCRIPTION, resume=False)  # before the flags were recorded
    folder.open_run(tmp_path, DESCRIPTION | {"train": old | {flag: plain[flag]}}, resume=True)
    other = DESCRIPTION | {"train": old | {flag: type(plain[flag])(5)}}
    with pytest.raises(
        ValueError, match=f"its {flag} is {plain[flag]}, not {other['train'][flag]}"
    ):
        folder.open_run(tmp_path, other, resume=True)
    assert {flag, "weighted"} <= set(train.READ_AS) and hasattr(train.DataArgs, flag)


@pytest.mark.parametrize("flag", ["--learning-rate", "--gamma", "--entropy-coef"])
def test_a_setting_that_is_swept_is_not_given_as_one_value_too(monkeypatch, flag):
    monkeypatch.setattr(sys, "argv", ["sweep.py", f"{flag}s", "0.1", "0.2", flag, "0.5"])
    with pytest.raises(ValueError, match=f"^{flag}: this is swept, add its value to {flag}s"):
        sweep.main()


@pytest.mark.parametrize("flags", ["--medium 1.5", "--medium nan", "--episodes 0"])
def test_a_record_out_of_range_is_named(monkeypatch, tmp_path, flags):
    monkeypatch.setattr(sys, "argv", ["record.py", str(tmp_path), *flags.split()])
    with pytest.raises(ValueError, match=f"^{flags.split()[0][2:]}=.*: must be"):
        record.main()


@pytest.mark.parametrize(
    "flags, steps",
    [((1e6, 8192), 1_007_616), ((8192.0, 8192), 8192), ((1, 100), 100), ((8193, 8192), 16384)],
)
def test_steps_are_rounded_up_to_whole_iterations_and_the_run_says_so(flags, steps):
    rounded, said = plan.rounded_up(*flags)
    assert rounded == steps and isinstance(rounded, int)
    assert said.startswith(f"{steps:,} env steps")
    assert ("rounded up to whole iterations of" in said) == (flags[0] != steps)


def test_an_option_nested_too_deeply_is_one_line():
    with pytest.raises(ValueError, match="^env_options: ----.* is nested too deeply$"):
        script.numbers({"gravity": "-" * 100_000 + "1"})


@pytest.mark.parametrize("text", ["1e400", "-1e999"])
def test_an_option_larger_than_any_number_is_not_infinity(text):
    with pytest.raises(
        ValueError, match=f"^env_options: gravity={text}: is larger than any number"
    ):
        script.numbers({"gravity": text})


def test_demonstrations_are_of_the_task_that_a_road_refines(monkeypatch):
    experts = [x for x in envs.names() if x.startswith("point_maze")]
    assert {"assembly", "push_t"} <= set(presets.REFINE)
    for task in (*presets.REFINE, *experts):
        recorded, road = demos.defaults(task), refine.defaults(task)
        assert recorded.env_options == road.env_options
        assert (recorded.episodes, recorded.noise) == (road.demos, road.noise)
        assert envs.make(task, **script.numbers(demos.defaults(task).env_options))


def recorded_of(task, path, **options):
    """A data file that says it was recorded in `task`."""
    rows, ends = np.zeros((4, 2)), np.array([False, False, False, True])
    about = {"env": task, "env_overrides": options}
    made = data.from_arrays(rows, rows, rows[:, 0], rows, ends, ends & ~ends, metadata=about)
    data_files.save(made, path)
    return str(path)


def test_a_clone_has_the_settings_of_the_road_that_refines_it(monkeypatch, tmp_path):
    for number, task in enumerate((*presets.REFINE, "point_maze_open", "hopper")):
        recorded, road = demos.defaults(task), refine.defaults(task)
        file = recorded_of(task, tmp_path / f"{number}.npz", **recorded.env_options)
        for flags in (["--env", task], ["--data", file], ["--env", task, "--data", file]):
            monkeypatch.setattr(sys, "argv", ["imitate.py", *flags])
            args = script.parse(train.defaults, learner="imitation", env="", data=None)
            assert (args.config, args.total_steps) == (road.base, road.bc_updates), task
            assert args.env_options == road.env_options, task


def test_a_clone_is_measured_in_the_task_as_it_was_recorded(monkeypatch, tmp_path):
    file = recorded_of("peg_insertion", tmp_path / "plain.npz")
    assert refine.defaults("peg_insertion").env_options
    monkeypatch.setattr(sys, "argv", ["imitate.py", "--data", file])
    args = script.parse(train.defaults, learner="imitation", env="", data=None)
    script.env_of_data(args, data_files.load(file))
    assert (args.env, args.env_options) == ("peg_insertion", {})


@pytest.mark.parametrize("name", presets.names())
def test_every_learner_has_flags_by_its_name(name):
    args = train.defaults(name, "hopper")
    learner = presets.VARIANTS.get(name, name)
    assert type(args.config) is registry.module(learner).Config
    assert hasattr(args, "weighted") == (registry.takes(learner) == "dataset")
    assert hasattr(args, "data") == bool(registry.takes(learner))
    assert args.total_steps >= 5_000


def test_a_learner_that_extends_another_takes_what_its_preset_says():
    preset = presets.SAC["half_cheetah"]
    config = presets.of("dsac", "half_cheetah").config
    assert config.critic_lr == preset.config.critic_lr and config.num_envs == 32
    assert presets.of("dsac", "half_cheetah").env == preset.env
    assert presets.of("td3_bc", "half_cheetah").total_steps == 100_000


def test_a_learner_that_a_script_does_not_know_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sac.py", "--learner", "ppo"])
    with pytest.raises(
        ValueError, match="learner='ppo': allowed are sac, sac_320k, fast_sac, dsac, mdpo, pmoe"
    ):
        sac.main()
    monkeypatch.setattr(sys, "argv", ["train.py", "--learner", "reinforce"])
    with pytest.raises(ValueError, match="learner='reinforce': allowed are bc, "):
        train.main()
    monkeypatch.setattr(sys, "argv", ["train.py", "--learner", "iql"])
    with pytest.raises(ValueError, match="^iql learns from data: add --data FILE"):
        train.main()


def test_a_run_that_got_worse_has_no_medium(monkeypatch, tmp_path):
    evals = [{"kind": "eval", "env_steps": 10 * i, "return": [3.0 - i]} for i in range(3)]
    monkeypatch.setattr(record.log, "read", lambda _: evals)
    with pytest.raises(ValueError, match="no evaluation reached 2.2, .* from 3.0 to 1.0; choose"):
        record.medium_step(tmp_path, 0.4, 0)


def test_help_says_what_every_kind_of_flag_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sac.py", "--help"])
    with pytest.raises(SystemExit):
        sac.main()
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())  # out of its box
    for text in (
        "runs that train side by side",
        "one of jaxrl/learners/registry.py",
        "random steps before",
    ):
        assert text in said


# --- The final report ---


@pytest.fixture
def report(monkeypatch, capsys):
    """Prints the table of these values of the last evaluation; returns its text and the seed filmed."""
    filmed = []
    monkeypatch.setattr(script.plot, "learning_curve", lambda *_, **__: None)
    film = lambda env, policy, *_, **__: filmed.append(int(policy))
    monkeypatch.setattr(script.play, "record_video", film)
    learner = SimpleNamespace(unit="env steps", env=None, policy=lambda state: state["seed"])

    def run(**measured):
        values = {name: np.array(value, float) for name, value in measured.items()}
        state = {"seed": np.arange(len(values["return"]))}
        last = {"env_steps": 8} | values
        script.report(Path("run"), learner, Result(state, [last], 8, 1.0, 1.0, 1, False))
        return capsys.readouterr().out, filmed[-1]

    return run


def test_rates_have_three_digits_and_returns_one(report):
    said, _ = report(**{"return": [953.04, 953.04], "success": [0.953, 0.953]})
    rows = {line.split()[1]: line for line in said.splitlines() if "│" in line}
    assert "0.953" in rows["success"] and "953.0 " in rows["return"]


def test_a_dead_seed_is_undefined_and_not_the_best(report):
    """Where rewards are negative, the 0 of a dead seed would look perfect."""
    said, filmed = report(**{"return": [-30.0, float("nan"), -20.0, float("nan")]})
    assert "return, 2 undefined" in said and "-25.0" in said and filmed == 2
    said, _ = report(**{"return": [float("nan")] * 2})
    assert "undefined: it broke" in said


# --- Options of the environment ---


@pytest.mark.parametrize(
    "flags, physics",
    [("", "accurate"), ("--env-options physics fast", "fast"), ("--env half_cheetah", "fast")],
)
def test_options_that_data_were_recorded_with_go_on_top_of_the_presets(
    monkeypatch, tmp_path, flags, physics
):
    """The preset of both environments says fast."""
    arrays = [np.zeros((2, n)) for n in (11, 3)] + [np.zeros(2), np.zeros((2, 11))]
    about = {"env": "hopper", "env_overrides": {"physics": "accurate"}}
    ends = np.array([False, True])
    dataset = data.from_arrays(*arrays, ends, ends, metadata=about)
    data_files.save(dataset, tmp_path / "data.npz")
    given = ["rlpd.py", "--data", str(tmp_path / "data.npz"), *flags.split()]
    monkeypatch.setattr(sys, "argv", given)
    args = script.parse(train.defaults, learner="rlpd", env="", data=None)
    script.env_of_data(args, dataset)
    assert args.env_options["physics"] == physics


def of_data(**metadata):
    """Flags of a script, and a data set with these metadata."""
    ends = np.array([False, True])
    arrays = [np.zeros((2, n)) for n in (11, 3)] + [np.zeros(2), np.zeros((2, 11))]
    args = script.Args(env="", env_options={}, total_steps=1)
    args.data = Path("data/x.npz")
    return args, data.from_arrays(*arrays, ends, ends, metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "does not name its environment: add --env"),
        ({"env": "hoper"}, ": metadata env='hoper': no such task; add --env"),
        # `envs.make` would import the module and call the function.
        ({"env": "os:abort"}, ": metadata env='os:abort' is code, which a data set cannot choose"),
    ],
)
def test_an_environment_that_data_cannot_name_is_one_line_with_the_file(metadata, message):
    args, dataset = of_data(**metadata)
    with pytest.raises(ValueError, match=f"^data/x.npz ?{message}"):
        script.env_of_data(args, dataset)
    args.env = "hopper"
    script.env_of_data(args, dataset)
    assert args.env == "hopper"


@pytest.mark.parametrize("learner", ["rlpd", "imitation"])
def test_a_data_set_chooses_no_code_for_any_learner(monkeypatch, tmp_path, learner):
    file = recorded_of("os:abort", tmp_path / "data.npz", gravity=1.0)
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", file])
    args = script.parse(train.defaults, learner=learner, env="", data=None)
    with pytest.raises(ValueError, match="metadata env='os:abort' is code, .*cannot choose"):
        script.env_of_data(args, data_files.load(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wight": 1.0}, "has no option 'wight'"),
        ({"max_start_angle": "much"}, "max_start_angle='much'"),
    ],
)
@pytest.mark.parametrize("in_defaults", [False, True])  # as of learners with presets
def test_an_option_that_the_environment_of_data_does_not_take_names_the_file(
    monkeypatch, options, message, in_defaults
):
    args, dataset = of_data(env="pendulum_swingup", env_overrides=options)
    if in_defaults:
        args.env_options = script.recorded_options(dataset.metadata, "pendulum_swingup")
    script.env_of_data(args, dataset)
    monkeypatch.setattr(script.runtime, "setup", lambda *_, **__: None)
    with pytest.raises(ValueError, match=f"^data/x.npz: metadata env_overrides: .*{message}"):
        script.prepare(args, 1)


def test_option_values_are_read_as_python_would():
    given = {"a": "0.5", "b": "true", "c": "None", "d": "(1, 2)", "e": "fast", "f": "3"}
    expected = {"a": 0.5, "b": True, "c": None, "d": (1, 2), "e": "fast", "f": 3}
    assert script.numbers(given) == expected
