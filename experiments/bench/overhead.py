"""How much of what the machine could do training achieves.

    python experiments/bench/overhead.py
    python experiments/bench/overhead.py --ppo half_cheetah --sac --out overhead.json

A training iteration of the preset, in turn with (a) as many random-action steps of the same
environments, and (b) a matrix product, whose rate prices the floating-point work of the
networks. The limit is (a) plus that work: what an iteration would take if nothing but physics
and matrix products cost time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro
from bench import Args as BenchArgs
from bench import Run, interleave, make_env, random_stepping, ratio, spread, write
from presets import PPO, SAC

from envs.types import Discrete, Env
from jaxrl.cli import script
from jaxrl.learners import registry
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.nn import spaces as acting
from jaxrl.report import terminal
from jaxrl.run import runtime

MATMUL = 1024  # side of the square matrices that the machine's rate is measured with
MATMULS = 20


@dataclass
class Args(BenchArgs):
    ppo: tuple[str, ...] = ("hopper", "half_cheetah")  # tasks with a preset
    sac: tuple[str, ...] = ("hopper", "half_cheetah")
    seeds: int = 6  # side by side; even, so that two cores share them
    iterations: int = 1  # of PPO a call; SAC's are many times smaller: 64 times as many
    num_envs: int = 0  # 0: the preset's


# --- Floating-point operations ---


def mlp_flops(sizes: Sequence[int]) -> int:
    """Of one sample forward: a multiplication and an addition per weight. Backward costs twice."""
    return sum(2 * a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def obs_sizes(env: Env, config: Any) -> tuple[int, int]:
    """Of the actor's and the critic's observation."""
    obs = jax.eval_shape(env.reset, jax.random.key(0)).obs
    select = lambda keys: jax.eval_shape(lambda x: acting.select(x, keys, 0), obs).shape[0]
    return select(config.actor_obs), select(config.critic_obs)


def ppo_flops(env: Env, c: ppo.Config) -> int:
    """Of the networks, without a GRU, in one iteration of one run.

    Collecting evaluates both once a step; every epoch takes every step forward and backward.
    """
    actor_obs, critic_obs = obs_sizes(env, c)
    space = env.action_space
    size = space.n if isinstance(space, Discrete) else math.prod(space.shape)
    outputs = size * (1 if isinstance(space, Discrete) or c.distribution == "normal" else 2)
    both = mlp_flops((actor_obs, *c.actor_hidden, outputs))
    both += mlp_flops((critic_obs, *c.critic_hidden, 1))
    return c.num_envs * c.unroll_length * both * (1 + 3 * c.num_epochs)


def sac_flops(env: Env, c: sac.Config) -> int:
    """Of the networks in one iteration of one run: collection and all its updates."""
    actor, critic_update, actor_update = sac_parts(env, c)
    updates = c.updates_per_step * (critic_update + actor_update / c.policy_delay)
    return int(c.num_envs * c.unroll_length * actor + updates)


def sac_parts(env: Env, c: sac.Config) -> tuple[int, int, int]:
    """Of an action, of a critics' update and of an actor's update."""
    actor_obs, critic_obs = obs_sizes(env, c)
    size = math.prod(env.action_space.shape)
    actor = mlp_flops((actor_obs, *c.actor_hidden, 2 * size))
    critics = c.num_critics * mlp_flops((critic_obs + size, *c.critic_hidden, 1))
    target = actor + critics  # the next action and its value
    critic_update = c.batch_size * (target + 3 * critics)
    # Through the critics to the action only: forward, and half of a backward.
    actor_update = c.batch_size * (3 * actor + 2 * critics)
    return actor, critic_update, actor_update


# --- Measuring ---


def matmul_loop():
    """`MATMULS` products of square matrices, each on the last one's result."""
    x = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL)) / MATMUL**0.5
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, MATMULS, lambda _, y: y @ x, x))
    return lambda: loop(x)


def config_of(algorithm: str, task: str, args: Args) -> ppo.Config | sac.Config:
    preset = {"ppo": PPO, "sac": SAC}[algorithm][task]
    config = preset.config.replace(num_envs=args.num_envs or preset.config.num_envs)
    if algorithm == "ppo":
        return script.with_schedule(config, preset.total_steps)
    return config.replace(learning_starts=0)  # every round that counts learns


def devices_of(algorithm: str, config: ppo.Config | sac.Config, args: Args) -> int:
    """As experiments/ppo.py and sac.py choose, whose evaluations must be shared as well."""
    return registry.default_devices(config, args.seeds, eval_episodes=0)


def measure(algorithm: str, task: str, args: Args) -> dict[str, Any]:
    env, config = make_env(task), config_of(algorithm, task, args)
    if algorithm == "ppo":
        learner, flops, iterations = ppo.make(env, config), ppo_flops(env, config), 1
    else:
        learner, flops, iterations = sac.make(env, config), sac_flops(env, config), 64
    devices = devices_of(algorithm, config, args)
    # Environments that SAC's devices do not share, random actions cannot share either.
    stepping_devices = devices if args.seeds % devices == 0 else math.gcd(devices, config.num_envs)
    settings = {"seeds": args.seeds, "iterations": iterations * args.iterations}
    stepping = random_stepping(env, config.num_envs, config.unroll_length, config.resets)
    runs = {
        "training": Run(learner, seed=args.seed, devices=devices, **settings),
        "random": Run(stepping, seed=args.seed, devices=stepping_devices, **settings),
    }
    seconds = interleave(runs | {"matmul": matmul_loop()}, args.rounds)
    rate = 2 * MATMUL**3 * MATMULS / seconds["matmul"]  # [rounds] operations a second
    network = flops * args.seeds * settings["iterations"] / rate
    limit = seconds["random"] + network
    steps = runs["training"].steps
    row = {
        "learner": algorithm,
        "task": task,
        "num_envs": config.num_envs,
        "seeds": args.seeds,
        "devices": devices,
        "training_steps_per_second": steps / seconds["training"],
        "random_steps_per_second": steps / seconds["random"],
        "limit_steps_per_second": steps / limit,
        "network_share_of_limit": float(np.median(network / limit)),
        "flops_per_step": flops / learner.steps_per_iteration,
        "of_random": ratio(seconds["random"], seconds["training"]),
        "of_limit": ratio(limit, seconds["training"]),
        "matmul_flops_per_second": rate,
        "compile_seconds": runs["training"].compile_seconds,
        "memory_bytes": runs["training"].memory_bytes,
    }
    return row


def main(args: Args) -> dict[str, float]:
    jobs = [("ppo", task) for task in args.ppo] + [("sac", task) for task in args.sac]
    runtime.setup(
        max([devices_of(a, config_of(a, task, args), args) for a, task in jobs], default=1)
    )
    rows, ratios = [], {}
    for algorithm, task in jobs:
        rows.append(measure(algorithm, task, args))
        for k in ("of_random", "of_limit"):
            ratios[f"{algorithm}/{task}/{k}"] = rows[-1][k]
        write(args.out, "overhead", args, rows, ratios)
    terminal.table(
        "Environment steps per second of all seeds",
        ["", "training", "random actions", "limit", "of random", "of limit"],
        [
            [
                f"{r['learner']} {r['task']}",
                *(spread(r[f"{k}_steps_per_second"]) for k in ("training", "random", "limit")),
                f"{r['of_random']:.0%}",
                f"{r['of_limit']:.0%}",
            ]
            for r in rows
        ],
    )
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Args))
