"""Draws the picture of the main README from experiments/results/*.json.

    python experiments/overview.py

Each panel is one task: the interquartile mean of the evaluation return over seeds, with a 95%
bootstrap interval, and the worst seed as a dotted line. The last panel compares a cloned policy with the same policy and a residual,
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
# The presets, by the file of their results, in colours that colour-blind readers tell apart.
PRESETS = {
    "ppo": "#0072B2",
    "ppo_1m": "#56B4E9",
    "sac": "#D55E00",
    "sac_320k": "#E69F00",
    "td3": "#009E73",
}
TASKS = (
    "half_cheetah",
    "hopper",
    "walker2d",
    "ant",
    "humanoid",
    "swimmer",
    "inverted_pendulum",
    "inverted_double_pendulum",
    "reacher",
    "pusher",
    "pendulum_swingup",
)
REFINED = "refine_peg_insertion"
EPISODES = 256  # behind each of its success rates


def sources() -> dict[str, list | dict]:
    """The results that the picture shows, by the name of their file."""
    read = lambda name: json.loads((RESULTS / f"{name}.json").read_text())
    shown = {name: [r for r in read(name) if r["env"] in TASKS] for name in PRESETS}
    return shown | {REFINED: read(REFINED)}


def digest(results: dict[str, list | dict]) -> str:
    """Identifies the results; it is stored in the picture."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def stored_digest(path: Path = PICTURE) -> str:
    """The digest of the results that the picture at `path` was drawn from."""
    with Image.open(path) as image:
        return image.text["Source"]


def curve(ax: plt.Axes, preset: str, result: dict) -> None:
    """A preset's returns over environment steps, on the physics of training."""
    steps = np.array(result["env_steps"][1:])  # a logarithmic axis has no place for step 0
    returns = np.array(result["return"][1:], float)  # [evaluations, seeds]
    low, high = np.array([bootstrap_interval(x) for x in returns]).T
    color = PRESETS[preset]
    ax.plot(steps, iqm(returns, axis=1), color=color, lw=1.8, label=preset)
    ax.plot(steps, returns.min(1), color=color, lw=0.7, ls=":")
    ax.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)


def bars(ax: plt.Axes, refined: dict) -> None:
    """Success rates before and after refinement."""
    names = ["base", "base + residual"]
    rates = np.array([refined[name]["success"] for name in names])
    ends = np.array([wilson(rate * EPISODES, EPISODES) for rate in rates]).T  # [2, bars]
    errors = np.abs(ends - rates)
    ax.bar([0, 1], rates, 0.6, yerr=errors, color=["#999999", PRESETS["ppo"]], capsize=4)
    for x, rate in enumerate(rates):
        ax.text(x, 0.06, f"{rate:.2f}", color="white", ha="center", weight="bold")
    ax.set_xticks([0, 1], ["cloned", "cloned + PPO"])
    ax.set_ylim(0, 1.1)
    ax.set_title("peg_insertion, success rate", fontsize=10)


def draw(results: dict[str, list | dict], path: Path) -> None:
    """Writes the picture."""
    fig, axes = plt.subplots(3, 4, figsize=(11, 7), layout="constrained")
    for ax, task in zip(axes.flat, TASKS, strict=False):
        for preset in PRESETS:
            for result in results[preset]:
                if result["env"] == task:
                    curve(ax, preset, result)
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
    shown = {}
    for ax in axes.flat:
        handles, names = ax.get_legend_handles_labels()
        shown |= dict(zip(names, handles, strict=True))
    order = [name for name in PRESETS if name in shown]
    fig.legend(
        [shown[n] for n in order],
        order,
        loc="outside upper center",
        ncols=len(order),
        frameon=False,
    )
    fig.savefig(path, dpi=80, metadata={"Source": digest(results)})
    plt.close(fig)


if __name__ == "__main__":
    draw(sources(), PICTURE)
    print(PICTURE)
