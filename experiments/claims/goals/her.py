"""Hindsight goals (HER) solve a sparse goal-conditioned task in fewer steps than SAC alone.

    python experiments/claims/goals/her.py

A point in an open room is given a goal. `her` and `sac` have the same settings and the paper's
reward: -1 a step until the goal. `sac, 1 at the goal` has the task's own reward, 1 at
the goal and 0 elsewhere. Success is measured over 64 evaluation episodes with random starts and
goals.

The settings were chosen on seeds 0 to 5. The results are of seeds 100 to 105.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tyro

import envs
from experiments.claims import common
from experiments.claims.common import Comparison
from jaxrl.cli import script
from jaxrl.learners.goals import her
from jaxrl.learners.off_policy import sac
from jaxrl.run import runtime

NAME = "her"
RAW = "sac, 1 at the goal"
COMPARISONS = (
    Comparison("HER succeeds more often than SAC", "her", "sac"),
    Comparison("HER succeeds more often than SAC on the task's own reward", "her", RAW),
)

CONFIG = her.Config(
    num_envs=8,
    updates_per_step=8,
    batch_size=128,
    replay_size=8_000,
    learning_starts=800,
    gamma=0.95,
    tau=0.02,
    actor_lr=1e-3,
    critic_lr=1e-3,
    alpha_lr=1e-3,
    init_alpha=0.2,
    backup_entropy=False,
    reward_shift=-1.0,  # -1 a step until the goal, as in the paper
    actor_hidden=(64, 64),
    critic_hidden=(64, 64),
)
PLAIN = sac.Config(**{f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(sac.Config)})
VARIANTS = {
    "her": (her, CONFIG),
    "sac": (sac, PLAIN),
    RAW: (sac, PLAIN.replace(reward_shift=0.0)),
}


@dataclass
class Args:
    tasks: tuple[str, ...] = ("point_maze_open",)
    seeds: int = 6
    seed: int = 100  # of the first run; the settings were chosen on seeds 0 to 5
    total_steps: int = 8_000


def main() -> int:
    args = tyro.cli(Args)
    runtime.setup(1)
    options = dict(seeds=args.seeds, seed=args.seed, about={"first_seed": args.seed})
    options |= dict(num_evals=2, eval_episodes=64, metric="success")
    for task in args.tasks:
        env = envs.make(task)
        for variant, (module, config) in VARIANTS.items():
            make = lambda env=env, module=module, config=config: module.make(env, config)
            common.measure(NAME, task, variant, make, args.total_steps, **options)
    common.report(NAME, "success", COMPARISONS)
    return 0


if __name__ == "__main__":
    script.run(main)
