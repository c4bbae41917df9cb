"""Measures what MJX, and `physics="fast"` in particular, changes against Gymnasium's originals.

    python experiments/bench/parity.py
    python experiments/bench/parity.py --tasks ant humanoid --physics fast --out parity.json

Two measurements per task and physics, both under uniformly random actions. One control step
from states that Gymnasium visits, the same on both sides: how far observation and reward
come out. And whole episodes, cut at `horizon` on both sides: their return and length.
With `--out` the rows replace those of the same task and physics in the file, so a long
measurement can be made in parts. Ratios: the error over the size of an observation, over the
spread of rewards where they differ, and the episodes' length over Gymnasium's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from bench import compiled, peak_memory, rounded, versions
from gymnasium.envs.mujoco.humanoid_v5 import mass_center
from rich.console import Console
from rich.table import Table

import envs
from envs.adapters.originals import ORIGINALS
from envs.registry import TASKS
from envs.types import Env, State
from jaxrl.run import runtime

# The derived point that is part of the state (`envs.physics.TrackedPhysics`).
TRACKED: dict[str, Callable[[Any], np.ndarray]] = {
    "ant": lambda original: original.data.body(1).xpos[:2].copy(),
    "humanoid": lambda original: mass_center(original.model, original.data),
    "humanoid_standup": lambda original: mass_center(original.model, original.data),
}


@dataclass
class Args:
    tasks: tuple[str, ...] = tuple(ORIGINALS)
    physics: tuple[str, ...] = ("accurate", "fast")
    num_envs: int = 64  # episodes on each side, and steps compared at once
    num_states: int = 512  # one-step comparisons
    horizon: int = 200  # control steps at which episodes are cut, if the task's limit does not
    seed: int = 0
    out: Path | None = None  # JSON file to add the rows to


@dataclass
class Visits:
    """Transitions of Gymnasium's environment, and its episodes."""

    before: list[dict[str, np.ndarray]]  # state leaves before the step
    action: np.ndarray  # [S, nu]
    obs: np.ndarray  # [S, obs]
    reward: np.ndarray  # [S]
    terminated: np.ndarray  # [S]
    contact: np.ndarray  # [S] whether anything touched
    returns: np.ndarray  # [E]
    lengths: np.ndarray  # [E]


def visit(name: str, num_episodes: int, horizon: int, seed: int) -> Visits:
    """Plays random episodes in the original and keeps every transition."""
    original = gymnasium.make(ORIGINALS[name]).unwrapped
    rng = np.random.default_rng(seed)
    rows, returns, lengths = [], [], []
    for episode in range(num_episodes):
        original.reset(seed=seed + episode)
        rewards = []
        for _ in range(horizon):
            before = {
                "qpos": original.data.qpos.copy(),
                "qvel": original.data.qvel.copy(),
                "qacc_warmstart": original.data.qacc_warmstart.copy(),
            }
            if name in TRACKED:
                before["tracked"] = TRACKED[name](original)
            space = original.action_space
            action = rng.uniform(space.low, space.high).astype(np.float32)
            obs, reward, terminated, _, _ = original.step(action)
            rows.append((before, action, obs, reward, terminated, original.data.ncon > 0))
            rewards.append(reward)
            if terminated:
                break
        returns.append(sum(rewards))
        lengths.append(len(rewards))
    before, *columns = zip(*rows, strict=True)
    return Visits(list(before), *map(np.array, columns), np.array(returns), np.array(lengths))


def one_step(step: Callable, state: State, visits: Visits, args: Args) -> dict[str, float]:
    """Compares single control steps from a sample of the visited states."""
    rng = np.random.default_rng(args.seed)
    rounds = max(1, min(args.num_states, len(visits.reward)) // args.num_envs)
    chosen = rng.choice(len(visits.reward), (rounds, args.num_envs), replace=rounds == 1)
    obs_error, reward_error, wrong_end = [], [], []
    for rows in chosen:
        leaves = {
            k: jnp.asarray(np.stack([visits.before[i][k] for i in rows]), jnp.float32)
            for k in visits.before[0]
        }
        new = step(
            state.replace(data=state.data.replace(**leaves)), jnp.asarray(visits.action[rows])
        )
        obs_error.append(np.asarray(new.obs) - visits.obs[rows])
        reward_error.append(np.asarray(new.reward) - visits.reward[rows])
        wrong_end.append(np.asarray(new.terminated) != visits.terminated[rows])
    obs_error, reward_error = np.concatenate(obs_error), np.concatenate(reward_error)
    worst = np.abs(obs_error).max(axis=1)
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))
    sample = chosen.ravel()
    return {
        "states": int(sample.size),
        "contact_share": float(visits.contact[sample].mean()),
        "obs_rms": rms(visits.obs[sample]),
        "obs_error_rms": rms(obs_error),
        "obs_error_median_of_worst_entry": float(np.median(worst)),
        "obs_error_p95_of_worst_entry": float(np.percentile(worst, 95)),
        "reward_std": float(visits.reward[sample].std()),
        "reward_error_rms": rms(reward_error),
        "reward_error_median": float(np.median(np.abs(reward_error))),
        "terminated_differs_share": float(np.concatenate(wrong_end).mean()),
    }


