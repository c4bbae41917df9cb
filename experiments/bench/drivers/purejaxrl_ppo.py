"""purejaxrl: PPO on a gymnax task with discrete actions; every round is a run of its own."""

from __future__ import annotations

import sys
from types import ModuleType

import jax
from serve import serve, settings

s = settings()

# Its wrappers import two suites that this task does not use.
for name in ("navix", "brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training"):
    sys.modules[name] = ModuleType(name)
sys.modules["brax"].envs = sys.modules["brax.envs"]
sys.modules["brax.envs.wrappers.training"].EpisodeWrapper = object
sys.modules["brax.envs.wrappers.training"].AutoResetWrapper = object
sys.path.append(s["purejaxrl"])
from ppo import make_train  # noqa: E402

run = jax.jit(
    make_train(
        {
            "LR": s["learning_rate"],
            "NUM_ENVS": s["num_envs"],
            "NUM_STEPS": s["unroll_length"],
            "TOTAL_TIMESTEPS": s["round_steps"],
            "UPDATE_EPOCHS": s["num_epochs"],
            "NUM_MINIBATCHES": s["num_minibatches"],
            "GAMMA": s["gamma"],
            "GAE_LAMBDA": s["gae_lambda"],
            "CLIP_EPS": s["clip_ratio"],
            "ENT_COEF": s["entropy_coef"],
            "VF_COEF": s["value_coef"],
            "MAX_GRAD_NORM": s["max_grad_norm"],
            "ACTIVATION": "tanh",
            "ENV_NAME": s["task"],
            "ANNEAL_LR": False,
            "DEBUG": False,
        }
    )
)
rounds, metrics = 0, None


def train() -> dict:
    global rounds, metrics
    metrics = jax.block_until_ready(run(jax.random.PRNGKey(s["seed"] + rounds)))["metrics"]
    rounds += 1
    unrolls = s["round_steps"] // (s["num_envs"] * s["unroll_length"])
    return {"steps": unrolls * s["num_envs"] * s["unroll_length"]}


def evaluate() -> float:
    """It has no evaluation: the training episodes that ended in the last tenth of the run."""
    ended, returns = metrics["returned_episode"], metrics["returned_episode_returns"]
    last = slice(-max(1, len(ended) // 10), None)
    return returns[last][ended[last]].mean()


serve(("jax", "gymnax"), train, evaluate)
