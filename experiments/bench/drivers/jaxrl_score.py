"""Ours, with the preset of a task, scored in Gymnasium's own environment."""

from __future__ import annotations

import sys
from pathlib import Path

from serve import serve, settings

s = settings()
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]

import jax  # noqa: E402
import numpy as np  # noqa: E402

import envs  # noqa: E402
from experiments import presets  # noqa: E402
from jaxrl.learners import registry  # noqa: E402
from jaxrl.originals import evaluate_on_original  # noqa: E402
from jaxrl.run import runtime  # noqa: E402

preset = presets.of(s["learner"], s["task"])
total_steps = s["total_steps"] or preset.total_steps
config = preset.config
if hasattr(config, "scheduled"):
    config = config.scheduled(total_steps)
devices = registry.default_devices(config, s["seeds"], s["episodes"])
runtime.setup(devices, cache=False)  # the peers keep no programs either

from bench import Run  # noqa: E402

name = presets.VARIANTS.get(s["learner"], s["learner"])
learner = registry.module(name).make(envs.make(s["task"], **preset.env), config)
turn = max(1, round(total_steps / s["turns"] / learner.steps_per_iteration))
runs = None


def train() -> dict:
    global runs
    if runs is None:
        runs = Run(learner, seeds=s["seeds"], seed=s["seed"], devices=devices, iterations=turn)
    jax.block_until_ready(runs())
    return {"steps": turn * learner.steps_per_iteration}


def mean_return() -> float:
    state = jax.device_get(runs.state)
    each = []
    for i in range(s["seeds"]):
        policy = learner.policy(jax.tree.map(lambda x, i=i: x[i], state))
        measured = evaluate_on_original(s["task"], policy, s["episodes"], **preset.env)
        each.append(measured["return"].mean())
    return float(np.mean(each))


serve(("jaxrl", "jax", "mujoco-mjx", "mujoco", "gymnasium"), train, mean_return)
