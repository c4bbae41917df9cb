"""Learning curves from run directories: `python -m jaxrl.plot RUN [RUN ...]`.

A curve is the interquartile mean over seeds, and its band is the 95 % bootstrap interval. A sweep
has one curve per config. Several runs share the axes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from envs import nearest
from jaxrl.cli import flags
from jaxrl.data import dataset as data
from jaxrl.data import describe as data_stats
from jaxrl.report import files, log, terminal
from jaxrl.report.summary import bootstrap_interval, iqm, mean_interval
from jaxrl.run import folder

CLOCK = ("kind", "env_steps", "seconds", "steps_per_second")  # in a record, but not metrics
MAX_POINTS = 150  # per curve; groups of more points are averaged
THIN_LINES = 5  # a single curve with at most this many seeds also shows each of them
SAMPLES = 400  # bootstrap samples per point
COLORS = ("#2166ac", "#d6604d", "#1b9e77", "#7b5ea7", "#c58a1b", "#4c4c4c", "#d1558f", "#5aa5c4")


@dataclass(frozen=True)
class Curve:
    label: str
    x: np.ndarray  # [T]
    y: np.ndarray  # [T, seeds], NaN where undefined

    @property
    def num_seeds(self) -> str:
        seeds = self.y.shape[1]
        return "1 seed" if seeds == 1 else f"{seeds} seeds"


def learning_curve(
    run_dirs: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    metric: str = "return",
    x: str = "env_steps",
) -> Path:
    """Draws the learning curves of runs into one PNG.

    Args:
      run_dirs: one run directory or several.
      out: the file to write; .png without a suffix.
      metric: any name in `metrics.jsonl`. Values at evaluations are preferred. A run without
        evaluations shows `episode_return` instead of `return`.
      x: "env_steps" (per seed) or "seconds" (of training).

    Raises:
      ValueError: not a run, nothing logged, unknown metric.
      RuntimeError: `out` cannot be written.
    """
    if x not in ("env_steps", "seconds"):
        raise ValueError(f"x={x!r}: allowed are 'env_steps' and 'seconds'")
    if isinstance(run_dirs, str | os.PathLike):
        run_dirs = [run_dirs]
    run_dirs = [Path(run_dir) for run_dir in run_dirs]
    names = _names(run_dirs) if len(run_dirs) > 1 else [""]
    found = [load(run_dir, metric, x, n) for run_dir, n in zip(run_dirs, names, strict=True)]
    metrics = list(dict.fromkeys(name for name, _ in found))
    curves = [curve for _, per_run in found for curve in per_run]

    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for curve, color in zip(curves, _colors(len(curves)), strict=True):
        draw(axes, curve, color, thin_lines=len(curves) == 1)
    title = _title(run_dirs)
    if len(curves) > 1:
        columns = 1 if max(len(curve.label) for curve in curves) > 40 else 2
        figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
    else:
        title = ", ".join(filter(None, (title, curves[0].num_seeds)))
    steps = {_unit(run_dir) for run_dir in run_dirs}
    x_label = " or ".join(sorted(steps)) if x == "env_steps" else "training seconds"
    _decorate(axes, x_label, " / ".join(metrics), title)
    if any(curve.y.shape[1] > 1 for curve in curves):
        axes.set_ylabel(axes.get_ylabel() + " (IQM, 95 % interval)")
    return _save(figure, out)


def dataset_page(dataset: data.Dataset, out: str | os.PathLike, title: str = "data set") -> Path:
    """Draws a page about a data set: returns, lengths, order, actions, states and statistics."""
    stats = data_stats.statistics(dataset)
    figure = Figure(figsize=(10.5, 6.4), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=11)
    (returns, order, lengths), (actions, states, numbers) = figure.subplots(2, 3)
    returns.hist(dataset.returns, 40, color=COLORS[0])
    returns.set(xlabel="return of an episode", ylabel="episodes")
    order.plot(dataset.returns, ".", ms=3, color=COLORS[0])
    order.set(xlabel="episode, in the order recorded", ylabel="return")
    lengths.hist(dataset.lengths, 40, color=COLORS[2])
    lengths.set(xlabel="steps of an episode", ylabel="episodes")
    action = dataset.steps.action.reshape(len(dataset), -1)
    shown = action[:, : len(COLORS)]
    actions.hist(shown, 30, histtype="step", color=COLORS[: shown.shape[1]])
    actions.set(xlabel="action, a line per dimension", ylabel="steps")
    x, y, names = _two_dimensions(dataset)
    states.hexbin(x, y, gridsize=40, bins="log", cmap="Blues", mincnt=1, linewidths=0)
    states.set(xlabel=names[0], ylabel=names[1])
    for axes in (returns, order, lengths, actions, states):
        axes.spines[["top", "right"]].set_visible(False)
    numbers.axis("off")
    lines = [f"{name.replace('_', ' '):<14}{value:>14,.5g}" for name, value in stats.items()]
    numbers.text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=9)
    return _save(figure, out)


def before_after(
    steps: Sequence[float],
    success: Sequence[float],
    measured: dict[str, np.ndarray],
    out: str | os.PathLike,
    title: str = "",
) -> Path:
    """Draws a refinement: success during training, and a final comparison of the policies.

    Args:
      steps, success: the learning curve [T] from step 0 on, on separate episodes.
      measured: success of every episode [E] by policy. The first policy is the start.
    """
    figure = Figure(figsize=(9.0, 3.8), dpi=150, layout="constrained")
    curve, bars = figure.subplots(1, 2, width_ratios=(1.7, 1.0))
    (start, *_), colors = measured, COLORS[5:4:-1] + COLORS
    curve.plot(steps, success, color=COLORS[0], lw=1.8, label="during refinement")
    curve.axhline(success[0], color=COLORS[5], ls="--", lw=1.2, label=start)
    _decorate(curve, "environment steps", "success", title)
    curve.set_ylim(0, 1.02)
    curve.legend(frameon=False, fontsize=8, loc="lower right")
    for i, (name, values) in enumerate(measured.items()):
        low, high = mean_interval(values, SAMPLES)
        mean = values.mean()
        errors = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
        bars.bar(name, mean, yerr=errors, color=colors[i], width=0.6, capsize=4)
        bars.text(i, min(high + 0.03, 1.05), f"{mean:.2f}", ha="center", fontsize=9)
    bars.set(ylim=(0, 1.12), ylabel="success, 95 % interval")
    bars.spines[["top", "right"]].set_visible(False)
    return _save(figure, out)


def _two_dimensions(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Returns positions if observations are planar, else their two principal components."""
    obs = dataset.steps.obs
    flat = obs["obs"] if isinstance(obs, dict) and "obs" in obs else obs
    leaves = flat.values() if isinstance(flat, dict) else [flat]
    x = np.concatenate([data.few_entries(leaf) for leaf in leaves], 1)
    if isinstance(obs, dict) and "goal" in obs:
        return x[:, 0], x[:, 1], ("observation 0", "observation 1")
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    _, directions = np.linalg.eigh(x.T @ x)
    projected = x @ directions[:, ::-1][:, :2] if x.shape[1] > 1 else np.repeat(x, 2, 1)
    return projected[:, 0], projected[:, 1], ("principal component 1", "principal component 2")


