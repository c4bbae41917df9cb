import json
import os
import re
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxrl.cli import plot
from jaxrl.report import log, terminal
from jaxrl.report.summary import iqm

NAN = float("nan")


def make_run(run_dir, train=None, evals=None, sweep=None, env="hopper", learner="ppo"):
    """A run directory whose records have step 1000 k; train and evals: {metric: [T, ...]}."""
    run_dir.mkdir()
    train_of = {"total_steps": 1, "seeds": 1, "sweep": sweep or {}}
    config = {"jaxrl": "0.2.0", "learner": learner, "env": env, "env_overrides": {}, "config": {}}
    config |= {"train": train_of, "unit": "updates" if learner == "bc" else "env steps"}
    (run_dir / "config.json").write_text(json.dumps(config))
    for kind, metrics in (("train", train or {}), ("eval", evals or {})):
        if not metrics:
            continue
        *configs, seeds = np.shape(next(iter(metrics.values())))[1:]
        options = {"seeds": seeds, "configs": configs[0] if configs else None}
        with log.Logger(
            run_dir, 1, quiet=True, tensorboard=False, start_steps=10**9, **options
        ) as out:
            for i, rows in enumerate(zip(*metrics.values(), strict=True)):
                out.log(
                    kind,
                    1000 * i,
                    2.0 * i,
                    500.0,
                    dict(zip(metrics, map(np.array, rows), strict=True)),
                )
    return run_dir


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    return make_run(
        tmp_path / "run",
        train={"episode_return": rng.normal(size=(20, 4)), "kl": rng.normal(size=(20, 4))},
        evals={"return": np.arange(5.0)[:, None] + rng.normal(size=(5, 4))},
    )


def column(run_dir, kind, metric):
    return np.array([r[metric] for r in log.read(run_dir) if r["kind"] == kind], float)


# --- Which numbers are drawn ---


def test_return_is_that_of_the_evaluations(run):
    name, (curve,) = plot.load(run, "return", "env_steps")
    assert name == "return" and curve.label == "run"
    assert curve.x.tolist() == [0, 1000, 2000, 3000, 4000]
    assert (curve.y == column(run, "eval", "return")).all()


def test_a_metric_of_both_kinds_is_that_of_the_evaluations(tmp_path):
    run = make_run(tmp_path / "run", train={"success": [[0.1], [0.2]]}, evals={"success": [[0.9]]})
    assert plot.load(run, "success", "env_steps")[1][0].y.tolist() == [[0.9]]


def test_without_evaluations_the_training_return_is_drawn(tmp_path):
    run = make_run(tmp_path / "run", train={"episode_return": [[1.0], [2.0]]})
    name, (curve,) = plot.load(run, "return", "seconds")
    assert name == "episode_return"
    assert curve.x.tolist() == [0.0, 2.0] and curve.y.tolist() == [[1.0], [2.0]]


def test_a_point_without_any_value_is_left_out_and_a_seed_without_one_is_not_counted(tmp_path):
    returns = [[NAN, NAN], [1.0, NAN], [2.0, 4.0]]
    run = make_run(tmp_path / "run", train={"episode_return": returns})
    _, (curve,) = plot.load(run, "return", "env_steps")
    axes = drawn(curve)
    assert axes.lines[0].get_xdata().tolist() == [1000, 2000]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 3.0]


def test_many_points_become_means_of_groups(tmp_path):
    returns = np.random.default_rng(0).normal(size=(3 * plot.MAX_POINTS, 2))
    returns[0, 0] = NAN
    run = make_run(tmp_path / "run", train={"episode_return": returns})
    _, (curve,) = plot.load(run, "return", "env_steps")
    assert curve.y.shape == (plot.MAX_POINTS, 2)
    np.testing.assert_allclose(curve.y[1:], returns.reshape(-1, 3, 2).mean(1)[1:])
    np.testing.assert_allclose(curve.y[0, 0], returns[1:3, 0].mean())


def test_a_sweep_is_one_curve_per_config_labelled_by_its_values(tmp_path):
    returns = np.arange(12.0).reshape(2, 6, 1) + np.zeros(3)
    sweep = {"learning_rate": [1e-4, 3e-4, 1e-3], "gamma": [0.9, 0.99]}
    run = make_run(tmp_path / "run", evals={"return": returns}, sweep=sweep)
    _, curves = plot.load(run, "return", "env_steps")
    assert [c.label for c in curves[:3]] == [
        "learning_rate=0.0001, gamma=0.9",
        "learning_rate=0.0001, gamma=0.99",
        "learning_rate=0.0003, gamma=0.9",
    ]
    assert [c.y[1, 0] for c in curves] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    _, curves = plot.load(run, "return", "env_steps", name="mine")
    assert curves[0].label == "mine learning_rate=0.0001, gamma=0.9"


