"""Learns from a recorded data set alone: bc, td3_bc or iql.

    python experiments/offline.py --data data/hopper_medium.npz --learner iql --seeds 5
    python experiments/offline.py --data data/hopper_replay.npz --learner bc --weighted 0.1

The environment is the one that the data set names, unless --env says another. Scores are
normalised where experiments/record.py made the data, in the environment that it recorded: 0 is its
random policy, 1 its expert.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.cli import script
from jaxrl.data import describe as data_stats
from jaxrl.data import files as data_files
from jaxrl.learners.offline import bc, iql, td3_bc
from jaxrl.run import runtime

LEARNERS = {"bc": bc, "td3_bc": td3_bc, "iql": iql}


@dataclass
class Args(script.Args):
    env: str = ""  # default: what the data set says
    data: Path = Path("data.npz")  # .npz or .hdf5, see jaxrl/data/files.py
    terminals_are_timeouts: bool = False  # OGBench: they only mark where a recording ends
    cut_at: int = 0  # steps; ends episodes of a file that does not flag their ends
    learner: str = "iql"  # bc, td3_bc or iql
    weighted: float = 0.0  # temperature of return-weighted sampling; 0: uniform
    normalize_reward: bool = False  # scale rewards by 1000 / (best - worst return), as IQL does
    total_steps: float = 100_000  # updates per seed


def defaults(learner: str, total_steps: str) -> Any:
    """`Args` with the settings of one learner as its last field."""
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: allowed are {', '.join(LEARNERS)}")
    config = LEARNERS[learner].Config()
    if learner == "iql":
        config = config.replace(schedule_steps=float(total_steps))
    return script.with_config(Args, config, learner=learner)


def main() -> int:
    args = script.parse(defaults, learner="iql", total_steps=str(Args.total_steps))
    dataset = data_files.load(args.data, args.terminals_are_timeouts, args.cut_at)
    unpaid = args.terminals_are_timeouts and not dataset.steps.reward.any()
    if unpaid and args.learner != "bc":
        raise ValueError(f"{args.data}: every reward is 0, from which only bc learns")
    script.env_of_data(args, dataset)
    config = args.config
    if args.normalize_reward:
        if config.reward_scale != 1.0:
            raise ValueError(f"reward_scale={config.reward_scale}: normalize_reward chooses it")
        spread = float(np.ptp(dataset.returns))
        if spread == 0:
            raise ValueError(f"normalize_reward: every return is {dataset.returns[0]:g}")
        config = config.replace(reward_scale=1000.0 / spread)
    if args.weighted < 0:
        raise ValueError(f"weighted={args.weighted}: must be above 0, or 0 for uniform sampling")
    env = script.prepare(args, runtime.default_devices(args.seeds))
    if args.weighted:
        dataset = dataset.weighted(args.weighted)
    learner = LEARNERS[args.learner].make(env, config, dataset)
    as_recorded = script.recorded_options(dataset, args.env) == args.env_options
    same = args.env == dataset.metadata.get("env") and as_recorded
    scale, about = data_stats.references(dataset) if same else None, {"weighted": args.weighted}
    return script.launch(args.learner, args, learner, args.data, scale=scale, about=about)


if __name__ == "__main__":
    script.run(main)
