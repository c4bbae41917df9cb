"""Tunes numbers of a learner with Optuna: one compiled program answers all points of a batch.

    pip install -e ".[tune]"
    python experiments/tune.py --env cartpole_swingup --space learning_rate 1e-4 1e-2 gamma 0.95 0.999

Optuna proposes --points settings, which train side by side as an axis of one program, and is told
what each reached. This is repeated --batches times with the same program. A range that spans a factor
of ten or more is searched on a logarithmic scale.

The study is in --run-dir. The same command continues one that was stopped, from its last whole
batch, and proposes what it would have proposed. --batches may be raised.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import presets
import tyro

import envs
from envs.transforms.base import check_count
from jaxrl.cli import script
from jaxrl.config import check, numbers
from jaxrl.learners import registry
from jaxrl.report import terminal
from jaxrl.report.files import plain, read_json, whole
from jaxrl.report.summary import iqm
from jaxrl.run import runtime
from jaxrl.run.plan import rounded_up, validate
from jaxrl.run.program import Program
from jaxrl.types import Learner

STUDY, SETTINGS = "optuna.log", "tune.json"  # in the run directory
LOG_FACTOR = 10.0  # a range this wide is searched on a logarithmic scale
LISTED = 10  # points of the final table

Space = dict[str, tuple[float, float]]  # lowest and highest value of a number of the config
Answer = Callable[[Sequence[dict[str, float]]], np.ndarray]  # points to returns [points, seeds]


def _ranges(words: list[str]) -> Space:
    if len(words) % 3:
        raise ValueError(f"must be triples of NAME, LOW and HIGH, not {' '.join(words)!r}")
    triples = zip(words[::3], words[1::3], words[2::3], strict=True)
    return {name: (float(low), float(high)) for name, low, high in triples}


# One flag for all ranges.
Ranges = Annotated[
    dict[str, tuple[float, float]],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME LOW HIGH ...",
        instance_from_str=_ranges,
        is_instance=lambda x: isinstance(x, dict),
        str_from_instance=lambda space: [str(x) for k, v in space.items() for x in (k, *v)],
    ),
]


@dataclass
class Args:
    env: str = "cartpole_swingup"  # one of envs.names(), SUITE/NAME or MODULE:FUNCTION
    learner: str = "ppo"  # one of jaxrl/learners/registry.py that learns without data
    env_options: script.Options = field(default_factory=dict)  # for `envs.make`
    space: Ranges = field(default_factory=lambda: {"learning_rate": (1e-4, 1e-2)})
    points: int = 16  # that train side by side
    batches: int = 4  # of points
    seeds: int = 1  # of every point
    seed: int = 0  # of the first run, and of Optuna's sampler
    total_steps: float = 1e6  # environment steps per seed and point
    eval_episodes: int = 32  # of every seed and point, after training
    run_dir: Path = Path("runs/tune")  # a study in it goes on


class Answers:
    """One compiled program that trains any points and returns what they reach.

    Args:
      learner: whose numbers are tuned.
      points, seeds: how many points train side by side, and how many seeds of each.
      total_steps: environment steps of every run, a multiple of an iteration's.
      eval_episodes: per run, after training.
      seed: of the first run. Every point has the same seeds.
    """

    def __init__(
        self,
        learner: Learner,
        points: int,
        seeds: int,
        total_steps: int,
        eval_episodes: int,
        seed: int = 0,
    ):
        self._iterations = validate(
            learner, total_steps, points * seeds, eval_episodes=eval_episodes, seed=seed
        )
        self._learner, self._shape = learner, (points, seeds)
        self._keys = jnp.stack([jax.random.key(seed + i) for i in range(seeds)] * points)
        self._program = Program(learner, points * seeds, 1, eval_episodes)
        self.compile_seconds = self._program.compile()

    def __call__(self, points: Sequence[dict[str, float]]) -> np.ndarray:
        """Returns the mean return after training [points, seeds]; NaN where the run broke."""
        configs = [self._learner.config.replace(**point) for point in points]
        each = [c for c in configs for _ in range(self._shape[1])]
        stacked = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *each)
        program = self._program
        state, sums = program.init(self._keys, stacked), program.zero_sums()
        state, _ = program.step(state, sums, self._iterations)
        metrics, finite = jax.device_get(program.evaluate(state))
        return np.where(finite, metrics["return"], np.nan).reshape(self._shape)


def search(path: Path, space: Space, answer: Answer, points: int, batches: int, seed: int) -> Any:
    """Asks and tells until a study has `batches` batches of points; returns the study.

    Args:
      path: of the study's journal. A study in it goes on.
      space: the ranges.
      answer: trains points.
      points: in a batch.
      batches: in all, with those that the journal holds.
      seed: of the sampler. A study that was stopped proposes the same points as one that was not.

    Raises:
      ImportError: Optuna is not installed.
    """
    optuna = _optuna()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.create_study(
        storage=storage, study_name="tune", direction="maximize", load_if_exists=True
    )
    state = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):  # it was stopped
        study.tell(trial.number, state=state.FAIL)
    for batch in range(_batches_done(study, points), batches):
        study.sampler = optuna.samplers.TPESampler(
            seed=seed + batch, constant_liar=True, n_startup_trials=points
        )
        trials = [study.ask() for _ in range(points)]
        chosen = [
            {name: _suggested(trial, name, *space[name]) for name in space} for trial in trials
        ]
        returns = answer(chosen)  # [points, seeds]
        for trial, values in zip(trials, returns, strict=True):
            trial.set_user_attr("batch", batch)
            trial.set_user_attr("returns", [float(x) if np.isfinite(x) else None for x in values])
            broke = not np.isfinite(values).all()
            study.tell(trial, None if broke else iqm(values), state.FAIL if broke else None)
        print(f"batch {batch + 1} of {batches}: {_best_line(study)}", flush=True)
    return study


def _batches_done(study: Any, points: int) -> int:
    """Batches of which every point has been told."""
    told = [trial.user_attrs.get("batch") for trial in study.get_trials(deepcopy=False)]
    done = 0
    while told.count(done) == points:
        done += 1
    return done


def _suggested(trial: Any, name: str, low: float, high: float) -> float:
    return trial.suggest_float(name, low, high, log=low > 0 and high / low >= LOG_FACTOR)


def ranked(study: Any) -> list[Any]:
    """Returns the points of a study with a value, the best first."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    return sorted(trials, key=lambda trial: -trial.value)


