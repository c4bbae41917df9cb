"""Refines a policy by reinforcement learning on top of it: a residual, on or off policy.

    python experiments/residual.py --base runs/imitation_peg_insertion_20260101-120000
    python experiments/residual.py --base runs/peg_base --learner sac --data data/peg.npz

The base, any run, is frozen and acts inside the environment. PPO, SAC or TD3 learn a correction of at
most `scale` times half the action range. With --data, half of every batch of an off-policy learner
comes from those episodes, converted to the residual's observations and actions.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from presets import RESIDUAL

from envs.transforms import residual
from jaxrl.cli import runs, script
from jaxrl.config import check
from jaxrl.data import files as data_files
from jaxrl.data import recording
from jaxrl.learners import registry

LEARNERS = tuple(RESIDUAL)


@dataclass
class Args(script.Args):
    env: str = ""  # default: the base's
    base: Path = Path("runs/base")  # the run directory of the policy to refine
    base_seed: int = 0  # which of its seeds
    learner: str = "ppo"  # ppo, sac or td3
    scale: float = 0.5  # of corrections, in shares of half the action range
    data: Path | None = None  # demonstrations, for sac and td3


def defaults(learner: str, data: str | None) -> Any:
    """`Args` with the settings of one learner as its last field."""
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: allowed are {', '.join(LEARNERS)}")
    preset = RESIDUAL[learner]
    config = preset.config
    if hasattr(config, "prior_ratio") and data is None:
        config = config.replace(prior_ratio=0.0)
    return script.with_config(Args, config, learner=learner, total_steps=preset.total_steps)


def main() -> int:
    args = script.parse(defaults, learner="ppo", data=None)
    kept = args.run_dir / runs.BASE if args.resume and args.run_dir else args.base
    base_run = kept if kept.exists() else args.base  # a resumed run has its own copy
    base = runs.read_config(base_run)
    if args.env and args.env != base["env"]:
        raise ValueError(f"base={args.base} was made for {base['env']}, not {args.env}")
    args.env = base["env"]
    args.env_options = {k: str(v) for k, v in base["env_overrides"].items()} | args.env_options
    module = registry.module(args.learner)
    if args.data is not None and not hasattr(args.config, "prior_ratio"):
        raise ValueError(
            f"data={args.data}: {args.learner} cannot use demonstrations; choose --learner sac or td3"
        )
    config = script.with_schedule(args.config, args.total_steps)
    check(config)
    script.prepare(args, registry.default_devices(config, args.seeds, args.eval_episodes))
    below = runs.load(base_run, **script.numbers(args.env_options))
    env = residual(below.env, below.policy(args.base_seed), args.scale)
    prior = ()
    if args.data is not None:
        prior = (
            recording.through_base(data_files.load(args.data), env, jax.random.key(args.seed)),
        )
    learner = module.make(env, config, *prior)
    about = {"run": args.base, "seed_index": args.base_seed, "scale": args.scale}
    return script.launch(args.learner, args, learner, args.data, base=about)


if __name__ == "__main__":
    script.run(main)
