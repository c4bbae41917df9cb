import json
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import types

import numpy as np
import pytest

from jaxrl.report import log, terminal

NAN = float("nan")


def logger(run_dir, total_steps=1000, **options):
    return log.Logger(run_dir, total_steps, **({"tensorboard": False, "quiet": True} | options))


def write(run_dir, *steps, **options):
    with logger(run_dir, **options) as out:
        for step in steps:
            out.log("train", step, step / 10, 100.0, {"reward": np.array([step / 2])})


# --- metrics.jsonl ---


def test_a_line_holds_clock_and_nested_metrics_with_null_for_what_is_not_finite(tmp_path):
    value = np.array([[0.1, NAN], [np.inf, -3.0]], np.float32)
    with logger(tmp_path, seeds=2, configs=2) as out:
        out.log("eval", 512, 1.5, 341.3, {"return": value, "done": np.ones((2, 2), bool)})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "kind": "eval",
        "env_steps": 512,
        "seconds": 1.5,
        "steps_per_second": 341.3,
        "return": [[0.1, None], [None, -3.0]],
        "done": [[1, 1], [1, 1]],
    }


def test_numbers_survive_the_file_exactly(tmp_path):
    value = np.random.default_rng(0).normal(size=50).astype(np.float32)
    with logger(tmp_path, seeds=50) as out:
        out.log("train", 1, 0.0, 0.0, {"x": value})
    (record,) = log.read(tmp_path)
    assert (np.array(record["x"], np.float32) == value).all()


def test_a_line_is_on_disk_when_log_returns(tmp_path):
    with logger(tmp_path) as out:
        for step in (1, 2):
            out.log("train", step, 0.0, 0.0, {"x": np.zeros(1)})
            assert log.read(tmp_path)[-1]["env_steps"] == step


def test_an_undefined_rate_is_null_too(tmp_path):
    with logger(tmp_path) as out:
        out.log("train", 1, 0.0, NAN, {})
    assert log.read(tmp_path)[0]["steps_per_second"] is None


def test_a_metric_of_another_shape_is_named(tmp_path):
    with logger(tmp_path, seeds=3) as out, pytest.raises(ValueError, match=r"'kl' .*\(2,\)"):
        out.log("train", 1, 0.0, 0.0, {"kl": np.zeros(2)})
    assert log.read(tmp_path) == []


def test_without_a_run_dir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None, 1, 2, tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_off_by_a_kill_is_ignored(tmp_path):
    write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    for keep in (1, 20, len(path.read_bytes().splitlines()[1])):  # the last: only "\n" is missing
        lines = path.read_bytes().splitlines(keepends=True)
        damaged = tmp_path / f"run_{keep}"
        damaged.mkdir()
        (damaged / "metrics.jsonl").write_bytes(lines[0] + lines[1][:keep])
        assert [r["env_steps"] for r in log.read(damaged)] == [1]


@pytest.mark.parametrize("bad", [b"{", b"[1, 2]", b"7", b'{"kind": "train"}', b"", b"\xff\xfe"])
def test_a_damaged_line_within_is_an_error_that_names_it(tmp_path, bad):
    write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, bad, second]) + b"\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 2") as caught:
        log.read(tmp_path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\n".join([first, bad, second[:9]]))
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        log.read(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "test"}, "kind='test': must be one of 'train' or 'eval'"),
        ({"env_steps": 1.0}, "env_steps=1.0: must be a whole number"),
        ({"env_steps": True}, "env_steps=True: must be a whole number"),
        ({"env_steps": -1}, "env_steps=-1: must be at least 0"),
        ({"seconds": "1"}, "seconds='1': must be a number"),
        ({"return": {}}, "return={}: must be a list"),
        ({"return": 5}, "return=5: must be a list"),
        ({"return": []}, "return=[]: must be a list that is not empty"),
        ({"return": ["a"]}, "return.0='a': must be a number"),
        ({"return": [True]}, "return.0=True: must be a number"),
        ({"return": [1.0, 2.0]}, "return has shape (2,): must be (1,) as before"),
        ({"return": [[1.0], [1.0, 2.0]]}, "return has shape (2, -1): must be"),
    ],
)
def test_a_record_of_the_wrong_types_names_the_line_and_the_entry(tmp_path, change, message):
    good = {"kind": "eval", "env_steps": 1, "seconds": 0.0, "steps_per_second": None}
    good |= {"return": [None], "length": [3]}
    lines = [json.dumps(x) + "\n" for x in (good, good | change)]
    (tmp_path / "metrics.jsonl").write_text(lines[0])
    assert log.read(tmp_path) == [good]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(ValueError) as caught:
        log.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'metrics.jsonl'}, line 2: {message}")


