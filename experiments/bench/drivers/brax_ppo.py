"""brax: PPO on one of its environments, simulated by MJX.

Its `train` is one call for a whole run, so it goes in a thread and waits where it reports
progress until the next round is asked for.
"""

from __future__ import annotations

import functools
import queue
import threading

import jax
from brax import envs
from brax.training.agents.ppo import networks
from brax.training.agents.ppo import train as ppo
from serve import serve, settings

s = settings()
asked, reported = queue.Queue(), queue.Queue()
last = {}


def progress(steps: int, metrics: dict) -> None:
    if steps:
        reported.put((steps, metrics))
    asked.get()


def run() -> None:
    ppo.train(
        environment=envs.get_environment(s["task"], backend="mjx"),
        num_timesteps=s["round_steps"] * s["total_rounds"],
        num_evals=s["total_rounds"] + 1,
        num_eval_envs=s["eval_episodes"],
        deterministic_eval=True,
        episode_length=1000,
        num_envs=s["num_envs"],
        batch_size=s["num_envs"] // s["num_minibatches"],
        num_minibatches=s["num_minibatches"],
        unroll_length=s["unroll_length"],
        num_updates_per_batch=s["num_epochs"],
        learning_rate=s["learning_rate"],
        discounting=s["gamma"],
        gae_lambda=s["gae_lambda"],
        clipping_epsilon=s["clip_ratio"],
        entropy_cost=s["entropy_coef"],
        max_grad_norm=s["max_grad_norm"],
        normalize_observations=True,
        network_factory=functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=tuple(s["hidden"]),
            value_hidden_layer_sizes=tuple(s["critic_hidden"]),
        ),
        progress_fn=progress,
        seed=s["seed"],
    )


def train() -> dict:
    """Its own clock: an evaluation, which is not counted, follows each of its rounds."""
    before = last.get("steps", 0)
    asked.put(None)
    last["steps"], last["metrics"] = reported.get()
    steps = last["steps"] - before
    return {"steps": steps, "seconds": steps / last["metrics"]["training/sps"]}


threading.Thread(target=run, daemon=True).start()
serve(
    ("brax", "jax", "mujoco-mjx"),
    train,
    lambda: jax.device_get(last["metrics"]["eval/episode_reward"]),
)
