"""RLPD with demonstrations beats SAC from scratch and cloning on a sparse reward.

    python experiments/claims/off_policy/rlpd_sparse.py

A point in a maze is paid 1 at its goal and nothing elsewhere. The 25 demonstrations come from a
scripted driver with noisy actions. `bc` has 10,000 updates on the demonstrations that `rlpd` mixes
in. `sac` has two plain critics, and `rlpd` has five with LayerNorm. All make one update for every
two environment steps, which two cores can afford, where RLPD's authors make twenty per step.
Success is measured over 64 evaluation episodes with random starts and goals.

Most of the difference is due to the critics: SAC with RLPD's critics reaches 0.86 without a
demonstration, and the demonstrations bring it to 0.98.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from experiments.presets import RLPD
from jaxrl.cli import script
from jaxrl.data import describe as data_stats
from jaxrl.data import recording
from jaxrl.learners.off_policy import sac
from jaxrl.learners.offline import bc
from jaxrl.policies.scripted import scripted
from jaxrl.run import runtime

NAME = "rlpd_sparse"
COMPARISONS = (
    Comparison("RLPD succeeds more often than SAC from scratch", "rlpd", "sac"),
    Comparison("Demonstrations help beyond RLPD's critics", "rlpd", "sac with RLPD's critics"),
    Comparison("RLPD succeeds more often than cloning its demonstrations", "rlpd", "bc"),
)

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
    common.report(NAME, "success; bc: after 10,000 updates on the demonstrations", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
