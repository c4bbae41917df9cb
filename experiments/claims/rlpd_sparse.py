"""Claim: with demonstrations RLPD beats SAC from scratch and cloning, on sparse rewards.

    python experiments/claims/rlpd_sparse.py

A point in a maze is paid 1 at its goal and nothing elsewhere. The demonstrations are those of a
scripted driver with noisy hands; success is that of 64 evaluation episodes, which start and end
anywhere. Raw numbers: experiments/results/rlpd_sparse.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from presets import RLPD

import envs
from jaxrl.cli import script
from jaxrl.data import describe as data_stats
from jaxrl.data import recording
from jaxrl.learners.off_policy import sac
from jaxrl.learners.offline import bc
from jaxrl.policies.scripted import scripted
from jaxrl.run import runtime

NAME = "rlpd_sparse"

PRESET = RLPD["point_maze_medium"].config
DESIGN = PRESET.replace(prior_ratio=0.0)
VARIANTS = {
    "rlpd": PRESET,
    "sac": DESIGN.replace(num_critics=2, layer_norm=False, actor_q="min"),
    "sac with RLPD's critics": DESIGN,
}
CLONE = bc.Config(actor_hidden=(128, 128), batch_size=128)


@dataclass
class Args:
    tasks: tuple[str, ...] = ("point_maze_medium",)
    seeds: int = 5
    total_steps: int = 64_000
    demonstrations: int = 25


def main() -> int:
    args = tyro.cli(Args)
    runtime.setup(1)
    for task in args.tasks:
        env = envs.make(task)
        demos = recording.record(
            scripted(env, noise=0.5), env, args.demonstrations, jax.random.key(100)
        )
        about = data_stats.statistics(demos)
        print(
            f"{task}: {args.demonstrations} demonstrations, success {about['success']:.2f},"
            f" {about['length_mean']:.0f} steps each"
        )
        options = dict(seeds=args.seeds, num_evals=8, eval_episodes=64, metric="success")
        make_bc = lambda env=env, demos=demos: bc.make(env, CLONE, demos)
        common.measure(NAME, task, "bc", make_bc, 10_000, **options)
        for variant, config in VARIANTS.items():
            prior = demos if config.prior_ratio else None
            make = lambda env=env, config=config, prior=prior: sac.make(env, config, prior)
            common.measure(
                NAME, task, variant, make, args.total_steps, learner_name="sac", **options
            )
    common.report(NAME, "success; bc: after 10,000 updates on the demonstrations")
    return 0


if __name__ == "__main__":
    script.run(main)
