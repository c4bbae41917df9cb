"""Shared by the scripts in `experiments/`: flags, the run directory, the final report."""

from __future__ import annotations

import ast
import itertools
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

import envs
from jaxrl.cli import flags, play, plot, runs
from jaxrl.data import describe as data_stats
from jaxrl.data.files import digest
from jaxrl.report.files import cannot_write
from jaxrl.report.summary import bootstrap_interval, iqm
from jaxrl.report.terminal import digits as decimals
from jaxrl.report.terminal import run as run  # every script ends by `script.run(main)`
from jaxrl.report.terminal import table
from jaxrl.run import folder, hosts, runtime
from jaxrl.run.plan import rounded_up, validate
from jaxrl.run.train import Result, train
from jaxrl.types import Learner


def _pairs(words: list[str]) -> dict[str, str]:
    if len(words) % 2:
        raise ValueError(f"must be pairs of NAME and VALUE, not {' '.join(words)!r}")
    return dict(zip(words[::2], words[1::2], strict=True))


# One flag for all pairs. By default tyro makes a flag of each name in the default, and no others.
Options = Annotated[
    dict[str, str],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME VALUE ...",
        instance_from_str=_pairs,
        is_instance=lambda x: isinstance(x, dict),
        str_from_instance=lambda options: [word for pair in options.items() for word in pair],
    ),
]


@dataclass
class Args:
    """The flags that every training script has."""

    env: str  # one of envs.names(), or SUITE/NAME (brax, playground, gymnax)
    env_options: Options = field(default_factory=dict)  # for `envs.make`, on top of the default
    seeds: int = 1  # runs that train side by side
    seed: int = 0  # of the first run; the others count up
    total_steps: float = 1e6  # environment steps per seed (offline: updates)
    num_evals: int = 20  # evaluations, each followed by a checkpoint
    eval_episodes: int = 32  # per evaluation and seed
    run_dir: Path | None = None  # default: runs/LEARNER_ENV_TIME
    resume: bool = False  # go on with the run in --run-dir
    keep_checkpoints: int = 3  # how many stay on disk; 0: all
    keep_best: bool = False  # the checkpoint of the best evaluation stays, too
    stop_at_return: float | None = None  # end when the mean evaluation return reaches this
    devices: int = 0  # that share runs, environments or batches, of all hosts; 0: what suits
    matmul_precision: Literal[runtime.PRECISIONS] = "default"  # of networks, not of physics
    profile: Path | None = None  # write a profiler trace of a second of training here
    video: bool = True  # film an episode of the best seed at the end
    wandb: str | None = None  # Weights & Biases project


def parse(defaults: Callable[..., Any], prefixes: bool = False, **peek: str) -> Any:
    """Command-line flags over defaults that depend on some of them.

    `peek` names those flags and their defaults: `parse(defaults, env="hopper")` calls
    `defaults(env=...)` with what --env says, which returns the arguments dataclass filled in.
    So `--help` shows a preset's values. Fields of a nested config are flags of their own
    (`--learning-rate`), or with `prefixes` begin with its name (`--base.learning-rate`).

    Raises:
      ValueError: see `flags.read`.
    """
    words = command_line()
    first = flags.Parser(add_help=False, allow_abbrev=False)
    for name, value in peek.items():
        first.add_argument(f"--{name.replace('_', '-')}", default=value)
    args = defaults(**vars(first.parse_known_args(words)[0]))
    config = () if prefixes else (tyro.conf.OmitArgPrefixes,)
    options = args.env_options
    args = flags.read(type(args), words, default=args, config=config)
    args.env_options = options | args.env_options
    return args


def command_line() -> list[str]:
    """Returns the command line. With --resume: the stored one of that run, then the new flags."""
    script, *given = [Path(sys.argv[0]).name, *sys.argv[1:]]
    words = [_dashed(word) for word in given]
    first = flags.Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--run-dir", type=Path)
    first.add_argument("--resume", action="store_true")
    known = first.parse_known_args(words)[0]
    if not known.resume:
        return words
    if known.run_dir is None:
        raise ValueError("--resume needs --run-dir: which run is to go on?")
    config = folder.read_config(known.run_dir)
    folder.check_version(config, known.run_dir)
    by, *begun = config.get("command") or [script]
    if by != script:
        raise ValueError(f"{known.run_dir} was begun by {by}: resume with that, not {script}")
    return [*map(_dashed, begun), *words]


def _dashed(word: str) -> str:
    """Returns a flag with dashes: tyro also accepts --run_dir."""
    flag, *value = word.split("=", 1)
    return "=".join([flag.replace("_", "-"), *value]) if word.startswith("--") else word


