"""TD3+BC and IQL beat cloning, and drawing good episodes more often helps all three.

    python experiments/claims/offline/offline_data.py

The script trains SAC once per task and records it. `medium replay` is everything that SAC had
stored when it was half-way to its final return. `mixture` is 95% random and 5% expert steps, in
which good episodes are rare. A score of 0 is the random policy and 1 is the SAC run that the data
come from, both sampled. The learned policies act by their mean. Differences of 0.02 do not matter.

Drawing good episodes more often helps the plain clone most. SAC recorded all data with its earlier
learning rates, and the results of hopper are older than later changes to the learners.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.presets import SAC
from experiments.record import KINDS, random_policy
from jaxrl.cli import script
from jaxrl.data import dataset as data
from jaxrl.data import describe as data_stats
from jaxrl.data import files as data_files
from jaxrl.data import recording
from jaxrl.learners.offline import bc, iql, td3_bc
from jaxrl.run import runtime

NAME = "offline_data"
MARGIN = 0.02  # of the normalised score
WEIGHTED = "Drawing good episodes more often helps"
COMPARISONS = (
    Comparison("TD3+BC scores more than cloning", "td3_bc", "bc", margin=MARGIN),
    Comparison("IQL scores more than cloning", "iql", "bc", margin=MARGIN),
    Comparison(f"{WEIGHTED} BC", "bc, weighted", "bc", margin=MARGIN, papers=("S012",)),
    Comparison(f"{WEIGHTED} TD3+BC", "td3_bc, weighted", "td3_bc", margin=MARGIN, papers=("S012",)),
    Comparison(f"{WEIGHTED} IQL", "iql, weighted", "iql", margin=MARGIN, papers=("S012",)),
)
EXPERIMENTS = Path(__file__).parents[2]
WIDE = {"actor_hidden": (128, 128)}
BOTH = WIDE | {"critic_hidden": (128, 128)}
LEARNERS = {
    "bc": (bc, bc.Config(**WIDE)),
    "td3_bc": (td3_bc, td3_bc.Config(**BOTH)),
    "iql": (iql, iql.Config(**BOTH)),
}
RANDOM_EPISODES = {"half_cheetah": 100, "hopper": 5_000}  # hopper falls after some 20 steps
SAC_STEPS = {"half_cheetah": 320_000, "hopper": 960_000}


@dataclass
class Args:
    tasks: tuple[str, ...] = ("half_cheetah", "hopper")
    seeds: int = 6  # an even number uses both of two cores
    updates: int = 15_000
    data: Path = Path("data")  # runs and recordings are kept here and used again
    mixture_steps: int = 100_000
    expert_share: float = 0.05
    temperature: float = 0.1  # of return-weighted sampling


def recordings(task: str, folder: Path) -> dict[str, data.Dataset]:
    """What experiments/record.py makes of one SAC run, where it is missing."""
    paths = {k: folder / f"{task}_{k}.npz" for k in KINDS}
    run_dir = folder / f"sac_{task}"
    call = lambda *args: subprocess.run([sys.executable, *map(str, args)], check=True)
    if not all(path.exists() for path in paths.values()):
        steps = SAC_STEPS[task]
        flags = ["--env", task, "--total-steps", steps, "--replay-size", steps, "--no-video"]
        flags += ["--run-dir", run_dir, "--keep-checkpoints", 0, "--eval-episodes", 16]
        flags += ["--resume"] if run_dir.exists() else []
        call(EXPERIMENTS / "sac.py", *flags)
        missing = [k for k, path in paths.items() if not path.exists()]
        call(EXPERIMENTS / "record.py", run_dir, "--out", folder / task, "--kinds", *missing)
    return {k: data_files.load(path) for k, path in paths.items()}


def mixture(poor: data.Dataset, good: data.Dataset, steps: int, share: float) -> data.Dataset:
    """Whole episodes: about `share` of the `steps` from `good`, the rest from `poor`."""

    def first(dataset: data.Dataset, wanted: float) -> data.Dataset:
        count = 1 + int(np.searchsorted(np.cumsum(dataset.lengths), wanted))
        return dataset.take(np.arange(min(count, len(dataset.lengths))))

    return data.concatenate(first(poor, steps * (1 - share)), first(good, steps * share))


def main() -> int:
    args = tyro.cli(Args)
    devices = runtime.default_devices(args.seeds)
    runtime.setup(devices)
    for task in args.tasks:
        env = envs.make(task, **SAC[task].env)
        recorded = recordings(task, args.data)
        poor = recording.record(random_policy(env), env, RANDOM_EPISODES[task], jax.random.key(7))
        low, high = float(poor.returns.mean()), float(recorded["expert"].returns.mean())
        mixed = mixture(poor, recorded["expert"], args.mixture_steps, args.expert_share)
        sets = {
            "medium replay": {"": recorded["replay"]},
            "mixture": {"": mixed, ", weighted": mixed.weighted(args.temperature)},
        }
        for kind, draws in sets.items():
            for how, dataset in draws.items():
                scale = 1000.0 / float(np.ptp(dataset.returns))
                for variant, (module, config) in LEARNERS.items():
                    if variant == "iql":  # its authors' scale of rewards and schedule
                        end = float(args.updates)
                        config = config.replace(reward_scale=scale, schedule_steps=end)
                    make = lambda m=module, c=config, d=dataset, e=env: m.make(e, c, d)
                    common.measure(
                        NAME,
                        f"{task}, {kind}",
                        variant + how,
                        make,
                        args.updates,
                        seeds=args.seeds,
                        num_evals=2,
                        eval_episodes=16,
                        devices=devices,
                        learner_name=variant,
                        score=lambda x, low=low, high=high: data_stats.normalized(x, low, high),
                        about={
                            "metric": "normalized return",
                            "random_return": round(low, 2),
                            "expert_return": round(high, 2),
                            "data": {
                                k: round(v, 4)
                                for k, v in data_stats.statistics(dataset).items()
                                if k != "coverage"
                            },
                        },
                    )
    common.report(NAME, "normalised score", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
