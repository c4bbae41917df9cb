"""Ours: SAC, or PPO on a gymnax or Brax task, by the same protocol as the peers."""

from __future__ import annotations

import sys
from pathlib import Path

from serve import serve, settings

from jaxrl.run import runtime

s = settings()
# As experiments/sac.py and ppo.py choose.
devices = runtime.default_devices(
    s["seeds"], s["num_envs" if s["learner"] == "ppo" else "batch_size"]
)
# The peers keep no programs either.
runtime.setup(devices, cache=False, matmul_precision=s["matmul_precision"])

import jax  # noqa: E402

import envs  # noqa: E402
from jaxrl.episodes import evaluate, summarize  # noqa: E402
from jaxrl.learners.off_policy import sac  # noqa: E402
from jaxrl.learners.on_policy import ppo  # noqa: E402

sys.path.append(str(Path(__file__).parent.parent))
from bench import Run  # noqa: E402

env = envs.make(s["env"], **s["env_options"])
hidden = {
    "actor_hidden": tuple(s["hidden"]),
    "critic_hidden": tuple(s.get("critic_hidden", s["hidden"])),
}
if s["learner"] == "sac":
    names = "num_envs updates_per_step batch_size replay_size learning_starts gamma tau".split()
    rates = {f"{part}_lr": s["learning_rate"] for part in ("actor", "critic", "alpha")}
    learner = sac.make(env, sac.Config(**{n: s[n] for n in names}, **rates, **hidden))
else:
    names = "num_envs unroll_length num_minibatches num_epochs learning_rate gamma gae_lambda"
    names += " clip_ratio value_coef entropy_coef max_grad_norm normalize_obs activation"
    learner = ppo.make(env, ppo.Config(**{n: s[n] for n in names.split()}, **hidden))

iterations = s["round_steps"] // learner.steps_per_iteration
runs, steps = None, 0
eval_keys = jax.random.split(jax.random.key(0), s["eval_episodes"])
of_run = lambda policy: summarize(evaluate(env, policy, eval_keys))["return"]
returns = jax.jit(jax.vmap(of_run))


def train() -> dict:
    global runs, steps
    if runs is None:
        runs = Run(
            learner, seeds=s["seeds"], seed=s["seed"], devices=devices, iterations=iterations
        )
    elif s["fresh"]:
        runs.reset()
    before, starts = steps, s.get("learning_starts", 0)
    jax.block_until_ready(runs())
    steps += iterations * learner.steps_per_iteration
    learned = max(0, min(steps - before, steps - starts)) // learner.steps_per_iteration
    updates = learned * s["seeds"] * s.get("updates_per_step", 0)
    return {"steps": runs.steps, "updates": updates}


def mean_return() -> float:
    return jax.device_get(returns(jax.vmap(learner.policy)(runs.state))).mean()


serve(("jaxrl", "jax", "mujoco-mjx"), train, mean_return)
