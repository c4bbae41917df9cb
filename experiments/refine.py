"""Demonstrations, imitation, refinement and evaluation on one task.

    python experiments/refine.py --env peg_insertion
    python experiments/refine.py --env peg_insertion --run-dir runs/road --resume

A scripted expert with noisy actions is recorded. A flow-matching policy clones it in chunks of
actions. PPO learns a residual on top of the frozen clone. Both are measured on the same episodes.
RUN holds demos.npz, the runs base/ and residual/ (with learning curves; `python -m jaxrl.play
RUN/residual` works), before_after.mp4, refine.png and refine.json. --resume continues an interrupted
run in its stage.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from presets import LONGER, RESIDUAL, road

import envs
from envs.transforms import residual
from envs.xla import seldom
from jaxrl.cli import play, plot, runs, script
from jaxrl.config import Whole, check
from jaxrl.data import describe as data_stats
from jaxrl.data import files as data_files
from jaxrl.data import recording
from jaxrl.episodes import evaluate
from jaxrl.learners import registry
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.learners.on_policy import ppo
from jaxrl.policies.scripted import scripted
from jaxrl.report import files, log, terminal
from jaxrl.report.summary import wilson
from jaxrl.run import checkpoint, folder, runtime
from jaxrl.run.plan import rounded_up

EVAL_EPISODES = 128  # after every part of a stage


@dataclass
class Args:
    env: str = "peg_insertion"  # one with an expert
    env_options: script.Options = field(default_factory=dict)
    demos: int = 50  # demonstrations; those that fail are left out
    noise: float = 0.3  # of the expert's hands, as in experiments/demos.py
    bc_updates: int = 5_000
    rl_steps: int = RESIDUAL["ppo"].total_steps  # environment steps
    scale: float = 0.5  # of corrections, in shares of half the action range
    seed: int = 0
    episodes: int = 256  # of the last evaluation
    video: bool = True
    run_dir: Path | None = None  # default: runs/refine_ENV_TIME
    resume: bool = False
    devices: int = 0  # that share the environments of the refinement; 0: what suits
    matmul_precision: Literal[runtime.PRECISIONS] = "default"  # of networks, not of physics
    base: imitation.Config = field(default_factory=imitation.Config)
    rl: ppo.Config = RESIDUAL["ppo"].config


def defaults(env: str) -> Args:
    preset = road(env)
    return Args(
        env=env,
        env_options={k: str(v) for k, v in preset.env.items()},
        bc_updates=preset.total_steps,
        rl_steps=Args.rl_steps * LONGER.get(env, 1),
        base=preset.config,
        **preset.flags,
    )


def description(args: Args, rl: ppo.Config) -> dict:
    """Returns the settings that must not change on a resume."""
    made_of = ("demos", "noise", "bc_updates", "rl_steps", "scale", "seed")
    options = script.numbers(args.env_options)
    about = folder.describe(folder.ROAD, args.env, options, args.base, {})
    settings = {
        "base": about["config"],
        "rl": folder.describe("ppo", args.env, options, rl, {})["config"],
    }
    config = {f"{part}.{k}": v for part, each in settings.items() for k, v in each.items()}
    return about | {"config": config, "train": {name: getattr(args, name) for name in made_of}}


def demonstrate(args: Args, env, path: Path) -> None:
    """Records the expert into `path`."""
    about = {"env": args.env, "env_overrides": script.numbers(args.env_options)}
    about |= {"kind": "scripted expert", "noise": args.noise}
    expert = scripted(env, args.noise)
    recorded = recording.record(expert, env, args.demos, jax.random.key(args.seed), metadata=about)
    success = data_stats.statistics(recorded).get("success", 0.0)
    print(f"the expert succeeds in {success:.3f} of {args.demos} episodes, which are kept")
    if success == 0:
        raise ValueError(
            f"{args.env}: the demonstrations end at success 0.000 of {args.demos} episodes, from"
            f" which nothing can be cloned; try less than --noise {args.noise:g}, more --demos or"
            " other --env-options in a new run"
        )
    data_files.save(recorded.successful(), path)


def stage(args: Args, run_dir: Path, total_steps: int, num_evals: int, devices: int) -> script.Args:
    """Returns the arguments of `script.launch` for a stage. A stage that has begun resumes."""
    return script.Args(
        env=args.env,
        env_options=args.env_options,
        seed=args.seed,
        total_steps=total_steps,
        num_evals=num_evals,
        eval_episodes=EVAL_EPISODES,
        run_dir=run_dir,
        resume=(run_dir / "config.json").exists(),
        devices=devices,
        video=False,
    )


def check_base(run_dir: Path) -> None:
    """Raises ValueError if the clone never succeeds, because a residual cannot refine it."""
    last = [r for r in log.read(run_dir) if r["kind"] == "eval" and "success" in r][-1:]
    if last and not any(last[0]["success"]):
        raise ValueError(
            f"{run_dir}: the clone ends at success 0.000 of {EVAL_EPISODES} episodes, from which no"
            " refinement begins; try more --demos, less --noise or more --bc-updates in a new run"
        )


def finished(run_dir: Path, total_steps: int) -> bool:
    return total_steps in checkpoint.steps(run_dir / "checkpoints")


def compare(args: Args, run_dir: Path, seconds: float) -> None:
    """Measures base and refined policy on the same episodes; table, figure and video.

    Raises:
      ValueError: the refined policy never succeeds. Everything has been written before.
    """
    base, refined = runs.load(run_dir / "base"), runs.load(run_dir / "residual")
    # Another seed than that of the demonstrations and the training.
    keys = jax.random.split(jax.random.key(args.seed + 1), args.episodes)
    measured, rows, summary = {}, [], {"env": args.env, "seconds_of_last_call": round(seconds, 1)}
    for name, run in (("base", base), ("base + residual", refined)):
        policy = run.policy()
        episodes = jax.device_get(
            jax.jit(lambda k, r=run, p=policy: evaluate(r.env, p, k), compiler_options=seldom())(
                keys
            )
        )
        measured[name] = np.nan_to_num(episodes["success"])  # a broken episode is a failure
        low, high = wilson(float(measured[name].sum()), args.episodes)
        length = float(np.nanmean(episodes["length"]))
        rows.append(
            [name, f"{measured[name].mean():.3f}", f"{low:.3f} .. {high:.3f}", f"{length:.0f}"]
        )
        summary[name] = {"success": float(measured[name].mean()), "interval": [low, high]}
    terminal.table(
        f"{args.env}: {args.episodes} episodes; this call took {seconds / 60:.1f} minutes",
        ["", "success", "95% interval", "steps"],
        rows,
    )
    with files.whole(run_dir / "refine.json") as part:
        part.write_text(json.dumps(summary, indent=2) + "\n")
    curve = [r for r in log.read(run_dir / "residual") if r["kind"] == "eval"]
    plot.before_after(
        [r["env_steps"] for r in curve],
        [float(np.nanmean(np.array(r["success"], float))) for r in curve],
        measured,
        run_dir / "refine.png",
        title=args.env,
    )
    print(f"figure: {run_dir / 'refine.png'}")
    if args.video:
        gain = measured["base + residual"] - measured["base"]
        key = keys[int(np.argmax(gain))]  # an episode in which only the refined policy succeeds
        pair = (refined.env, refined.policy())
        out = run_dir / "before_after.mp4"
        if play.record_video(base.env, base.policy(), out, beside=pair, key=key):
            print(f"video: {out}")
    check_refined(measured["base + residual"], run_dir / "residual")


def check_refined(success: np.ndarray, run_dir: Path) -> None:
    """Raises ValueError if no episode [E] of the refined policy succeeds."""
    if not success.any():
        raise ValueError(
            f"{run_dir}: the refinement ends at success 0.000 of {len(success)} episodes; try a"
            " smaller --scale, more --rl-steps or a smaller --rl.learning-rate in a new run"
        )


def validate(args: Args, rl: ppo.Config) -> None:
    """Raises ValueErrors of later stages now, before minutes of earlier stages."""
    for name in ("demos", "episodes", "bc_updates", "rl_steps"):
        Whole(1).check(name, getattr(args, name))
    if args.devices < 0:
        raise ValueError(f"devices={args.devices}: must be at least 0, which means what suits")
    if not args.scale > 0:
        raise ValueError(f"scale={args.scale}: must be above 0")
    runtime.check_seed(args.seed, 2)  # the second is that of the last evaluation
    check(args.base)
    check(rl)


def main() -> int:
    start = time.time()
    args = script.parse(defaults, prefixes=True, env=Args.env)
    validate(args, script.with_schedule(args.rl, args.rl_steps))
    args.bc_updates, _ = rounded_up(args.bc_updates, args.base.updates_per_step)
    args.rl_steps, _ = rounded_up(args.rl_steps, args.rl.num_envs * args.rl.unroll_length)
    rl = script.with_schedule(args.rl, args.rl_steps)
    devices = args.devices or registry.default_devices(rl, 1, EVAL_EPISODES)
    runtime.setup(devices, matmul_precision=args.matmul_precision)
    env = envs.make(args.env, **script.numbers(args.env_options))
    scripted(env, args.noise)  # ValueError where the task has no expert
    run_dir = args.run_dir or script.new_run_dir(f"refine_{args.env}")
    about = description(args, rl) | {"command": folder.command()}
    folder.open_run(run_dir, about, args.resume)

    demos = run_dir / "demos.npz"
    if not demos.exists():
        demonstrate(args, env, demos)

    base_dir = run_dir / "base"
    if not finished(base_dir, args.bc_updates):
        print(f"--- imitation: {args.bc_updates:,} updates")
        learner = imitation.make(env, args.base, data_files.load(demos))
        todo = stage(args, base_dir, args.bc_updates, num_evals=2, devices=1)
        if code := script.launch("imitation", todo, learner, demos, resume_dir=run_dir):
            return code

    check_base(base_dir)
    rl_dir = run_dir / "residual"
    if not finished(rl_dir, args.rl_steps):
        print(f"--- refinement: {args.rl_steps:,} environment steps")
        corrected = residual(env, runs.load(base_dir).policy(), args.scale)
        learner = ppo.make(corrected, rl)
        todo = stage(args, rl_dir, args.rl_steps, num_evals=10, devices=devices)
        about = {"run": base_dir, "seed_index": 0, "scale": args.scale}
        if code := script.launch("ppo", todo, learner, base=about, resume_dir=run_dir):
            return code

    compare(args, run_dir, time.time() - start)
    return 0


if __name__ == "__main__":
    script.run(main)
