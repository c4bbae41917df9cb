"""A mixture of experts (PMOE) beats SAC's single Gaussian where several goals are equally good.

    python experiments/claims/off_policy/pmoe_multimodal.py

A point starts where four corridors cross. A step costs less the nearer the point is to the end of
any corridor, and reaching an end ends the episode. `success` is measured with the policy's mode.
`ends reached` counts the ends that the sampled policy goes to: the exponential of the entropy over
the ends (1 to 4), times the share of episodes that reach an end. A quarter of an end does not
matter.

Both always reach an end. The sampled mixture nearly always goes to the same end, because its router
follows the expert that the critics value most.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import struct

from envs.tasks.classic.point_maze import PointMaze
from envs.transforms.time_limit import time_limit
from envs.types import Box, State, first_state
from experiments.claims import common
from experiments.claims.common import Comparison
from jaxrl.cli import script
from jaxrl.episodes import evaluate
from jaxrl.learners.off_policy import pmoe, sac
from jaxrl.run import runtime
from jaxrl.run.train import Result
from jaxrl.types import Learner, Policy

NAME = "pmoe_multimodal"
COMPARISONS = (
    Comparison("PMOE reaches an end more often than SAC", "pmoe", "sac", margin=0.05),
    Comparison(
        "PMOE, sampled, reaches more of the ends than SAC",
        "pmoe, ends reached",
        "sac, ends reached",
        margin=0.25,
    ),
)
TASK = "four ends"
LAYOUT = (
    "#######",
    "###.###",
    "###.###",
    "#.....#",
    "###.###",
    "###.###",
    "#######",
)
ENDS = np.array([[0.0, 2.0], [2.0, 0.0], [0.0, -2.0], [-2.0, 0.0]])


@struct.dataclass
class FourEnds(PointMaze):
    """obs [4]: position and velocity; all four ends are goals, and the start is always the same."""

    layout: str | tuple[str, ...] = struct.field(pytree_node=False, default=LAYOUT)
    reward: str = struct.field(pytree_node=False, default="dense")
    control: str = struct.field(pytree_node=False, default="velocity")

    @property
    def observation_space(self) -> Box:
        return super().observation_space["obs"]

    def reset(self, key: jax.Array) -> State:
        data = super().reset(key).data
        data = data.replace(position=jnp.zeros(2), goal=jnp.zeros(2))
        return first_state(data, jnp.zeros(4), self._ends(data.position))

    def step(self, state: State, action: jax.Array) -> State:
        # The nearest end is the goal of this step; the base class does the rest.
        near = jnp.argmin(jnp.linalg.norm(jnp.asarray(ENDS) - state.data.position, axis=-1))
        goal = jnp.asarray(ENDS, jnp.float32)[near]
        state = super().step(state.replace(data=state.data.replace(goal=goal)), action)
        return state.replace(obs=state.obs["obs"], metrics=self._ends(state.data.position))

    def _ends(self, position: jax.Array) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(jnp.asarray(ENDS) - position, axis=-1)
        reached = distance <= self.goal_radius
        end = jnp.where(reached.any(), jnp.argmin(distance), -1)
        return {
            "success": reached.any().astype(jnp.float32),
            "distance": distance.min(),
            "end": end.astype(jnp.float32),
        }


BASE = sac.Config(
    num_envs=16,
    updates_per_step=8,
    batch_size=128,
    replay_size=64_000,
    learning_starts=1_600,
    gamma=0.95,
    tau=0.01,
    n_step=3,
    actor_hidden=(128, 128),
    critic_hidden=(128, 128),
    reward_shift=-1.0,
    backup_entropy=False,
    init_alpha=0.1,
    target_entropy=-0.5,
)


@dataclass
class Args:
    seeds: int = 5
    total_steps: int = 16_000


def ends_reached(learner: Learner, policy: Policy) -> float:
    """How many ends the sampled policy goes to, as the text above has it."""
    keys = jax.random.split(jax.random.key(1), 256)
    end = np.asarray(evaluate(learner.env, policy, keys, deterministic=False)["end"])
    count = np.array([(end == e).sum() for e in range(len(ENDS))])
    share = count[count > 0] / max(count.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()) * count.sum() / len(end))


def main() -> int:
    args = tyro.cli(Args)
    runtime.setup(1)
    env = time_limit(FourEnds(), 100)
    shared = {f.name: getattr(BASE, f.name) for f in dataclasses.fields(BASE)}
    del shared["actor_out_scale"]  # the mixture's own: its experts must begin apart
    learners = {"sac": sac.make(env, BASE), "pmoe": pmoe.make(env, pmoe.Config(**shared))}
    for variant, learner in learners.items():

        def reached(result: Result, learner: Learner = learner) -> dict[str, list[float]]:
            at = lambda seed: learner.policy(jax.tree.map(lambda x: x[seed], result.state))
            return {"ends": [ends_reached(learner, at(seed)) for seed in range(args.seeds)]}

        common.measure(
            NAME,
            TASK,
            variant,
            lambda learner=learner: learner,
            args.total_steps,
            seeds=args.seeds,
            num_evals=8,
            eval_episodes=1,  # all begin alike
            metric="success",
            found=reached,
        )
        (entry,) = [e for e in common.load(NAME) if e["variant"] == variant]
        ends = lambda _, ends=entry["ends"]: np.array([ends])
        common.derive(NAME, TASK, f"{variant}, ends reached", [variant], ends, "ends")
    common.report(
        NAME, "success of the mode; ends that the sampled policy reaches, of 4", COMPARISONS
    )
    return 0


if __name__ == "__main__":
    script.run(main)
