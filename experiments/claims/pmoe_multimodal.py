"""Claim: a mixture of experts (PMOE) beats SAC's one Gaussian where several goals are as good.

    python experiments/claims/pmoe_multimodal.py

A point starts in the middle of a maze with pillars; every step costs the less the nearer it is to
any of the four corners, and a corner ends the episode. `success` is that of the policy's mode; `corners reached` is how many the
sampled policy goes to: the exponential of the entropy of which one, 1 to 4.
Raw numbers: experiments/results/pmoe_multimodal.json.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import struct

sys.path.insert(0, str(Path(__file__).parent.parent))

import common

from envs.tasks.point_maze import PointMaze
from envs.transforms.time_limit import time_limit
from envs.types import Box, State, first_state
from jaxrl import runtime, script
from jaxrl.evaluate import evaluate
from jaxrl.learners import pmoe, sac

NAME = "pmoe_multimodal"
TASK = "four corners"
LAYOUT = (
    "#######",
    "#.....#",
    "#.#.#.#",
    "#.....#",
    "#.#.#.#",
    "#.....#",
    "#######",
)
CORNERS = np.array([[-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])


@struct.dataclass
class FourCorners(PointMaze):
    """obs [4]: position and velocity; all four corners are goals."""

    layout: str | tuple[str, ...] = struct.field(pytree_node=False, default=LAYOUT)
    reward: str = struct.field(pytree_node=False, default="dense")

    @property
    def observation_space(self) -> Box:
        return super().observation_space["obs"]

    def reset(self, key: jax.Array) -> State:
        state = super().reset(key)
        start = self.start_noise * jax.random.uniform(key, (2,), minval=-1.0)
        data = state.data.replace(position=start, goal=jnp.zeros(2))
        state = first_state(data, jnp.concatenate([start, jnp.zeros(2)]))
        return state.replace(metrics=self._corners(start))

    def step(self, state: State, action: jax.Array) -> State:
        # The nearest corner is the goal of this step; the base class does the rest.
        position = state.data.position
        near = jnp.argmin(jnp.linalg.norm(jnp.asarray(CORNERS) - position, axis=-1))
        goal = jnp.asarray(CORNERS, jnp.float32)[near]
        state = super().step(state.replace(data=state.data.replace(goal=goal)), action)
        return state.replace(obs=state.obs["obs"], metrics=self._corners(state.data.position))

    def _corners(self, position: jax.Array) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(jnp.asarray(CORNERS) - position, axis=-1)
        reached = distance <= self.goal_radius
        corner = jnp.where(reached.any(), jnp.argmin(distance), -1)
        return {
            "success": reached.any().astype(jnp.float32),
            "distance": distance.min(),
            "corner": corner.astype(jnp.float32),
        }


BASE = sac.Config(
    num_envs=16,
    updates_per_step=8,
    batch_size=128,
    replay_size=64_000,
    learning_starts=1_600,
    actor_hidden=(64, 64),
    critic_hidden=(64, 64),
    reward_shift=-1.0,
    backup_entropy=False,
    init_alpha=0.1,
    target_entropy=-0.5,
)


@dataclass
class Args:
    seeds: int = 5
    total_steps: int = 48_000


def corners_reached(learner, policy) -> float:
    """How many corners the sampled policy goes to: exp of the entropy of the one it reaches."""
    keys = jax.random.split(jax.random.key(1), 256)
    corner = np.asarray(evaluate(learner.env, policy, keys, deterministic=False)["corner"])
    count = np.array([(corner == c).sum() for c in range(len(CORNERS))])
    share = count[count > 0] / max(count.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def main() -> int:
    args = tyro.cli(Args)
    runtime.setup(1)
    env = time_limit(FourCorners(), 100)
    shared = {f.name: getattr(BASE, f.name) for f in dataclasses.fields(BASE)}
    learners = {"sac": sac.make(env, BASE), "pmoe": pmoe.make(env, pmoe.Config(**shared))}
    for variant, learner in learners.items():
        options = dict(seeds=args.seeds, num_evals=8, eval_episodes=64, metric="success")
        make = lambda learner=learner: learner
        result = common.measure(NAME, TASK, variant, make, args.total_steps, **options)
        if result is not None:
            policies = [
                jax.tree.map(lambda x, i=i: x[i], learner.policy(result.state))
                for i in range(args.seeds)
            ]
            reached = [round(corners_reached(learner, policy), 3) for policy in policies]
            entries = common.load(NAME)
            last = dict(entries[-1], variant=f"{variant}, corners reached", metric="corners")
            last |= {"steps": [args.total_steps], "values": [reached]}
            common.save(NAME, [*entries, last])
    common.table(NAME, "success of the mode; corners the sampled policy reaches, of 4")
    print(common.better(NAME, TASK, "pmoe", "sac"))
    print(common.better(NAME, TASK, "pmoe, corners reached", "sac, corners reached"))
    return 0


if __name__ == "__main__":
    script.run(main)