def episodes(env: Env, step: Callable, state: State, args: Args) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths [N] of random episodes from `state`, cut at the horizon."""
    n, rng = args.num_envs, np.random.default_rng(args.seed + 1)
    returns, lengths, running = np.zeros(n), np.zeros(n, int), np.ones(n, bool)
    space = env.action_space
    for _ in range(args.horizon):
        action = rng.uniform(space.lows, space.highs, (n, *space.shape)).astype(np.float32)
        state = step(state, jnp.asarray(action))
        returns += np.where(running, np.asarray(state.reward), 0.0)
        lengths += running
        running &= ~np.asarray(state.terminated)
        if not running.any():
            break
    return returns, lengths


def measure(name: str, physics: str, visits: Visits, args: Args) -> dict[str, Any]:
    env = envs.make(name, physics=physics, time_limit=None)
    keys = jax.random.split(jax.random.key(args.seed), args.num_envs)
    state = jax.jit(jax.vmap(env.reset))(keys)
    action = jnp.zeros((args.num_envs, *env.action_space.shape))
    step, compile_seconds, memory_bytes = compiled(jax.jit(jax.vmap(env.step)), state, action)
    start = time.perf_counter()
    returns, lengths = episodes(env, step, state, args)
    errors = one_step(step, state, visits, args)
    seconds = time.perf_counter() - start
    error = lambda x: float(x.std() / np.sqrt(x.size))  # of the mean
    return {
        "task": name,
        "physics": physics,
        **errors,
        "episodes": {
            side: {
                "return": float(r.mean()),
                "return_error": error(r),
                "length": float(n.mean()),
                "length_error": error(n),
            }
            for side, (r, n) in {
                "gymnasium": (visits.returns, visits.lengths),
                "ours": (returns, lengths),
            }.items()
        },
        "horizon": args.horizon,
        "num_episodes": args.num_envs,
        "seed": args.seed,
        "compile_seconds": compile_seconds,
        "seconds": seconds,  # of our side, with what the host does between steps
        "memory_bytes": memory_bytes,
    }


def ratios_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Errors over what they are errors of, and our episodes' length over Gymnasium's."""
    ratios = {}
    for r in rows:
        label, sides = f"{r['task']}/{r['physics']}", r["episodes"]
        ratios[f"{label}/obs_error"] = r["obs_error_rms"] / r["obs_rms"]
        if r["reward_std"] > 0:  # else every reward is the same
            ratios[f"{label}/reward_error"] = r["reward_error_rms"] / r["reward_std"]
        ratios[f"{label}/length"] = sides["ours"]["length"] / sides["gymnasium"]["length"]
    return ratios


def write(path: Path, row: dict[str, Any]) -> None:
    """Adds or replaces one row of the results file, one line each."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    same = lambda r: (r["task"], r["physics"]) == (row["task"], row["physics"])
    rows = sorted([r for r in rows if not same(r)] + [row], key=lambda r: (r["task"], r["physics"]))
    about = {
        "benchmark": "parity",
        "hardware": runtime.hardware(),
        "versions": versions(("jax", "mujoco", "mujoco-mjx", "gymnasium", "numpy")),
        "actions": "uniformly random",
        "peak_memory_bytes": peak_memory(),
        "ratios": rounded(ratios_of(rows)),
    }
    lines = ",\n".join(json.dumps(r) for r in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about)[:-1] + f',\n"rows": [\n{lines}\n]}}\n')


def table(rows: list[dict[str, Any]]) -> Table:
    out = Table(title="One control step from Gymnasium's states; random episodes")
    for column in ("task", "physics", "contact", "obs error", "median", "reward error"):
        out.add_column(column)
    for column in ("reward std", "return (Gymnasium)", "length (Gymnasium)"):
        out.add_column(column)
    for r in rows:
        ours, theirs = r["episodes"]["ours"], r["episodes"]["gymnasium"]
        out.add_row(
            r["task"],
            r["physics"],
            f"{r['contact_share']:.0%}",
            f"{r['obs_error_rms']:.1e}",
            f"{r['obs_error_median_of_worst_entry']:.1e}",
            f"{r['reward_error_rms']:.1e}",
            f"{r['reward_std']:.2g}",
            f"{ours['return']:.1f} ({theirs['return']:.1f} ± {theirs['return_error']:.1f})",
            f"{ours['length']:.1f} ({theirs['length']:.1f} ± {theirs['length_error']:.1f})",
        )
    return out


def main() -> None:
    given = tyro.cli(Args)
    unknown = sorted(set(given.tasks) - set(ORIGINALS))
    if unknown:
        raise SystemExit(f"no Gymnasium original for {', '.join(unknown)}: {', '.join(ORIGINALS)}")
    rows = []
    for name in given.tasks:
        args = replace(given, horizon=min(given.horizon, TASKS[name].limit))
        visits = visit(name, args.num_envs, args.horizon, args.seed)
        for physics in given.physics:
            rows.append(rounded(measure(name, physics, visits, args)))
            if given.out:
                write(given.out, rows[-1])
    Console().print(table(rows))


if __name__ == "__main__":
    main()
