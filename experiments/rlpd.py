"""SAC from scratch with recorded data mixed into every batch (RLPD, Ball et al. 2023).

    python experiments/rlpd.py --data data/hopper_medium.npz --seeds 5

It is `experiments/sac.py` with a data set and settings like `sac.RLPD`. The environment is the one
that the data set names, with the options it was recorded with, unless flags say others; its preset
gives the rest.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass, field
from pathlib import Path

from presets import RLPD, Preset

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.data import files as data_files
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy


@dataclass
class Args(script.Args):
    env: str = ""  # default: what the data set says
    data: Path = Path("data/demos.npz")  # .npz or .hdf5, see jaxrl/data/files.py
    config: sac.Config = field(default_factory=lambda: sac.RLPD)


def defaults(env: str, data: str) -> Args:
    recorded = {}
    if Path(data).exists():
        dataset = data_files.load(data, say=lambda line: None)  # `main` says it
        env = env or dataset.metadata.get("env", "")
        recorded = script.recorded_options(dataset, env)
    preset = RLPD.get(env, Preset(total_steps=250_000, config=sac.RLPD))
    options = {k: str(v) for k, v in preset.env.items()} | recorded
    return Args(env=env, env_options=options, total_steps=preset.total_steps, config=preset.config)


def main() -> int:
    args = script.parse(defaults, env=Args.env, data=str(Args.data))
    check(args.config)
    prior = data_files.load(args.data)
    script.env_of_data(args, prior)
    devices = off_policy.default_devices(args.seeds, args.config, args.eval_episodes)
    env = script.prepare(args, devices)
    return script.launch("sac", args, sac.make(env, args.config, prior), args.data)


if __name__ == "__main__":
    script.run(main)