def with_config(base: type, config: Any, **values: Any) -> Any:
    """Returns the arguments dataclass `base` with the settings of a learner as its last field."""
    kind = Annotated[type(config), tyro.conf.arg(help="")]
    fields = [("config", kind, field(default_factory=lambda: config))]
    # tyro finds the comments, which are the flags' help, by the class's module and name.
    place = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return make_dataclass("Args", fields, bases=(base,), namespace=place)(**values)


def env_of_data(args: Any, dataset: Any) -> None:
    """Fills in `args.env`, unless given, with the environment that the data set names.

    For that environment it also fills in the options of the recording.

    Raises:
      ValueError: the data set names no environment, an unknown one, or code, which a data set must
        not choose.
    """
    named = dataset.metadata.get("env", "")
    if not args.env and not named:
        raise ValueError(f"{args.data} does not name its environment: add --env")
    if not args.env and ":" in named:
        raise ValueError(
            f"{args.data}: metadata env={named!r} is code, which a data set cannot choose: add"
            f" --env {named} if you trust it"
        )
    if not args.env and "/" not in named and named not in envs.names():
        raise ValueError(f"{args.data}: metadata env={named!r}: no such task; add --env")
    args.env = args.env or named
    recorded = recorded_options(dataset.metadata, args.env)
    args.env_options = recorded | args.env_options
    args.from_data = {k for k, v in recorded.items() if args.env_options[k] == v}


def recorded_options(metadata: dict[str, Any], env: str) -> dict[str, str]:
    """Returns the options of the recording that has these metadata, if it is of `env`."""
    if env != metadata.get("env"):
        return {}
    return {k: str(v) for k, v in metadata.get("env_overrides", {}).items()}


def prepare(args: Args, default_devices: int) -> Any:
    """Sets JAX up for `args.devices`, then makes the environment. Call before any JAX array.

    Raises:
      ValueError: a flag out of range.
    """
    if not float(args.total_steps).is_integer() or args.total_steps < 1:
        raise ValueError(f"total_steps={args.total_steps}: must be a whole number, at least 1")
    if args.wandb == "":
        raise ValueError("wandb='': must be the name of a project")
    if args.devices < 0:
        raise ValueError(f"devices={args.devices}: must be at least 0, which means what suits")
    runtime.check_seed(args.seed)
    if args.profile is not None and args.profile.exists() and not args.profile.is_dir():
        raise ValueError(f"profile={args.profile}: exists, and is not a folder")
    args.devices = args.devices or default_devices
    runtime.setup(args.devices, matmul_precision=args.matmul_precision)
    try:
        return envs.make(args.env, **numbers(args.env_options))
    except ValueError as error:
        if not any(name in str(error) for name in getattr(args, "from_data", ())):
            raise
        raise ValueError(f"{args.data}: metadata env_overrides: {error}") from None


def launch(
    name: str,
    args: Args,
    learner: Learner,
    data_file: Path | None = None,
    sweep: dict[str, list[float]] | None = None,
    base: dict[str, Any] | None = None,
    scale: tuple[float, float] | None = None,
    about: dict[str, Any] | None = None,
    resume_dir: Path | None = None,
) -> int:
    """Trains into a run directory and reports; returns the exit code.

    Args:
      name: of the module in `jaxrl.learners` that made the learner.
      args, learner: the flags and the learner.
      data_file: the data file of the learner, if it has one.
      base: of a residual, {"run": its base's directory, "seed_index", "scale"}; the run directory
        keeps a copy of that run.
      sweep: see `jaxrl.run.train.train`.
      scale: returns of a random policy and of an expert, to report normalised scores by.
      about: further entries of `config.json` about the training, which must not change on a resume.
      resume_dir: the directory to name in the advice to resume, if it is not this run directory.
    """
    unit = learner.unit
    total_steps, said = rounded_up(args.total_steps, learner.steps_per_iteration, unit)
    settings = {
        "total_steps": total_steps,
        "seeds": args.seeds,
        "num_evals": args.num_evals,
        "eval_episodes": args.eval_episodes,
        "devices": args.devices,
    }
    if sweep:
        settings["sweep"] = sweep
    settings["seed"] = args.seed
    validate(learner, **settings, keep_checkpoints=args.keep_checkpoints)
    options = numbers(args.env_options)
    description = folder.describe(name, args.env, options, learner.config, settings, unit)
    about = about or {}
    if data_file is not None:
        about = {"data": str(data_file), "data_sha256": digest(data_file)[:16]} | about
    if (
        precision := jax.config.jax_default_matmul_precision
    ):  # from a flag or an environment variable
        about = about | {"matmul_precision": precision}
    description["train"] = settings | about
    if base is not None:
        description["residual"] = base | {"run": str(base["run"])}

    def opened() -> Path:
        run_dir = args.run_dir or new_run_dir(f"{'sweep' if sweep else name}_{args.env}")
        folder.open_run(run_dir, description | {"command": folder.command()}, args.resume)
        if base is not None:
            runs.keep_base(base["run"], run_dir)
        return run_dir

    if hosts.is_main():
        print(f"training {args.seeds} seed{'s' * (args.seeds > 1)}, {said} each")
    # Other processes write nothing, but they read the run that they resume.
    run_dir = hosts.by_main("run directory", opened) or args.run_dir or Path("runs")
    result = train(
        learner,
        **settings,
        run_dir=run_dir,
        resume=args.resume,
        keep_checkpoints=args.keep_checkpoints,
        keep_best=args.keep_best,
        stop_at_return=args.stop_at_return,
        profile=args.profile,
        wandb=args.wandb,
        config=description,
    )
    if result.interrupted:
        if hosts.is_main():
            print(f"saved; go on with --run-dir {resume_dir or run_dir} --resume")
        return 130
    if hosts.is_main():
        report(run_dir, learner, result, args.video, sweep, scale)
    return 0


