"""Records demonstrations of a task's scripted expert, with noise, bias and delay if wanted.

    python experiments/demos.py --env peg_insertion --successful --out data/peg.npz
    python experiments/demos.py --env push_t --episodes 500 --noise 0.0

The task, the number of episodes and the noise default to those of experiments/refine.py.
Up to 1,024 episodes are simulated at once. A page of statistics is written beside the file.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass, field
from pathlib import Path

import jax
import presets

import envs
from jaxrl.cli import plot, script
from jaxrl.data import describe as data_stats
from jaxrl.data import files as data_files
from jaxrl.data import recording
from jaxrl.policies.scripted import scripted
from jaxrl.report import terminal
from jaxrl.run import runtime


@dataclass
class Args:
    env: str = "peg_insertion"  # one with an expert
    env_options: script.Options = field(default_factory=dict)  # e.g. clearance 0.002
    episodes: int = 50
    noise: float = 0.3  # of every action, in shares of half the action range
    bias: float = 0.0  # constant over an episode, in the same unit
    delay: int = 0  # control steps
    mode: int | None = None  # the way the expert goes about it; default: drawn per episode
    successful: bool = False  # keep only the episodes that succeed
    seed: int = 0
    out: Path = Path("data/demos.npz")  # or .hdf5


def defaults(env: str) -> Args:
    """The task and the demonstrations of experiments/refine.py."""
    preset = presets.road(env)
    return Args(
        env=env,
        env_options={k: str(v) for k, v in preset.env.items()},
        episodes=preset.flags["demos"],
        noise=preset.flags["noise"],
    )


def main() -> int:
    args = script.parse(defaults, env=Args.env)
    data_files.check_new(args.out)
    runtime.check_seed(args.seed)
    runtime.setup()
    options = script.numbers(args.env_options)
    env = envs.make(args.env, **options)
    expert = scripted(env, args.noise, args.bias, args.delay, args.mode)
    about = {"env": args.env, "env_overrides": options, "kind": "scripted expert"}
    about |= {"noise": args.noise, "bias": args.bias, "delay": args.delay, "mode": args.mode}
    dataset = recording.record(
        expert, env, args.episodes, jax.random.key(args.seed), metadata=about, num_envs=1024
    )
    recorded = data_stats.statistics(dataset)
    if args.successful:
        dataset = dataset.successful()
    data_files.save(dataset, args.out)
    plot.dataset_page(dataset, args.out.with_suffix(".png"), title=args.out.stem)
    kept = data_stats.statistics(dataset)
    shown = ("episodes", "steps", "success", "return_mean", "length_mean")
    text = lambda k, x: f"{x:.3f}" if k == "success" else f"{x:,.4g}"
    rows = [[k, *(text(k, x.get(k, float("nan"))) for x in (recorded, kept))] for k in shown]
    terminal.table(str(args.out), ["", "recorded", "kept"], rows)
    return 0


if __name__ == "__main__":
    script.run(main)
