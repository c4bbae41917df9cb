"""Records data sets from a run's checkpoints: random, medium, expert, and its replay buffer.

    python experiments/sac.py --env hopper --run-dir runs/hopper --keep-checkpoints 0
    python experiments/record.py runs/hopper --out data/hopper

writes data/hopper_random.npz and so on, with a page of statistics beside each. `medium` is the
first checkpoint half of the way from the first return to the last. `replay` are the whole episodes
in the replay of an off-policy run at that time ("medium-replay" of D4RL). Each file holds the mean
returns of the random policy and of the expert, which define normalised scores and `quality`.

    python experiments/record.py runs/refined/residual --kinds expert --out data/refined
    python experiments/imitate.py --data data/refined_expert.npz

distils a refined policy. Of a residual the executed actions are recorded, in the plain task's
observations and units. Its random policy acts without the base.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from envs.transforms.residual import Residual
from envs.types import sample_space
from jaxrl.cli import flags, plot, runs, script
from jaxrl.data import dataset as data
from jaxrl.data import describe as data_stats
from jaxrl.data import files as data_files
from jaxrl.data import recording
from jaxrl.report import log, terminal
from jaxrl.run import checkpoint, runtime
from jaxrl.types import Policy

KINDS = ("random", "medium", "expert", "replay")
SHOWN = ("episodes", "steps", "return_mean", "return_std", "quality", "coverage")


@dataclass
class Args:
    run: tyro.conf.Positional[Path]  # a run directory
    out: Path = Path("data/recorded")  # KIND.npz is added
    kinds: tuple[str, ...] = KINDS
    episodes: int = 100  # of each kind but replay
    medium: float = 0.5  # share of the last evaluation's return, counted from the first's
    deterministic: bool = False  # act by the mode instead of sampling
    seed: int = 0
    seed_index: int = 0  # which of the run's seeds
    suffix: str = ".npz"  # or ".hdf5"


def random_policy(env) -> Policy:
    """Uniform actions."""

    def apply(params, carry, obs, key, deterministic):
        return sample_space(env.action_space, key), carry

    return Policy((), lambda: (), apply)


def medium_step(run_dir: Path, share: float, seed_index: int) -> int:
    """The first checkpoint whose evaluation reached `share` of the way to the last."""
    evals = [r for r in log.read(run_dir) if r["kind"] == "eval" and "return" in r]
    of_seed = lambda r: np.ravel(np.array(r["return"], float))[seed_index]
    curve = {r["env_steps"]: of_seed(r) for r in evals}
    values = list(curve.values())
    if not np.isfinite(values).all():
        raise ValueError(f"{run_dir}: an evaluation has no return; choose --kinds random expert")
    if len(values) < 2:
        raise ValueError(f"{run_dir} was evaluated once only: train with --num-evals 2 or more")
    wanted = values[0] + share * (values[-1] - values[0])
    first = next((step for step in curve if step > 0 and curve[step] >= wanted), None)
    if first is None:
        raise ValueError(
            f"{run_dir}: no evaluation reached {wanted:.1f}, its return went from {values[0]:.1f}"
            f" to {values[-1]:.1f}; choose --kinds random expert"
        )
    if first in checkpoint.steps(run_dir / "checkpoints"):
        return first
    raise ValueError(
        f"{run_dir} kept no checkpoint from when it was at {wanted:.1f}:"
        " train with --keep-checkpoints 0"
    )


def check_run(args: Args) -> None:
    """Raises ValueError if the run cannot give the requested data, before anything is simulated."""
    run = runs.load(args.run)
    run.policy(args.seed_index)
    if {"medium", "replay"} & set(args.kinds):
        medium_step(args.run, args.medium, args.seed_index)
    if "replay" in args.kinds and not hasattr(run.state, "replay"):
        raise ValueError(
            f"{args.run}: a {run.config['learner']} run stores no replay; choose --kinds"
        )


def recorded(args: Args, kind: str) -> data.Dataset:
    """One kind of data from the run."""
    early = kind in ("medium", "replay")
    step = medium_step(args.run, args.medium, args.seed_index) if early else None
    run = runs.load(args.run, step)
    about = {
        "env": run.config["env"],
        "env_overrides": run.config["env_overrides"],
        "kind": kind,
        "learner": run.config["learner"],
        "env_steps": 0 if kind == "random" else run.env_steps,
    }
    env = run.env
    if kind == "replay":
        dataset = recording.from_replay(run.state, args.seed_index, env, about)
        return recording.plain_task(dataset, env)[0]
    while kind == "random" and isinstance(env, Residual):
        env = env.env
    policy = random_policy(env) if kind == "random" else run.policy(args.seed_index)
    key = jax.random.fold_in(jax.random.key(args.seed), KINDS.index(kind))
    dataset = recording.record(policy, env, args.episodes, key, args.deterministic, metadata=about)
    return recording.plain_task(dataset, env)[0]


def main() -> int:
    args = flags.read(Args)
    if not 0.0 <= args.medium <= 1.0:
        raise ValueError(f"medium={args.medium}: must be 0 .. 1")
    if args.episodes < 1:
        raise ValueError(f"episodes={args.episodes}: must be at least 1")
    for kind in args.kinds:
        if kind not in KINDS:
            raise ValueError(f"kinds={kind!r}: allowed are {', '.join(KINDS)}")
    paths = {k: args.out.with_name(f"{args.out.name}_{k}{args.suffix}") for k in args.kinds}
    for path in paths.values():
        data_files.check_new(path)
    runtime.check_seed(args.seed)
    runtime.setup()
    check_run(args)
    needed = [k for k in KINDS if k in (*args.kinds, "random", "expert")]
    made = {kind: recorded(args, kind) for kind in needed}
    scale = {f"{k}_return": float(made[k].returns.mean()) for k in ("random", "expert")}
    rows = []
    for kind, path in paths.items():
        dataset = made[kind]
        dataset.metadata.update(scale)
        data_files.save(dataset, path)
        plot.dataset_page(dataset, path.with_suffix(".png"), title=path.stem)
        stats = data_stats.statistics(dataset)
        shown = [stats.get(k, math.nan) for k in SHOWN]  # no quality where the two are equal
        rows.append([str(path), *(f"{x:,.4g}" for x in shown)])
    terminal.table("recorded", ["file", *(k.removesuffix("_mean") for k in SHOWN)], rows)
    return 0


if __name__ == "__main__":
    script.run(main)
