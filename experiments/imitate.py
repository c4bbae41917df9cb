"""Clones demonstrations by chunks of actions: flow matching, diffusion or a Gaussian.

    python experiments/imitate.py --data data/peg.npz
    python experiments/imitate.py --data data/t.npz --head diffusion --trunk transformer --seeds 5
    python experiments/imitate.py --data data/t.npz --mode streaming

The environment is the one that the data set names, unless --env says another.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass, field
from pathlib import Path

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.data import files as data_files
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.report import terminal
from jaxrl.run import runtime


@dataclass
class Args(script.Args):
    env: str = ""  # default: what the data set says
    data: Path = Path("data/demos.npz")  # .npz or .hdf5, see jaxrl/data/files.py
    terminals_are_timeouts: bool = False  # OGBench: they only mark where a recording ends
    cut_at: int = 0  # steps; ends episodes of a file that does not flag their ends
    total_steps: float = 10_000  # updates per seed
    num_evals: int = 5
    eval_episodes: int = 128
    config: imitation.Config = field(default_factory=imitation.Config)


def main() -> int:
    args = script.parse(Args)
    config = args.config
    check(config)
    dataset = data_files.load(args.data, args.terminals_are_timeouts, args.cut_at)
    script.env_of_data(args, dataset)
    env = script.prepare(args, runtime.default_devices(args.seeds))
    learner = imitation.make(env, config, dataset)
    cost = terminal.number(imitation.evaluations_per_action(config, env))
    print(f"{len(dataset.lengths)} episodes, {cost} network evaluations per control step")
    return script.launch("imitation", args, learner, args.data)


if __name__ == "__main__":
    script.run(main)
