"""Trains any learner by name on one environment: any number of seeds, one program.

    python experiments/train.py --learner ppo --env hopper --seeds 5
    python experiments/train.py --learner iql --data data/hopper_replay.npz
    python experiments/train.py --learner sac --env my_tasks:make_env

ppo.py, sac.py, td3.py, rlpd.py, offline.py and imitate.py are this script for some learners. Flags
default to the preset of the learner and the task (experiments/presets/); --help shows them.

Offline learners, and those that mix data into their batches, take --data. The environment is then the
one that the data set names, unless --env gives another. Scores are normalised if
experiments/record.py made the data in this environment: 0 is its random policy, 1 its expert.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import presets

from jaxrl.cli import script
from jaxrl.config import check
from jaxrl.data import describe as data_stats
from jaxrl.data import files as data_files
from jaxrl.learners import registry
from jaxrl.report import terminal
from jaxrl.run.plan import rounded_up


@dataclass
class Args(script.Args):
    env: str = ""  # one of envs.names(), SUITE/NAME (brax, playground, gymnax) or MODULE:FUNCTION
    learner: str = "ppo"  # one of jaxrl/learners/registry.py, rlpd, fast_td3 or fast_sac


@dataclass
class PriorArgs(Args):
    data: Path | None = (
        None  # a file or a LeRobot folder, mixed into every batch, see jaxrl/data/files.py
    )


@dataclass
class DataArgs(Args):
    data: Path | None = None  # a file or a LeRobot folder to learn from, see jaxrl/data/files.py
    terminals_are_timeouts: bool = False  # OGBench: they only mark where a recording ends
    cut_at: int = 0  # steps; ends episodes of a file that does not flag their ends
    weighted: float = 0.0  # temperature of return-weighted sampling; 0: uniform
    normalize_reward: bool = False  # scale rewards by 1000 / (best - worst return), as IQL does


READ_AS = ("weighted", "cut_at", "terminals_are_timeouts")  # shape the data of a run


def defaults(
    learner: str, env: str = "", data: str | None = None, total_steps: str | None = None
) -> Any:
    """The flags of a learner with its preset's values; its settings are the last field."""
    if learner not in presets.names():
        raise ValueError(f"learner={learner!r}: allowed are {', '.join(presets.names())}")
    takes = registry.takes(presets.VARIANTS.get(learner, learner))
    recorded = data_files.metadata_of(data) if data is not None and Path(data).exists() else {}
    task = env or recorded.get("env", "")
    preset = presets.of(learner, task)
    config, steps = preset.config, _number(total_steps) or preset.total_steps
    if hasattr(config, "schedule_steps") and takes == "dataset" and learner not in presets.ROAD:
        config = config.replace(schedule_steps=steps)
    base = {"prior": PriorArgs, "dataset": DataArgs}.get(takes, Args)
    options = {k: str(v) for k, v in preset.env.items()}
    if takes == "dataset" and task == recorded.get("env"):
        options = {}  # a policy is measured as it was recorded
    options |= script.recorded_options(recorded, task)
    flags = {"env": env, "learner": learner, "env_options": options} | preset.flags
    return script.with_config(base, config, total_steps=preset.total_steps, **flags)


def _number(text: str | None) -> float | None:
    """Returns the number, or None where it is none, which the parser of all flags refuses."""
    try:
        return float(text or "")
    except ValueError:
        return None


def main(learner: str = "ppo", env: str = "", allowed: tuple[str, ...] = ()) -> int:
    """Trains as the command line says.

    Args:
      learner, env: the defaults of --learner and --env.
      allowed: the learners of this script; (): all.
    """

    def chosen(learner: str, **flags: Any) -> Any:
        if allowed and learner not in allowed:
            raise ValueError(f"learner={learner!r}: allowed are {', '.join(allowed)}")
        return defaults(learner, **flags)

    args = script.parse(chosen, learner=learner, env=env, data=None, total_steps=None)
    name = presets.VARIANTS.get(args.learner, args.learner)
    module, takes = registry.module(name), registry.takes(name)
    data = getattr(args, "data", None)
    asked = args.config
    args.config = script.with_schedule(asked, args.total_steps)
    check(args.config)
    given, dataset, scale, about = (), None, None, {}
    if data is None and (takes == "dataset" or getattr(args.config, "prior_ratio", 0) > 0):
        raise ValueError(f"{args.learner} learns from data: add --data FILE")
    if data is not None:
        dataset = _load(args)
        script.env_of_data(args, dataset)
    if not args.env:
        raise ValueError("env='': add --env; `import envs; envs.names()` lists the tasks")
    env_made = script.prepare(
        args, registry.default_devices(args.config, args.seeds, args.eval_episodes)
    )
    if takes == "dataset":
        as_recorded = script.recorded_options(dataset.metadata, args.env) == args.env_options
        same = args.env == dataset.metadata.get("env") and as_recorded
        scale = data_stats.references(dataset) if same else None
        about = {name: getattr(args, name) for name in READ_AS}
        args.config = asked = _scaled(args, dataset)
        dataset = dataset.weighted(args.weighted) if args.weighted else dataset
    given = () if dataset is None else (dataset,)
    learner_made = module.make(env_made, args.config, *given)
    steps, _ = rounded_up(args.total_steps, learner_made.steps_per_iteration)
    if (config := script.with_schedule(asked, steps)) != args.config:  # ends with the run
        learner_made = module.make(env_made, config, *given)
    for text, value in learner_made.about.items():
        print(f"{text}: {terminal.number(value)}")
    return script.launch(name, args, learner_made, data, scale=scale, about=about)


def _load(args: Any) -> Any:
    if not isinstance(args, DataArgs):
        return data_files.load(args.data)
    if args.weighted < 0:
        raise ValueError(f"weighted={args.weighted}: must be above 0, or 0 for uniform sampling")
    dataset = data_files.load(args.data, args.terminals_are_timeouts, args.cut_at)
    rewarded = hasattr(args.config, "reward_scale") and hasattr(args.config, "gamma")
    unpaid = args.terminals_are_timeouts or dataset.metadata.get("unrewarded")
    if unpaid and rewarded and not dataset.steps.reward.any():
        raise ValueError(f"{args.data}: every reward is 0, from which only bc learns")
    return dataset


def _scaled(args: DataArgs, dataset: Any) -> Any:
    """Returns the settings; with --normalize-reward, `reward_scale` comes from the data."""
    config = args.config
    if not args.normalize_reward:
        return config
    if getattr(config, "reward_scale", None) != 1.0:
        scale = getattr(config, "reward_scale", None)
        raise ValueError(f"reward_scale={scale}: normalize_reward chooses it")
    spread = float(np.ptp(dataset.returns))
    if spread == 0:
        raise ValueError(f"normalize_reward: every return is {dataset.returns[0]:g}")
    return config.replace(reward_scale=1000.0 / spread)


if __name__ == "__main__":
    script.run(main)
