"""Draws the picture of the main README from experiments/results/*.json.

    python experiments/overview.py

Each panel is one task: the interquartile mean of the evaluation return over seeds, with a 95%
bootstrap interval. The last panel compares a cloned policy with the same policy and a residual,
with Wilson's interval.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, NullFormatter
from PIL import Image

from jaxrl.report.summary import bootstrap_interval, iqm, wilson

RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS / "overview.png"
LEARNERS = {"ppo": "#0072B2", "sac": "#D55E00", "td3": "#009E73"}  # also for colour-blind readers
TASKS = (
    "half_cheetah",
    "hopper",
    "walker2d",
    "ant",
    "humanoid",
    "inverted_double_pendulum",
    "pendulum_swingup",
)
REFINED = "refine_peg_insertion"
EPISODES = 256  # behind each of its success rates


def sources() -> dict[str, list | dict]:
    """The results that the picture shows, by the name of their file."""
    read = lambda name: json.loads((RESULTS / f"{name}.json").read_text())
    shown = {name: [r for r in read(name) if r["env"] in TASKS] for name in LEARNERS}
    return shown | {REFINED: read(REFINED)}


def digest(results: dict[str, list | dict]) -> str:
    """Identifies the results; it is stored in the picture."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def stored_digest(path: Path = PICTURE) -> str:
    """The digest of the results that the picture at `path` was drawn from."""
    with Image.open(path) as image:
        return image.text["Source"]


def curve(ax: plt.Axes, result: dict) -> None:
    """One learner's returns over environment steps."""
    steps = np.array(result["env_steps"][1:])  # a logarithmic axis has no place for step 0
    returns = np.array(result["return"][1:], float)  # [evaluations, seeds]
    low, high = np.array([bootstrap_interval(x) for x in returns]).T
    color, name = LEARNERS[result["learner"]], result["learner"].upper()
    ax.plot(steps, iqm(returns, axis=1), color=color, lw=1.8, label=name)
    ax.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)


def bars(ax: plt.Axes, refined: dict) -> None:
    """Success rates before and after refinement."""
    names = ["base", "base + residual"]
    rates = np.array([refined[name]["success"] for name in names])
    ends = np.array([wilson(rate * EPISODES, EPISODES) for rate in rates]).T  # [2, bars]
    errors = np.abs(ends - rates)
    ax.bar([0, 1], rates, 0.6, yerr=errors, color=["#999999", LEARNERS["ppo"]], capsize=4)
    for x, rate in enumerate(rates):
        ax.text(x, 0.06, f"{rate:.2f}", color="white", ha="center", weight="bold")
    ax.set_xticks([0, 1], ["cloned", "cloned + PPO"])
    ax.set_ylim(0, 1.1)
    ax.set_title("peg_insertion, success rate", fontsize=10)


def draw(results: dict[str, list | dict], path: Path) -> None:
    """Writes the picture."""
    fig, axes = plt.subplots(2, 4, figsize=(11, 4.7), layout="constrained")
    for ax, task in zip(axes.flat, TASKS, strict=False):
        for learner in LEARNERS:
            for result in results[learner]:
                if result["env"] == task:
                    curve(ax, result)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(task, fontsize=10)
    bars(axes.flat[len(TASKS)], results[REFINED])
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25, lw=0.6)
    fig.supxlabel("environment steps per seed", fontsize=9)
    fig.supylabel("evaluation return", fontsize=9)
    handles, names = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].legend(handles, names, frameon=False, fontsize=8, loc="upper left")
    fig.savefig(path, dpi=110, metadata={"Source": digest(results)})
    plt.close(fig)


if __name__ == "__main__":
    draw(sources(), PICTURE)
    print(PICTURE)