def test_a_run_that_has_logged_nothing_reads_as_no_records(tmp_path):
    assert log.read(tmp_path) == []
    (tmp_path / "metrics.jsonl").touch()
    assert log.read(tmp_path) == []


def test_truncate_keeps_what_is_not_beyond_the_step(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "tra')
    log.truncate(tmp_path, 2)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_truncate_is_atomic(tmp_path, monkeypatch):
    write(tmp_path, 1, 2)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.truncate(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("written", [(10, 20), (10, 20, 30)])
def test_a_resumed_run_continues_where_its_checkpoint_is(tmp_path, written):
    write(tmp_path, *written)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "env_st')
    write(tmp_path, 30, 40, start_steps=20)
    assert [r["env_steps"] for r in log.read(tmp_path)] == [10, 20, 30, 40]


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, tensorboard):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match=r"cannot write .*file/run.*: Not a directory") as caught:
        logger(tmp_path / "file" / "run", tensorboard=tensorboard)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_disk_that_fills_up_is_one_clear_line_and_leaves_a_readable_file(tmp_path, tensorboard):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # stands in for a full disk
    message = r"cannot write .*(metrics.jsonl|tensorboard): File too large"
    with logger(tmp_path, tensorboard=tensorboard) as out:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(RuntimeError, match=message) as caught:
                for step in range(100):
                    out.log("train", step, 0.0, 0.0, {"x": np.zeros(1)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    steps = [r["env_steps"] for r in log.read(tmp_path)]
    assert steps and steps == list(range(len(steps)))


# --- TensorBoard and W&B ---


def events(run_dir):
    """Every event in the files of a run, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((run_dir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def scalars(run_dir):
    return {
        (v.tag, e.step): v.simple_value for e in events(run_dir) for v in e.summary.value
    }  # fmt: skip


def test_tensorboard_has_the_mean_and_each_seed(tmp_path):
    with logger(tmp_path, tensorboard=True, seeds=3) as out:
        out.log("eval", 64, 2.0, 32.0, {"return": np.array([1.0, 3.0, NAN])})
    assert scalars(tmp_path) == {
        ("eval/seconds", 64): 2.0,
        ("eval/steps_per_second", 64): 32.0,
        ("eval/return", 64): 2.0,
        ("eval/return/seed_0", 64): 1.0,
        ("eval/return/seed_1", 64): 3.0,
    }


def test_tensorboard_of_a_sweep_has_each_config_and_of_many_seeds_the_mean_only(tmp_path):
    with logger(tmp_path / "sweep", tensorboard=True, seeds=2, configs=2) as out:
        out.log("train", 1, 0.0, 0.0, {"x": np.array([[1.0, 3.0], [5.0, 7.0]])})
    with logger(tmp_path / "many", tensorboard=True, seeds=17) as out:
        out.log("train", 1, 0.0, 0.0, {"x": np.ones(17)})
    values = lambda run: {k[0]: v for k, v in scalars(tmp_path / run).items() if "/x" in k[0]}
    assert values("sweep") == {"train/x": 4.0, "train/x/config_0": 2.0, "train/x/config_1": 6.0}
    assert values("many") == {"train/x": 1.0}


def test_tensorboard_forgets_what_a_resumed_run_repeats(tmp_path):
    write(tmp_path, 10, 20, tensorboard=True)
    write(tmp_path, 20, start_steps=10, tensorboard=True)
    starts = [e.step for e in events(tmp_path) if e.session_log.status == e.session_log.START]
    assert starts == [11]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # nothing overwritten


def test_tensorboard_forgets_an_attempt_that_left_no_checkpoint(tmp_path):
    write(tmp_path, 10, 20, tensorboard=True)
    write(tmp_path, 10, start_steps=0, tensorboard=True)
    starts = [e.step for e in events(tmp_path) if e.session_log.status == e.session_log.START]
    assert starts == [0]


def test_missing_wandb_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RuntimeError, match=r"pip install jaxrl\[wandb\]"):
        logger(tmp_path, wandb="project")
    assert not list(tmp_path.iterdir())  # so the same directory can be used without it


def test_wandb_gets_the_scalars_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    inits, logged = [], []
    run = types.SimpleNamespace(
        define_metric=lambda *_, **__: None, log=logged.append, finish=lambda: None
    )
    fake = types.SimpleNamespace(init=lambda **options: inits.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write(tmp_path, 10, wandb="project", config={"gamma": 0.9})
    write(tmp_path, 20, wandb="project", start_steps=10)
    assert [x["env_steps"] for x in logged] == [10, 20]
    assert logged[1]["train/reward"] == 10.0
    assert inits[0]["id"] == inits[1]["id"]
    assert inits[0]["project"] == "project" and inits[0]["config"] == {"gamma": 0.9}


def test_wandb_that_fails_is_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise OSError("no network\nat all")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(RuntimeError, match=r"^wandb='project': no network$"):
        logger(tmp_path, wandb="project")


def test_a_sink_of_the_users_gets_every_point_and_is_closed(tmp_path):
    points, closed = [], []
    sink = types.SimpleNamespace(
        log=lambda *point: points.append(point), close=lambda: closed.append(True)
    )
    with log.Logger(tmp_path, 8, seeds=2, quiet=True, tensorboard=False, sinks=[sink]) as out:
        out.log("train", 4, 1.0, 2.0, {"loss": np.array([NAN, NAN])})
        out.log("eval", 8, 1.5, 2.0, {"return": np.array([1.0, 3.0])})
    assert [point[:2] for point in points] == [("train", 4), ("eval", 8)]
    assert "train/loss" not in points[0][2]  # undefined
    scalars = points[1][2]
    assert (scalars["eval/return"], scalars["eval/return/seed_1"]) == (2.0, 3.0)
    assert scalars["eval/seconds"] == 1.5 and closed == [True]


def test_what_is_no_sink_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="^sinks: 'mlflow' must have the methods of jaxrl.report"):
        logger(tmp_path, sinks=["mlflow"])
    assert not list(tmp_path.iterdir())


# --- The terminal ---


def test_where_there_is_no_terminal_plain_lines_come_about_every_tenth(capsys):
    with log.Logger(None, 1000, seeds=2) as out:
        out.note("compiled in 12.3 s")
        for step in range(1, 1001):
            value = np.array([step, NAN if step < 5 else 3.0 * step])
            out.log("train", step, step / 10, 2.5e6, {"episode_return": value})
        out.log("eval", 1000, 100.0, 2.5e6, {"return": np.array([7.0, 9.0])})
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "compiled in 12.3 s"
    assert lines[-1] == "100%  eval 8 (7..9)"
    shares = [line[:4] for line in lines[1:-1]]
    assert shares == ["  0%"] + [f"{10 * i:3}%" for i in range(1, 11)]
    pattern = r" 20%  200/1k steps x 2  2.5M/s  eta \d:\d\d  return 400 \(200..600\)"
    assert re.fullmatch(pattern, lines[3])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed)


def test_the_last_line_says_how_far_a_stopped_run_came(capsys):
    with log.Logger(None, 1000) as out:
        for step in (100, 120, 130):
            out.log("train", step, 1.0, 1.0, {})
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(" 10%") and last.startswith(" 13%")


def test_a_slow_run_prints_every_half_minute(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    with log.Logger(None, 10**9) as out:
        for step in range(1, 101):
            now[0] += 10.0
            out.log("train", step, now[0], 0.1, {"episode_return": np.array([NAN])})
    assert len(capsys.readouterr().out.splitlines()) == 34


def test_the_eta_counts_wall_clock_since_the_first_point(capsys, monkeypatch):
    now = [500.0]  # compilation
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    with log.Logger(None, 1000) as out:
        out.log("train", 100, 1.0, 1e9, {})
        now[0] += 30.0
        out.log("train", 400, 2.0, 1e9, {})  # 10 steps/s, whatever the device says
    assert "eta 1:00" in capsys.readouterr().out.splitlines()[-1]


def test_quiet_prints_nothing(capsys):
    with log.Logger(None, 10, quiet=True) as out:
        out.note("text")
        out.log("train", 10, 0.0, 0.0, {"x": np.zeros(1)})
    assert capsys.readouterr().out == ""


def test_on_a_terminal_a_live_bar_shows_progress_and_scores():
    script = """
import numpy as np
from jaxrl.report.log import Logger
with Logger(None, 2_000_000, seeds=3, tensorboard=False) as out:
    out.note("compiled in 12.3 s [sic]")
    out.log("train", 500_000, 1.0, 250_000.0, {"episode_return": np.array([90.0, 100.0, 111.0])})
    out.log("eval", 500_000, 1.0, 250_000.0, {"return": np.array([1234.4] * 3)})
"""
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=terminal,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "JAX_PLATFORMS": "cpu"},
    ) as process:
        os.close(terminal)
        printed = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not piece:
                break
            printed += piece
        assert process.wait(60) == 0
    os.close(main)
    text = printed.decode()
    assert "\x1b[" in text and "compiled in 12.3 s [sic]" in text
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    for part in (
        " 25%",
        "500k/2M steps x 3",
        "250k/s",
        "eta ",
        "return 100 (90..111)",
        "eval 1234",
    ):
        assert part in text, text
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80


def test_the_score_of_a_sweep_is_that_of_the_best_config():
    assert (
        terminal.spread(np.array([[1.0, 2.0], [30.0, 50.0], [NAN, NAN]]))
        == "40 (30..50), best of 3"
    )
    assert terminal.spread(np.array([NAN, NAN])) is None


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("\n one\ntwo"), "one"),
        (AssertionError(), "AssertionError"),
        (OSError(28, "No space left", "a/b"), "[Errno 28] No space left: 'a/b'"),
    ],
)
def test_the_reason_for_an_error_is_one_line_whatever_it_says(error, text):
    assert terminal.reason(error) == text


@pytest.mark.parametrize(
    "error, code, said",
    [
        (
            IsADirectoryError(21, "Is a directory", "a"),
            2,
            "error: [Errno 21] Is a directory: 'a'\n",
        ),
        (ImportError(), 2, "error: ImportError\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(capsys, monkeypatch, error, code, said):
    def main():
        raise error

    monkeypatch.setattr(terminal.os, "_exit", sys.exit)  # how who cannot wait leaves

    with pytest.raises(SystemExit) as ended:
        terminal.run(main)
    assert ended.value.code == code and capsys.readouterr().err == said


def test_a_table_prints_what_it_is_given(capsys):
    terminal.table("Result", ["seed", "return"], [[0, "1.5 [bold]"], [1, None]])
    printed = capsys.readouterr().out
    assert "Result" in printed and "1.5 [bold]" in printed and "None" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (999, "999"), (999.9, "1k"), (1234567, "1.23M"), (999999, "1M"), (2e9, "2G")],
)
def test_short_numbers(value, text):
    assert terminal.short(value) == text


def test_durations():
    assert [terminal.duration(s) for s in (9, 75, 3675)] == ["0:09", "1:15", "1:01:15"]