def _best_line(study: Any) -> str:
    best = ranked(study)[:1]
    return f"best return so far {best[0].value:.5g}" if best else "every point broke"


def check_space(learner: Learner, space: Space) -> None:
    """Raises ValueError for a range that a learner cannot be tuned over."""
    allowed = numbers(learner.config)
    if not space:
        raise ValueError("space: is empty, add --space NAME LOW HIGH")
    for name, (low, high) in space.items():
        if name not in allowed:
            raise ValueError(f"space {name!r}: allowed are the numbers {', '.join(allowed)}")
        if not low < high:
            raise ValueError(f"space {name!r}: {low:g} .. {high:g} must be the lower value first")
        for value in (low, high):
            check(learner.config.replace(**{name: value}))


def open_study(run_dir: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a study, or compares them with those of the one in `run_dir`.

    Raises:
      ValueError: the study there has other settings.
      RuntimeError: they cannot be written.
    """
    settings = json.loads(json.dumps(settings))
    path = run_dir / SETTINGS
    if path.exists():
        saved = read_json(path, dict[str, Any])
        for name in sorted(settings.keys() | saved.keys()):
            if saved.get(name) != settings.get(name):
                raise ValueError(
                    f"{run_dir} holds a study with {name}={saved.get(name)!r}, not"
                    f" {settings.get(name)!r}: choose another --run-dir"
                )
        return
    with whole(path) as part:
        part.write_text(json.dumps(settings, indent=1) + "\n")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ImportError("tuning needs Optuna: pip install 'jaxrl[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def defaults(learner: str, env: str) -> Args:
    """The flags of a learner with its preset's values; its settings are the last field."""
    if learner not in presets.names():
        raise ValueError(f"learner={learner!r}: allowed are {', '.join(presets.names())}")
    if registry.is_offline(presets.VARIANTS.get(learner, learner)):
        raise ValueError(
            f"learner={learner!r}: learns from data alone, which tune.py does not load"
        )
    preset = presets.of(learner, env)
    given = {"env": env, "learner": learner, "total_steps": preset.total_steps}
    options = {name: str(value) for name, value in preset.env.items()}
    return script.with_config(Args, preset.config, env_options=options, **given)


def main() -> int:
    args = script.parse(defaults, learner=Args.learner, env=Args.env)
    _optuna()  # before anything is compiled
    for name in ("points", "batches", "seeds"):
        check_count(name, getattr(args, name), 1)
    name = presets.VARIANTS.get(args.learner, args.learner)
    if not float(args.total_steps).is_integer() or args.total_steps < 1:
        raise ValueError(f"total_steps={args.total_steps}: must be a whole number, at least 1")
    runtime.check_seed(args.seed, args.points * args.seeds)
    runtime.setup()
    env, module = envs.make(args.env, **script.numbers(args.env_options)), registry.module(name)
    asked = args.config
    check(script.with_schedule(asked, args.total_steps))
    learner = module.make(env, script.with_schedule(asked, args.total_steps))
    steps, said = rounded_up(args.total_steps, learner.steps_per_iteration)
    learner = module.make(env, script.with_schedule(asked, steps))
    check_space(learner, args.space)
    shown = ("learner", "env", "env_options", "space", "points", "seeds", "seed", "eval_episodes")
    settings = {key: getattr(args, key) for key in shown} | {"total_steps": steps}
    settings["config"] = {key: plain(value) for key, value in vars(learner.config).items()}
    open_study(args.run_dir, settings)
    print(f"{args.points} points with {args.seeds} seed{'s' * (args.seeds > 1)}, {said} each")
    answer = Answers(learner, args.points, args.seeds, steps, args.eval_episodes, args.seed)
    print(f"compiled in {answer.compile_seconds:.1f} s", flush=True)
    study = search(args.run_dir / STUDY, args.space, answer, args.points, args.batches, args.seed)
    report(study, args)
    return 0


def report(study: Any, args: Args) -> None:
    """Prints the best points, and the command that trains the first of them."""
    best = ranked(study)
    if not best:
        raise RuntimeError("every point broke: narrow --space")
    rows = [
        [
            trial.number,
            *(f"{trial.params[name]:.4g}" for name in args.space),
            f"{trial.value:.5g}",
            f"{min(trial.user_attrs['returns']):.5g}",
        ]
        for trial in best[:LISTED]
    ]
    broke = len(study.get_trials(deepcopy=False)) - len(best)
    title = f"The best of {len(best)} points" + f", {broke} broke or were stopped" * (broke > 0)
    terminal.table(title, ["point", *args.space, "return", "worst seed"], rows)
    words = " ".join(f"--{k.replace('_', '-')} {v:.6g}" for k, v in best[0].params.items())
    print(f"python experiments/train.py --learner {args.learner} --env {args.env} {words}")


if __name__ == "__main__":
    script.run(main)