def _save(figure: Figure, out: str | os.PathLike) -> Path:
    out = Path(out)
    out = out if out.suffix else out.with_suffix(".png")
    with files.whole(out) as part:
        figure.savefig(part)
    return out


def load(run_dir: Path, metric: str, x: str, name: str = "") -> tuple[str, list[Curve]]:
    """Returns the metric that was found, and one curve per config, with labels that begin with `name`."""
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir} is not a run: no such directory")
    records = log.read(run_dir)
    if not records:
        raise ValueError(f"{run_dir} has no metrics yet: {log.FILE} is missing or empty")
    if metric == "return" and not any("return" in r for r in records):
        metric = "episode_return"
    having = [r for r in records if metric in r and metric not in CLOCK]
    if not having:
        known = sorted({name for r in records for name in r} - set(CLOCK))
        raise ValueError(
            f"{run_dir} has no metric {metric!r}{nearest(metric, known)}; it has {', '.join(known)}"
        )
    measured = [r for r in having if r["kind"] == "eval"] or having
    xs = np.array([r[x] for r in measured], np.float64)
    try:
        ys = np.array([r[metric] for r in measured], np.float64)  # null becomes NaN
    except ValueError:
        raise ValueError(f"{run_dir}: {metric!r} changes its shape from line to line") from None
    ys = ys.reshape(len(xs), -1, ys.shape[-1])  # [T, configs, seeds]
    labels = _config_labels(run_dir, ys.shape[1])
    run = run_dir.resolve().name
    labels = [" ".join(filter(None, (name, label))) or run for label in labels]
    curves = [Curve(label, *_thin_out(xs, ys[:, i])) for i, label in enumerate(labels)]
    if not any(curve.x.size for curve in curves):
        raise ValueError(f"{run_dir}: {metric!r} is undefined so far")
    return metric, curves