def new_run_dir(name: str) -> Path:
    """Makes runs/NAME_TIME, with a suffix if that exists."""
    first = Path("runs") / f"{re.sub('[^A-Za-z0-9.-]', '_', name)}_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        run_dir = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            run_dir.mkdir(parents=True)
            return run_dir
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(run_dir, error) from error


def with_schedule(config: Any, total_steps: float) -> Any:
    """Returns the config with a schedule that ends with the run, unless it has a length."""
    return config.scheduled(total_steps) if hasattr(config, "scheduled") else config


def report(
    run_dir: Path,
    learner: Any,
    result: Result,
    video: bool = True,
    sweep: dict[str, list[float]] | None = None,
    scale: tuple[float, float] | None = None,
) -> None:
    """Prints the final table. Writes the learning curve and a video to `run_dir`."""
    final = dict(result.evals[-1]) if result.evals else None
    if final and scale:
        final["normalised score"] = data_stats.normalized(final["return"], *scale)
    settings = [
        ", ".join(
            f"{k}={v:g}" for k, v in zip(sweep or {}, values, strict=True) if len(sweep[k]) > 1
        )
        for values in itertools.product(*(sweep or {}).values())
    ]
    rows = []
    shown = ("return", "normalised score", "success", "success_at_end")
    measured = [k for k in shown if final and k in final]
    for name, i in itertools.product(measured, range(len(settings))):
        label = f"{name} {settings[i]}".rstrip()
        all_seeds = np.atleast_2d(final[name])[i]
        values = all_seeds[np.isfinite(all_seeds)]
        if not values.size:
            rows.append([label, "undefined: it broke", "", ""])
            continue
        broken = all_seeds.size - values.size
        low, high = bootstrap_interval(values)
        digits = decimals(values) if name == "return" else 3
        rows.append(
            [
                label + f", {broken} undefined" * (broken > 0),
                f"{iqm(values):.{digits}f}",
                f"{low:.{digits}f} .. {high:.{digits}f}" if values.size > 1 else "one seed",
                f"{values.min():.{digits}f} .. {values.max():.{digits}f}",
            ]
        )
    rate = result.env_steps * _num_runs(result) / max(result.seconds, 1e-9)
    table(
        f"{result.env_steps:,} {learner.unit} per seed, {result.seconds:.0f} s of training"
        f" ({rate:,.0f} steps/s), compiled in {result.compile_seconds:.0f} s",
        ["", "IQM over seeds", "95% interval", "min .. max"],
        rows,
    )
    if final is not None:
        plot.learning_curve([run_dir], run_dir / "learning_curve.png")
        print(f"curve: {run_dir / 'learning_curve.png'}")
    if video:
        returns = np.ravel(final["return"]) if final and "return" in final else np.zeros(1)
        best = int(np.argmax(np.nan_to_num(returns, nan=-math.inf)))  # NaN: its episodes broke
        one = learner.policy(jax.tree.map(lambda x: x[best], result.state))
        if path := play.record_video(learner.env, one, run_dir / "video.mp4"):
            which = f" (--seed-index {best})" if _num_runs(result) > 1 else ""
            print(f"video: {path}{which}")


def _num_runs(result: Result) -> int:
    return jax.tree.leaves(result.state)[0].shape[0]


def numbers(options: dict[str, str]) -> dict[str, Any]:
    """Returns option values as Python reads them: 0.5, true, none, (1, 2); else text."""
    words = {"true": True, "false": False, "none": None}

    def read(text: str) -> Any:
        if text.lower() in words:
            return words[text.lower()]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        except (RecursionError, MemoryError):
            raise ValueError(f"env_options: {text[:20]}... is nested too deeply") from None

    found = {name: read(text) for name, text in options.items()}
    for name, value in found.items():
        if value in (math.inf, -math.inf):  # such as 1e400, which Python reads as infinity
            raise ValueError(f"env_options: {name}={options[name]}: is larger than any number")
    return found
