"""brax: PPO on one of its environments, simulated by MJX.

Its `train` is one call for a whole run, so it goes in a thread and waits where it calls back,
after a round and after the evaluation that follows, until more is asked for.
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
steps = 0


def pause(*report) -> None:
    reported.put(report)
    asked.get()


def go_on() -> tuple:
    asked.put(None)
    return reported.get()


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
        progress_fn=pause,
        policy_params_fn=pause,
        seed=s["seed"],
    )


def train() -> dict:
    global steps
    before, (steps, *_) = steps, go_on()
    return {"steps": steps - before}


def evaluate() -> float:
    _, metrics = go_on()
    return jax.device_get(metrics["eval/episode_reward"])


threading.Thread(target=run, daemon=True).start()
reported.get()  # both callbacks before the first round
go_on()
serve(("brax", "jax", "mujoco-mjx"), train, evaluate)
