"""On an NVIDIA GPU: the same numbers as on a CPU, and what is promised of programs there.

Without one these are skipped. What the CPU says comes from a process that sees no GPU.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes import Probe, assert_same

import envs
from envs.types import sample_space
from envs.vector import vectorize
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.report import log
from jaxrl.run import runtime
from jaxrl.run.program import Program, configs_of
from jaxrl.run.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("optimised"),
    pytest.mark.skipif("NVIDIA" not in jax.devices()[0].device_kind, reason="needs an NVIDIA GPU"),
]

ENV = Probe(length=2.0, pays_goal=1.0, goal=0.5, sees_clock=1.0)
SIZES = dict(num_envs=32, gamma=0.9, actor_hidden=(16,), critic_hidden=(16,), activation="tanh")
LEARNERS = {
    "ppo": ppo.make(
        ENV, ppo.Config(unroll_length=4, num_minibatches=2, learning_rate=1e-2, **SIZES)
    ),
    "sac": sac.make(
        ENV,
        sac.Config(
            unroll_length=2,
            updates_per_step=8,
            batch_size=64,
            replay_size=32 * 64,
            learning_starts=0,
            tau=0.1,
            actor_lr=3e-3,
            critic_lr=3e-3,
            init_alpha=0.1,
            alpha_lr=3e-3,
            target_entropy=-2.0,
            **SIZES,
        ),
    ),
}
ITERATIONS = 200


def steps_of(task: str, num_envs: int = 8, steps: int = 5) -> dict[str, np.ndarray]:
    """[steps, num_envs, ...]: observations and rewards under random actions."""
    env = envs.make(task, physics="fast")
    vec = vectorize(env, num_envs)

    def step(state, key):
        keys = jax.random.split(key, num_envs)
        action = jax.vmap(lambda k: sample_space(env.action_space, k))(keys)
        state = vec.step(state, action)
        return state, {"obs": state.now.obs, "reward": state.now.reward}

    keys = jax.random.split(jax.random.key(1), steps)
    out = jax.jit(lambda key: jax.lax.scan(step, vec.reset(key), keys)[1])(jax.random.key(0))
    return {name: np.asarray(x) for name, x in out.items()}


def learn(name: str, run_dir: Path, iterations: int = ITERATIONS, **options):
    total = iterations * LEARNERS[name].steps_per_iteration
    options = dict(num_evals=2, num_logs=iterations, eval_episodes=32, quiet=True) | options
    with jax.default_matmul_precision("float32"):  # a GPU would take TF32
        return train(LEARNERS[name], total, run_dir=run_dir, tensorboard=False, **options)


def first_metrics(run_dir: Path) -> dict[str, Any]:
    """Of the first iteration, without what the clock says."""
    first = next(record for record in log.read(run_dir) if record["kind"] == "train")
    return {k: v for k, v in first.items() if k not in ("kind", "seconds", "steps_per_second")}


def on_cpu(code: str) -> None:
    """Runs `code` after `from test_gpu import *` in a process without a GPU."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", f"from test_gpu import *\n{code}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("task", ["inverted_pendulum", "hopper"])
def test_physics_is_that_of_the_cpu(task, tmp_path):
    on_cpu(f"np.savez({str(tmp_path / 'cpu.npz')!r}, **steps_of({task!r}))")
    cpu, gpu = np.load(tmp_path / "cpu.npz"), steps_of(task)
    for name, x in gpu.items():
        np.testing.assert_allclose(x, cpu[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_first_iteration_is_that_of_the_cpu(name, tmp_path):
    on_cpu(f"learn({name!r}, Path({str(tmp_path / 'cpu')!r}), iterations=2)")
    learn(name, tmp_path / "gpu", iterations=2)
    gpu, cpu = first_metrics(tmp_path / "gpu"), first_metrics(tmp_path / "cpu")
    assert gpu.keys() == cpu.keys() and gpu["env_steps"] > 0
    for k, x in gpu.items():
        assert x != [None], k  # not a number
        np.testing.assert_allclose(x, cpu[k], rtol=1e-2, atol=2e-3, err_msg=k)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_and_resumes_bit_for_bit(name, tmp_path):
    whole = learn(name, tmp_path / "whole")
    before, after = (x["return"].mean() for x in (whole.evals[0], whole.evals[-1]))
    assert before < after > -0.05  # 0 is perfect
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(sorted((tmp_path / "half" / "checkpoints").iterdir())[-1])
    assert_same(learn(name, tmp_path / "half", resume=True).state, whole.state)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_takes_over_the_memory_of_the_state(name):
    learner = LEARNERS[name]
    program = Program(learner, 1, 1, 4)
    program.compile()
    keys = jax.random.split(jax.random.key(0), 1)
    state = program.init(keys, configs_of(learner.config, {}, 1, 1))
    assert {x.devices().pop() for x in jax.tree.leaves(state)} == {jax.devices()[0]}
    after, _ = program.step(state, program.zero_sums(), 1)
    jax.block_until_ready(after)
    assert all(x.is_deleted() for x in jax.tree.leaves(state) if x.size)


def test_a_gpu_is_one_device():
    assert runtime.default_devices(4, 1024) == 1
