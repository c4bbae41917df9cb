"""Claims: a residual by PPO on a frozen base beats the base, PPO from scratch and cloning four times
the demonstrations; an off-policy residual needs far fewer environment steps.

    python experiments/claims/residual.py

The base clones a few demonstrations of the scripted expert with noisy hands (flow matching,
chunks of actions). Success is that of 128 evaluation episodes per seed. The seeds are those of
the refinement; all refine the same base. Raw numbers: experiments/results/residual.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

import common
from presets import RESIDUAL

import envs
from envs.transforms import residual
from jaxrl import data, runtime, script
from jaxrl.learners import imitation, ppo, sac
from jaxrl.policies.scripted import scripted
from jaxrl.train import train

NAME = "residual"
DEMOS = {"peg_insertion": 50, "pick_place": 50}
NOISE = 0.3
UPDATES = 5_000
BASE = imitation.Config(schedule_steps=float(UPDATES))


@dataclass
class Args:
    tasks: tuple[str, ...] = tuple(DEMOS)
    seeds: int = 5
    scale: float = 0.5
    ppo_steps: int = RESIDUAL["ppo"].total_steps
    sac_steps: int = RESIDUAL["sac"].total_steps


def main() -> int:
    args = tyro.cli(Args)
    runtime.setup(1)
    for task in args.tasks:
        env = envs.make(task)
        expert = scripted(env, NOISE)
        many = data.record(expert, env, 4 * DEMOS[task], jax.random.key(100))
        few = many.take(range(DEMOS[task])).successful()
        options = dict(seeds=args.seeds, eval_episodes=128, metric="success")
        for variant, demos in (("base", few), ("base, 4 x demonstrations", many.successful())):
            make = lambda env=env, demos=demos: imitation.make(env, BASE, demos)
            common.measure(
                NAME, task, variant, make, UPDATES, num_evals=1, learner_name="imitation", **options
            )

        learner = imitation.make(env, BASE, few)  # the first of the seeds above, exactly
        state = train(learner, UPDATES, num_evals=1, eval_episodes=1, quiet=True).state
        base = learner.policy(jax.tree.map(lambda x: x[0], state))
        corrected = residual(env, base, args.scale)
        config = script.with_schedule(RESIDUAL["ppo"].config, args.ppo_steps)
        scratch = config.replace(init_log_std=0.0, actor_out_scale=0.01)
        make = {
            "residual PPO": lambda env=corrected, c=config: ppo.make(env, c),
            "PPO from scratch": lambda env=env, c=scratch: ppo.make(env, c),
        }
        for variant, build in make.items():
            common.measure(
                NAME, task, variant, build, args.ppo_steps, learner_name="ppo", **options
            )

        config = RESIDUAL["sac"].config
        prior = data.through_base(few, corrected, jax.random.key(0))
        make = {
            "residual SAC": lambda env=corrected, c=config, d=prior: sac.make(env, c, d),
            "RLPD": lambda env=env, c=config, d=few: sac.make(env, c, d),
        }
        for variant, build in make.items():
            common.measure(
                NAME, task, variant, build, args.sac_steps, learner_name="sac", **options
            )
    common.table(NAME, "success")
    for task in args.tasks:
        for other in ("base", "base, 4 x demonstrations", "PPO from scratch"):
            print(common.better(NAME, task, "residual PPO", other))
        print(common.better(NAME, task, "residual SAC", "RLPD"))
    return 0


if __name__ == "__main__":
    script.run(main)
