"""CrossQ and SimbaV2 return more than SAC and TD3, at equal environment steps and at equal seconds.

    python experiments/claims/off_policy/critics.py

All learn from 40,960 steps of each task with balanced physics, and make an update for every eight
steps (CrossQ, which has no target networks, for every five), which two cores can afford. At equal
seconds each counts as far as it came when the fastest of the four ended: its evaluations are joined
by straight lines over the seconds of its training, without compilation, on one core that other work
shared. SAC's and TD3's settings were chosen earlier on both tasks with other seeds. CrossQ's and
SimbaV2's were not chosen: they are their authors' for that shape, but that the authors make one or
two updates a step, and CrossQ's critics are 2,048 wide.

CrossQ trains for three to four and SimbaV2 for seven to eight times the seconds of SAC. So on two
cores SAC is the one to take, and CrossQ where steps are dear. A third task was not run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.presets import CRITICS
from jaxrl.cli import script
from jaxrl.learners import registry
from jaxrl.run import runtime

NAME = "critics"
NEW, OLD = ("crossq", "simbav2"), ("sac", "td3")
NAMES = {"sac": "SAC", "td3": "TD3", "crossq": "CrossQ", "simbav2": "SimbaV2"}
COMPARISONS = tuple(
    Comparison(f"{NAMES[a]} returns more than {NAMES[b]} at equal {what}", a + tail, b + tail)
    for what, tail in (("environment steps", ""), ("seconds", ", equal seconds"))
    for a in NEW
    for b in OLD
)


@dataclass
class Args:
    tasks: tuple[str, ...] = ("hopper", "half_cheetah")
    seeds: int = 5
    total_steps: int = 40_960
    devices: int = 0  # 0: what suits


def at(entry: dict, seconds: float) -> np.ndarray:
    """Every seed's return after so many seconds of training. [seeds]"""
    steps = entry["steps"][-1] * min(seconds / entry["seconds"], 1.0)
    return np.array([np.interp(steps, entry["steps"], v) for v in np.transpose(entry["values"])])


def add_equal_seconds(task: str) -> None:
    """Adds the entries at the seconds of the fastest learner of `task`."""
    entries = {e["variant"]: e for e in common.load(NAME) if e["task"] == task}
    seconds = min(entries[name]["seconds"] for name in NAMES)
    for name in NAMES:
        entry = entries[name]
        common.add(
            NAME,
            task,
            f"{name}, equal seconds",
            lambda entry=entry: at(entry, seconds),
            seeds=entry["seeds"],
            steps=(round(entry["steps"][-1] * seconds / entry["seconds"]),),
            config={"training_seconds": seconds},
        )


def main() -> int:
    args = tyro.cli(Args)
    devices = args.devices or runtime.default_devices(args.seeds)
    runtime.setup(devices)
    for task in args.tasks:
        for name in NAMES:
            preset = CRITICS[name]
            env = envs.make(task, **preset.env)
            make = lambda env=env, name=name, preset=preset: registry.module(name).make(
                env, preset.config
            )
            common.measure(
                NAME, task, name, make, args.total_steps, seeds=args.seeds, devices=devices
            )
        add_equal_seconds(task)
    common.report(NAME, "return", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