def test_a_cut_off_last_line_does_not_hide_the_others(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "eval", "env_steps": 50')
    assert plot.load(run, "return", "env_steps")[1][0].x.size == 5


# --- How they are drawn ---


def drawn(curve, thin_lines=True):
    axes = Figure().add_subplot()
    plot.draw(axes, curve, "b", thin_lines)
    return axes


def test_the_line_is_the_iqm_and_the_band_encloses_it():
    y = np.random.default_rng(1).normal(size=(6, 8))
    axes = drawn(plot.Curve("a", np.arange(6.0), y))
    (line,) = axes.lines  # 8 seeds are too many for thin lines
    np.testing.assert_allclose(line.get_ydata(), [iqm(row) for row in y])
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    assert y.min() < low < min(line.get_ydata()) and max(line.get_ydata()) < high < y.max()


def test_few_seeds_are_drawn_one_by_one_and_one_seed_has_no_band():
    few = drawn(plot.Curve("a", np.arange(3.0), np.arange(9.0).reshape(3, 3)))
    assert len(few.lines) == 1 + 3 and len(few.collections) == 1
    one = drawn(plot.Curve("a", np.arange(3.0), np.arange(3.0)[:, None]))
    assert len(one.lines) == 1 and len(one.collections) == 0


def test_a_single_point_is_visible():
    axes = drawn(plot.Curve("a", np.zeros(1), np.ones((1, 1))))
    assert axes.lines[0].get_marker() == "o"


def test_several_runs_share_the_picture(run, tmp_path):
    other = make_run(tmp_path / "other", train={"episode_return": [[1.0], [2.0]]}, env="ant")
    alone = iio.imread(plot.learning_curve(run, tmp_path / "alone.png"))
    out = plot.learning_curve([run, other], tmp_path / "new" / "both.png")
    both = iio.imread(out)
    assert both.shape == alone.shape and (both != alone).any()


def test_runs_are_named_by_what_tells_them_apart_and_their_steps_by_what_they_are(tmp_path):
    folders = [tmp_path / a / "residual" for a in "ab"]
    assert plot._names(folders) == ["a/residual", "b/residual"]
    assert plot._names([folders[0], tmp_path / "c"]) == ["residual", "c"]
    updates = make_run(tmp_path / "bc", evals={"return": [[1.0]]}, learner="bc")
    steps = make_run(tmp_path / "ppo", evals={"return": [[1.0]]})
    assert [plot._unit(r) for r in (updates, steps)] == [
        "updates per seed",
        "environment steps per seed",
    ]


def test_a_run_without_config_json_can_be_drawn(run, tmp_path):
    (run / "config.json").unlink()
    assert plot.learning_curve(run, tmp_path / "a.png").exists()


# --- Command line ---


def test_the_command_writes_into_the_run_without_a_display(run):
    env = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-m", "jaxrl.plot", str(run), "--metric", "kl", "--x", "seconds"],
        env=env | {"MPLBACKEND": "tkagg", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run / "kl.png")  # the curve of returns stays
    picture = iio.imread(run / "kl.png")
    assert picture.shape[0] > 400 and picture.std() > 5


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        terminal.run(lambda: plot.main([str(x) for x in arguments]))
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_a_missing_run_is_named(capsys, tmp_path):
    assert "nowhere is not a run" in fails(capsys, tmp_path / "nowhere")


def test_a_run_without_metrics_is_named(capsys, tmp_path):
    assert re.search("run has no metrics yet", fails(capsys, make_run(tmp_path / "run")))


def test_metrics_that_are_all_undefined_are_no_curve(capsys, tmp_path):
    run = make_run(tmp_path / "run", train={"episode_return": [[NAN], [NAN]]})
    assert "'episode_return' is undefined so far" in fails(capsys, run)


def test_an_unknown_metric_gets_the_nearest_and_all(capsys, run):
    message = fails(capsys, run, "--metric", "episode_retrun")
    assert (
        "did you mean episode_return" in message and "it has episode_return, kl, return" in message
    )
    assert "has no metric 'seconds'" in fails(capsys, run, "--metric", "seconds")


def test_a_damaged_line_is_named(capsys, run):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace("{", "[", 1))
    assert "metrics.jsonl, line 1" in fails(capsys, run)


def test_a_picture_without_a_suffix_is_the_one_that_is_named(capsys, run, tmp_path):
    plot.main([str(run), "--out", str(tmp_path / "curves")])
    assert capsys.readouterr().out == f"{tmp_path / 'curves.png'}\n"
    assert (tmp_path / "curves.png").exists() and not (tmp_path / "curves").exists()


def test_a_picture_that_fails_leaves_the_old_one(capsys, run, monkeypatch):
    out = run / "a.png"
    out.write_bytes(b"old")

    def full(_, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    assert f"cannot write {out}: No space left" in fails(capsys, run, "--out", out)
    assert out.read_bytes() == b"old" and not list(run.glob(".*"))


def test_a_picture_that_cannot_be_written_is_named(capsys, run):
    out = run / "config.json" / "a.png"
    assert f"cannot write {out}" in fails(capsys, run, "--out", out)
    assert "'docx' is not supported" in fails(capsys, run, "--out", run / "bad.docx")
