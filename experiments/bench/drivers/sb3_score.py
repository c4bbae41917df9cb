"""Stable-Baselines3's PPO, or its JAX sibling's SAC and CrossQ, on a Gymnasium MuJoCo task.

The settings are those of rl-baselines3-zoo (hyperparams/ppo.yml, sac.yml and crossq.yml at 22e3ff2):
one environment everywhere, normalised observations and rewards for PPO. Where the zoo names nothing
else, they are the libraries' defaults.
"""

from __future__ import annotations

from importlib import import_module

from serve import serve, settings
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

s = settings()
NAMES = "batch_size n_steps gamma learning_rate ent_coef clip_range n_epochs gae_lambda"
NAMES += " max_grad_norm vf_coef"
ZOO = {
    "half_cheetah": (64, 512, 0.98, 2.0633e-5, 0.000401762, 0.1, 20, 0.92, 0.8, 0.58096),
    "hopper": (32, 512, 0.999, 9.80828e-5, 0.00229519, 0.2, 5, 0.99, 0.7, 0.835671),
    "walker2d": (32, 512, 0.99, 5.05041e-5, 0.000585045, 0.1, 20, 0.95, 1.0, 0.871923),
    "inverted_double_pendulum": (
        *(512, 128, 0.98, 0.000155454, 1.05057e-6, 0.4, 10, 0.8, 0.5, 0.695929),
    ),
}
WIDE = ("half_cheetah", "hopper")  # networks of 256 x 256, and less noise at first
CROSSQ = {
    "learning_starts": 5_000,
    "policy_kwargs": {"net_arch": {"pi": [256, 256], "qf": [2048, 2048]}},
}
OFF_POLICY = {"sac": {"learning_starts": 10_000}, "crossq": CROSSQ}


def ppo_settings() -> dict:
    if s["task"] == "ant":  # the zoo's: the library's defaults
        return {}
    chosen = dict(zip(NAMES.split(), ZOO[s["task"]], strict=True))
    if s["task"] in WIDE:
        from torch import nn

        chosen["policy_kwargs"] = {
            "log_std_init": -2,
            "ortho_init": False,
            "activation_fn": nn.ReLU,
            "net_arch": {"pi": [256, 256], "vf": [256, 256]},
        }
    return chosen


is_ppo = s["learner"] == "ppo"
env = make_vec_env(s["original"], 1, seed=s["seed"])
test_env = make_vec_env(s["original"], s["episodes"], seed=s["seed"] + 1_000)
if is_ppo:
    chosen = ppo_settings()
    env = VecNormalize(env, gamma=chosen.get("gamma", 0.99))
    test_env = VecNormalize(test_env, training=False, norm_reward=False)
    library, name = "stable_baselines3", "PPO"
else:
    chosen = OFF_POLICY[s["learner"]]
    library, name = "sbx", {"sac": "SAC", "crossq": "CrossQ"}[s["learner"]]
model = getattr(import_module(library), name)("MlpPolicy", env, seed=s["seed"], **chosen)


def train() -> dict:
    before = model.num_timesteps
    model.learn(s["total_steps"] // s["turns"], reset_num_timesteps=before == 0)
    return {"steps": model.num_timesteps - before}


def mean_return() -> float:
    if is_ppo:
        sync_envs_normalization(env, test_env)
    return evaluate_policy(model, test_env, s["episodes"])[0]


packages = ("stable-baselines3", "torch", "gymnasium", "mujoco")
serve(packages if is_ppo else ("sbx-rl", "jax", *packages), train, mean_return)
