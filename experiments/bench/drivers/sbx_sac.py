"""stable-baselines3's JAX sibling: SAC on a Gymnasium task."""

from __future__ import annotations

import gymnasium
from sbx import SAC
from serve import serve, settings
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

s = settings()
model = SAC(
    "MlpPolicy",
    make_vec_env(s["task"], s["num_envs"], seed=s["seed"]),
    learning_rate=s["learning_rate"],
    qf_learning_rate=s["learning_rate"],
    buffer_size=s["replay_size"],
    learning_starts=s["learning_starts"],
    batch_size=s["batch_size"],
    tau=s["tau"],
    gamma=s["gamma"],
    train_freq=1,
    gradient_steps=s["updates_per_step"],
    policy_kwargs={"net_arch": list(s["hidden"])},
    seed=s["seed"],
)
test_env = gymnasium.make(s["task"])


def train() -> dict:
    before = model.num_timesteps, model._n_updates
    model.learn(s["round_steps"], reset_num_timesteps=before[0] == 0)
    return {"steps": model.num_timesteps - before[0], "updates": model._n_updates - before[1]}


def evaluate() -> float:
    return evaluate_policy(model, test_env, s["eval_episodes"])[0]


serve(("sbx-rl", "jax", "torch", "gymnasium"), train, evaluate)
