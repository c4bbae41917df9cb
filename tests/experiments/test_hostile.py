"""Hostile inputs of every kind are refused in one line or harmless; `bench/fuzz.py --hostile` tries more."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from experiments.bench import forks, hostile
from experiments.bench.hostile import (
    calls,
    checkpoints,
    commands,
    files,
    links,
    options,
    surroundings,
)


def outcomes(kind, root, numbers) -> Counter:
    """What became of the inputs of these numbers. Raises for the first that is not as it should be."""
    draw = kind.prepare(root)
    return Counter(draw(number).outcome() for number in numbers)


def test_importing_the_kinds_starts_no_device():
    """`fuzz.py` imports them before it forks, and a fork waits for ever for the locks of threads."""
    folder = Path(hostile.__file__).parent
    names = [p.stem for p in folder.glob("*.py") if p.stem != "__init__"]
    code = "import importlib\nfrom jax._src import xla_bridge\n"
    code += (
        f"for name in {names}:\n    importlib.import_module('experiments.bench.hostile.' + name)\n"
    )
    code += "print(xla_bridge.backends_are_initialized())"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=folder.parents[2], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# --- Files of another type ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutated")
    return root, files.write(root)


def test_the_files_are_read_as_they_were_written(folder):
    root, reads = folder
    for file in reads:
        for reader in file.readers:
            reader(root / file.path)


def test_no_mutation_is_a_traceback_or_accepted_nonsense(folder):
    root, reads = folder
    became = Counter()
    for number in range(100):
        became[files.case(files.draw(number, root, reads), root).outcome()] += 1
    assert became["refused"] > 50 and became["accepted"] > 5


def test_nonsense_that_a_reader_lets_through_counts_against_us(folder):
    root, reads = folder
    file = files.Read("run/config.json", (lambda path: None,))
    mutation = files.Mutation(file, "all of it", b"{}", nonsense=True)
    before = (root / file.path).read_bytes()
    with pytest.raises(RuntimeError, match="nonsense was accepted"):
        files.outcome_of(mutation, root)
    assert (root / file.path).read_bytes() == before


@pytest.mark.parametrize(
    "text, names",
    [
        ("run/config.json: seeds=None: must be a whole number", {"config.json"}),
        ("num_evals=100: must be at most 10", {"num_evals"}),
        ("cannot read a/b-c.npz.", {"b-c.npz"}),
    ],
)
def test_a_refusal_is_one_line_that_names_what_is_wrong(text, names):
    hostile.check_line(text, names)
    for bad in (text + "\nand more", text.replace(*names, "it")):
        with pytest.raises(RuntimeError, match="not one line that names"):
            hostile.check_line(bad, names)


# --- HDF5 that leads elsewhere ---


def test_a_data_set_that_leads_out_of_its_file_is_refused_by_name(tmp_path):
    became = outcomes(links, tmp_path, range(80))
    assert became["refused"] > 50 and became["accepted"] > 3


def test_bytes_of_another_file_that_are_read_count_against_us(tmp_path, monkeypatch):
    draw = links.prepare(tmp_path)
    monkeypatch.setattr(links.data_files, "datasets_of", trusting)
    number = next(
        i for i in range(999) if draw(i).what.startswith("rewards is an external link (o")
    )
    with pytest.raises(AssertionError, match="another file was read"):
        draw(number).outcome()


def trusting(file):
    """Every array, wherever it lies."""
    return {name: file[name] for name in links.ARRAYS}


# --- Folders of checkpoints ---


def test_the_newest_whole_checkpoint_is_used_whatever_lies_beside_it(tmp_path):
    became = outcomes(checkpoints, tmp_path, range(30))
    assert became["the newest"] > 15 and became["the one before"] > 3


def test_a_checkpoint_that_is_passed_over_counts_against_us(tmp_path, monkeypatch):
    draw = checkpoints.prepare(tmp_path)
    newest = checkpoints.checkpoint.restore_newest

    def careless(folder, like):
        step, tree, complaints = newest(folder, like)
        return 8, checkpoints.checkpoint.restore(folder, 8, like), complaints

    monkeypatch.setattr(checkpoints.checkpoint, "restore_newest", careless)
    number = next(i for i in range(99) if "000000000008" not in draw(i).what)
    with pytest.raises(RuntimeError, match="was used, though 16 was whole"):
        draw(number).outcome()


# --- Calls with arguments of another type ---


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    return {call.name: call for call in calls.made(tmp_path_factory.mktemp("called"))}


def test_no_call_accepts_an_argument_of_another_type(called):
    became = Counter(calls.draw(number, list(called.values())).outcome() for number in range(150))
    assert became["refused"] > 100 and became["accepted"] > 5


@pytest.mark.parametrize(
    "name, argument, value",
    [
        ("ppo.Config", "learning_rate", "3e-4"),
        ("sac.Config", "gamma", [0.9]),
        ("train", "run_dir", ""),
        ("train", "profile", 5),
        ("train", "seeds", True),
        ("train", "seeds", "2"),
        ("train", "hooks", 5),
        ("train", "stop_at_return", float("nan")),
        ("renderer", "width", 0),
        ("renderer", "height", 10**6),
        ("vectorize", "num_envs", 2.5),
        ("scripted", "delay", 10**9),
        ("record", "num_episodes", "2"),
        ("load", "cut_at", 1e39),
        ("residual", "scale", float("inf")),
    ],
)
def test_misuse_is_refused_in_one_line(called, name, argument, value):
    assert calls.case(called[name], argument, value).outcome() == "refused"


def test_an_environment_that_is_vectorised_already_is_refused_wherever_one_is_expected(called):
    given = [call for call in called.values() if "env" in call.good]
    assert len(given) >= 8
    for call in given:
        several = calls.vectorize(call.good["env"], 2)
        with pytest.raises(ValueError, match="^env: VecEnv is vectorised already"):
            call.function(**call.good | {"env": several})


def test_an_argument_that_is_accepted_against_its_kind_counts_against_us(called):
    careless = calls.Call("careless", lambda n: n, {"n": 2})
    with pytest.raises(RuntimeError, match="nonsense was accepted"):
        calls.case(careless, "n", "two").outcome()
    assert calls.case(careless, "n", 3).outcome() == "accepted"


# --- Options of environments ---


def test_an_option_beyond_what_a_number_holds_is_refused_by_name(tmp_path):
    became = outcomes(options, tmp_path, range(60))
    assert became["refused"] > 40 and became["accepted"] > 3


@pytest.mark.parametrize(
    "text, nonsense",
    [
        ("1e39", True),
        ("1" * 400, True),
        ("1e400", True),
        ("3e9", False),
        ("nan", False),  # a word, which only options of text take
        ("1e20", False),
        ("nonsense", False),
    ],
)
def test_a_number_that_float32_does_not_hold_is_nonsense(text, nonsense):
    assert options.is_nonsense(text) == nonsense


# --- Flags and surroundings of commands ---


def test_a_flag_takes_what_is_in_its_range():
    flag = commands.Flag("x", "seeds", int, 1, 8)
    assert flag.takes("1") and flag.takes("8")
    assert not any(flag.takes(text) for text in ("0", "9", "1e8", "nan", "", "2.5", "9" * 400))


def ended(code, errors):
    return subprocess.CompletedProcess([], code, "", errors)


@pytest.mark.parametrize(
    "code, errors, must, message",
    [
        (1, "Traceback (most recent call last):\nValueError: x", False, "traceback: ValueError: x"),
        (0, "Exception ignored in: <x>", False, "traceback"),
        (0, "", True, "nonsense was accepted"),
        (-6, "what(): bad", False, "exit code -6"),
        (2, "error: seeds=0: bad\nand more", True, "not one line"),
        (2, "usage: ppo.py", True, "not one line"),
        (2, "error: gamma=2: bad", True, "not one line that names seeds"),
    ],
)
def test_a_command_that_ends_otherwise_counts_against_us(code, errors, must, message):
    with pytest.raises(RuntimeError, match=message.replace("(", r"\(")):
        commands.check(ended(code, errors), {"seeds"}, must)


def test_a_command_that_works_or_is_refused_in_one_line_does_not():
    assert commands.check(ended(0, "warning: slow"), {"seeds"}, False) == "ran"
    assert commands.check(ended(2, "error: --seeds='x': bad\n"), {"seeds"}, True) == "refused"


@pytest.mark.slow
def test_flags_beyond_their_range_are_refused_by_name(tmp_path):
    assert outcomes(commands, tmp_path, range(6)) == {"refused": 6}


@pytest.mark.slow
@pytest.mark.parametrize(
    "around, became",
    [
        (surroundings.Surrounding(given=forks.Given(closed=(1,))), "ran"),
        (surroundings.Surrounding(given=forks.Given(out="/dev/full"), ends=""), "refused"),
        (surroundings.Surrounding(given=forks.Given(out="|"), ends=""), "refused"),
        (
            surroundings.Surrounding(given=forks.Given(limits={"RLIMIT_NOFILE": 20}), ends=""),
            "refused",
        ),
        (surroundings.Surrounding(surroundings.POSIX, folder="läuft ü"), "ran"),
    ],
)
def test_a_command_works_in_its_surroundings_or_is_refused(tmp_path, around, became):
    run, _ = hostile.small_run(tmp_path)
    assert surroundings.case("plot", around, tmp_path, run).outcome() == became


def test_a_command_that_stops_for_harmless_surroundings_counts_against_us(tmp_path, monkeypatch):
    refuse = lambda *_: ended(2, "error: TERM='dumb': bad")
    monkeypatch.setattr(surroundings, "run_command", refuse)
    (around,) = surroundings.of("TERM", "dumb")
    with pytest.raises(RuntimeError, match="^refused: error: TERM"):
        surroundings.case("plot", around, tmp_path, tmp_path).outcome()
    (around,) = surroundings.of("TERM", "dumb", ends="")
    assert surroundings.case("plot", around, tmp_path, tmp_path).outcome() == "refused"