def draw(axes: Axes, curve: Curve, color, thin_lines: bool) -> None:
    seeds = curve.y.shape[1]
    scores = [row[np.isfinite(row)] for row in curve.y]
    label = f"{curve.label} ({curve.num_seeds})"
    marker = "o" if curve.x.size == 1 else None
    axes.plot(curve.x, [iqm(s) for s in scores], color=color, lw=1.8, label=label, marker=marker)
    if seeds == 1:
        return
    bounds = np.array([bootstrap_interval(s, samples=SAMPLES) for s in scores]).reshape(-1, 2)
    axes.fill_between(curve.x, *bounds.T, color=color, alpha=0.18, lw=0)
    if thin_lines and seeds <= THIN_LINES:
        axes.plot(curve.x, curve.y, color=color, lw=0.6, alpha=0.5)


def _thin_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most MAX_POINTS points, each the mean of a group. Points without a value are dropped."""
    defined = np.isfinite(y).any(1)
    x, y = x[defined], y[defined]
    if x.size <= MAX_POINTS:
        return x, y
    groups = np.array_split(np.arange(x.size), MAX_POINTS)

    def mean(rows: np.ndarray) -> np.ndarray:  # NaN only if a seed has no value at all
        finite = np.isfinite(rows)
        total, count = np.where(finite, rows, 0.0).sum(0), finite.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return np.array([x[g].mean() for g in groups]), np.array([mean(y[g]) for g in groups])


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of the paths that distinguish the runs."""
    parts = [run_dir.resolve().parts for run_dir in run_dirs]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _unit(run_dir: Path) -> str:
    """Returns the unit of a step of the run."""
    unit = _config(run_dir).get("unit", "env steps")
    return f"{unit} per seed".replace("env ", "environment ")


def _config(run_dir: Path) -> dict:
    """Returns `config.json`, or {} if it is missing or damaged: a curve needs no config."""
    try:
        return folder.read_config(run_dir)
    except ValueError:
        return {}


def _config_labels(run_dir: Path, configs: int) -> list[str]:
    """Returns labels for the configs of a sweep: their values, the last one varying fastest."""
    sweep = (_config(run_dir).get("train") or {}).get("sweep") or {}
    if configs == 1 and not sweep:
        return [""]
    points = list(itertools.product(*sweep.values()))
    if len(points) != configs:
        return [f"config {i}" for i in range(configs)]
    show = lambda v: f"{v:g}" if isinstance(v, int | float) else str(v)
    return [
        ", ".join(f"{k}={show(v)}" for k, v in zip(sweep, point, strict=True)) for point in points
    ]


def _title(run_dirs: Sequence[Path]) -> str:
    """Returns the environment and the learner, if all runs share them."""
    configs = [_config(run_dir) for run_dir in run_dirs]
    shared = [{str(c.get(key) or "") for c in configs} for key in ("env", "learner")]
    return ", ".join(values.pop() for values in shared if len(values) == 1).strip(", ")


def _colors(count: int) -> list:
    if count <= len(COLORS):
        return list(COLORS[:count])
    return list(colormaps["viridis"](np.linspace(0.0, 0.92, count)))


def _decorate(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label.replace("_", " "))
    axes.set_title(title, fontsize=10, loc="left")
    axes.xaxis.set_major_formatter(lambda value, _: terminal.short(value))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser("python -m jaxrl.plot", description="Draw learning curves.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("--metric", default="return", help="any in metrics.jsonl")
    parser.add_argument(
        "--out",
        type=Path,
        help="default: learning_curve.png or METRIC.png in the run, or here for several",
    )
    parser.add_argument("--x", default="env_steps", choices=("env_steps", "seconds"))
    args = parser.parse_args(argv)
    beside = args.runs[0] if len(args.runs) == 1 else Path()
    name = "learning_curve" if args.metric == "return" else args.metric
    out = args.out or beside / f"{name}.png"
    print(learning_curve(args.runs, out, args.metric, args.x))
