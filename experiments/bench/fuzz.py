"""Random settings of every learner, and hostile inputs: each works or is refused in one line.

    python experiments/bench/fuzz.py --configs 500 --out fuzz.json

About one field of a small configuration is replaced, by a good value or a bad one; some runs share
two devices, some learners have prior data. Each trains two steps or is refused. A refusal is a
ValueError of one line, raised by our own code, that names a setting before its first = or colon. Every
`--cli`th configuration is given to the learner's script as flags instead, which must end with exit code
0 or 2 and no traceback.

    python experiments/bench/fuzz.py --hostile 2000 --out fuzz_hostile.json

tries hostile inputs of the kinds in `hostile/` instead: files of a run, of a data set and of results
mutated by type, HDF5 that leads to other files, folders of checkpoints after a kill, functions that are
called with arguments of another type, options of environments and flags beyond what a number holds,
surroundings of a command. On two quiet cores 2,000 take some ten minutes.

Each input runs in a fork of this process, which has imported everything. Another exception, a hang and a
death count against us, and are printed with their number, which shows it again: `--first 17 --hostile 1`.
Exit code 1 if there was any.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import jax
import numpy as np
from bench import write
from jax._src import xla_bridge

import envs
from experiments.bench import forks
from jaxrl.cli import flags, script
from jaxrl.data import dataset as data
from jaxrl.data import files as data_files
from jaxrl.learners import registry
from jaxrl.report import terminal
from jaxrl.run import runtime
from jaxrl.run.train import train

ROOT = Path(__file__).parents[2]
LEARNERS = tuple(registry.LEARNERS)
OFFLINE = tuple(name for name in LEARNERS if registry.takes(name) == "dataset")
WITH_PRIOR = tuple(name for name in LEARNERS if registry.takes(name) == "prior")
SMALL = {
    "num_envs": 8,
    "unroll_length": 2,
    "num_minibatches": 2,
    "num_epochs": 1,
    "updates_per_step": 2,
    "policy_delay": 1,
    "batch_size": 8,
    "replay_size": 64,
    "learning_starts": 8,
    "actor_hidden": (4,),
    "critic_hidden": (4,),
    "hidden": (4,),
    "horizon": 4,
    "execute": 2,
    "denoise_steps": 2,
    "width": 8,
    "layers": 1,
}
# Kinds of hostile inputs, and how many of a hundred are of each.
KINDS = {
    "files": 30,
    "links": 12,
    "checkpoints": 14,
    "calls": 22,
    "options": 10,
    "commands": 6,
    "surroundings": 6,
}
BATCH = 100  # inputs of one fork at most; every compiled program holds memory
CHANGED = 1.0  # fields, on average
NUMBERS = (0.0, -1.0, 1e-3, 0.5, 0.95, 1.0, 3.0, 1e6, math.inf, math.nan)
COUNTS = (-1, 0, 1, 2, 3, 4, 8, 16)
TUPLES = ((), (4,), (4, 8), (0,), ("obs",), ("nonsense",))
WORDS = ("", "nonsense") + tuple(
    "linear cosine adaptive constant clip mdpo normal tanh_normal relu tanh gelu min mean flow"
    " diffusion gaussian mlp transformer open_loop ensemble streaming pool fresh cached".split()
)
# What a refusal may name, besides a field of the learner's configuration.
NAMES = "seeds num_evals eval_episodes devices sweep total_steps action_space data".split()
NAMES += ["env", "num_agents", "signals"]  # what an environment lacks
OWN = {"her": "point_maze_open", "ippo": "meeting", "ppo_lagrangian": "cruise"}  # tasks for these
TASKS = ("point_maze_open", "pendulum_swingup", "gymnax/Pendulum-v1", "gymnax/CartPole-v1")
Groups = Iterator[tuple[str, Callable[[], Callable[[int], str]], Iterable[int]]]


@dataclass
class Args:
    configs: int = 500  # random settings
    hostile: int = 0  # hostile inputs instead of settings
    kinds: tuple[str, ...] = tuple(KINDS)  # of hostile inputs, see `hostile/`
    first: int = 0
    seconds: int = 300  # for one of them, until it counts as a hang
    tasks: tuple[str, ...] = TASKS
    cli: int = 20  # every how many configurations one goes through a script; 0: none
    out: Path | None = None  # JSON file for the outcomes


@dataclass
class Drawn:
    """The same one for the same number."""

    learner: str
    task: str
    settings: dict[str, Any]
    how: dict[str, Any]  # arguments of `train`
    prior: bool  # data beside what an online learner collects

    def config(self) -> Any:
        return module_of(self.learner).Config(**self.settings)

    def make(self) -> Any:
        env = envs.make(self.task)
        given = [recorded(env)] if self.prior or self.learner in OFFLINE else []
        return module_of(self.learner).make(env, self.config(), *given)


def module_of(learner: str) -> Any:
    return registry.module(learner)


def draw(number: int, tasks: tuple[str, ...]) -> Drawn:
    rng = np.random.default_rng([number, 20])
    pick = lambda values: values[rng.integers(len(values))]
    task = pick(tasks)
    name = "ppo" if "CartPole" in task and rng.random() < 0.8 else pick(LEARNERS)  # discrete
    task = OWN[name] if name in OWN and rng.random() < 0.8 else task
    config = module_of(name).Config()
    settings = {k: v for k, v in SMALL.items() if hasattr(config, k)}
    prior = name in WITH_PRIOR and rng.random() < 0.2
    if prior:
        settings["prior_ratio"] = 0.5
    fields = dataclasses.fields(config)
    for field in fields:
        if rng.random() > CHANGED / len(fields):
            continue
        old = getattr(config, field.name)
        kind = next(k for k in (bool, int, float, str, tuple) if isinstance(old, k))
        values = {bool: (False, True), int: COUNTS, float: NUMBERS, str: WORDS, tuple: TUPLES}[kind]
        settings[field.name] = pick(values)
    how = {
        "seeds": pick((1, 1, 1, 1, 1, 2, 2, 0)),
        "num_evals": pick((1, 0)),
        "eval_episodes": pick((1, 2, 2)),
        "devices": pick((1, 1, 1, 1, 2, 2, 2, 3)),
    }
    if rng.random() < 0.1:
        how["sweep"] = {
            pick(("gamma", "learning_rate", "nonsense")): pick(([0.5, 0.9], [], [math.nan]))
        }
    return Drawn(name, task, settings, how, prior)


def one(drawn: Drawn) -> str:
    """Trains two steps. "trained", or why it was refused; raises what should not be."""
    try:
        learner = drawn.make()
        train(learner, 2 * learner.steps_per_iteration, quiet=True, **drawn.how)
    except ValueError as error:
        text = str(error).strip()
        by = Path(extract_tb(error.__traceback__)[-1].filename)
        if "\n" in text or not any(by.is_relative_to(ROOT / x) for x in ("jaxrl", "envs")):
            raise
        return refused(drawn, text)
    return "trained"


def refused(drawn: Drawn, text: str) -> str:
    named = re.findall(r"\w+", re.split("[=:]", text)[0].replace("-", "_").lstrip("_"))
    if not {*NAMES, *vars(drawn.config())} & set(named):
        raise RuntimeError(f"names no setting: {text}")
    return "refused: " + text.split("=")[0][:60]


def flags_of(drawn: Drawn) -> list[str]:
    """Every field, since a script's defaults are those of a preset; a sweep has its own script."""
    try:
        steps = 2 * drawn.make().steps_per_iteration
    except ValueError:
        steps = 64
    words = ["--env", drawn.task, "--total-steps", str(steps), "--no-video"]
    for name, value in (vars(drawn.config()) | drawn.how).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name != "sweep":
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def by_script(drawn: Drawn, seconds: float) -> str:
    """As `one`, through the command line."""
    words = ["experiments/train.py", "--learner", drawn.learner, *flags_of(drawn)]
    with tempfile.TemporaryDirectory() as folder:
        words += ["--run-dir", f"{folder}/run"]
        if drawn.prior or drawn.learner in OFFLINE:
            data_files.save(recorded(envs.make(drawn.task)), f"{folder}/data.npz")
            words += ["--data", f"{folder}/data.npz"]
        quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        done = forks.run(words, ROOT, quick, 0.9 * seconds)
        last = (done.stderr.strip().splitlines() or [""])[-1].replace(f"{folder}/data.npz", "data")
    if done.returncode not in (0, 2) or "Traceback" in done.stderr:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {last}")
    if done.returncode == 2 and last.startswith("error: "):
        return f"by script, {refused(drawn, last.removeprefix('error: '))}"
    return f"by script, {'a flag refused' if done.returncode else 'trained'}"


def recorded(env: Any) -> data.Dataset:
    """Ten episodes of ten random steps."""
    rng, size = np.random.default_rng(0), 100
    obs = jax.tree.map(
        lambda x: rng.normal(size=(size, *x.shape)).astype(np.float32),
        jax.eval_shape(env.reset, jax.random.key(0)).obs,
    )
    action = rng.uniform(-1, 1, (size, *env.action_space.shape))
    no, ends = np.zeros(size, bool), np.arange(size) % 10 == 9
    return data.from_arrays(obs, action, np.ones(size), obs, no, ends)


def try_all(args: Args, name: str, numbers: Groups) -> int:
    """Tries inputs group by group, prints what became of them, and returns the exit code.

    Args:
      args, name: of the results file.
      numbers: for each group its kind, what `forks.each` starts with, and the numbers of its inputs.
    """
    started, outcomes, bad = time.time(), collections.Counter(), []
    for kind, start, those in numbers:
        if xla_bridge.backends_are_initialized():  # a fork would wait for its threads' locks
            raise AssertionError(f"{kind}: this process must not use JAX")
        for number, outcome, wrong in forks.each(start, those, args.seconds, BATCH):
            if wrong:
                outcome = f"broke: {wrong.split(':')[0]}"
                bad.append({"number": number, "outcome": outcome, "why": wrong})
                print(f"{number}: {kind}: {wrong}", flush=True)
            outcomes[kind, outcome] += 1
        done, seconds = outcomes.total(), time.time() - started
        print(f"{done} tried, {len(bad)} broke, {seconds:.0f} s", flush=True)
    rows = [{"kind": k, "outcome": v, "inputs": n} for (k, v), n in sorted(outcomes.items())]
    write(args.out, name, args, rows + bad, {})
    terminal.table(f"{time.time() - started:.0f} s", [*rows[0]], [[*r.values()] for r in rows])
    return 1 if bad else 0


def settings(args: Args) -> Groups:
    """Random settings, in the order of their numbers."""

    def start() -> Callable[[int], str]:
        runtime.setup(2)
        jax.config.update("jax_disable_most_optimizations", True)  # half of the time to compile
        jax.config.update("jax_traceback_filtering", "off")  # to see who refused

        def call(number: int) -> str:
            drawn = draw(number, args.tasks)
            by_cli = args.cli and number % args.cli == args.cli - 1
            try:
                return by_script(drawn, args.seconds) if by_cli else one(drawn)
            except Exception as error:
                raise RuntimeError(f"{terminal.reason(error)}, with {drawn}") from error

        return call

    yield "settings", start, range(args.first, args.first + args.configs)


def inputs(args: Args) -> Groups:
    """Hostile inputs, in order of their kinds."""
    of_kind = collections.defaultdict(list)
    for number in range(args.first, args.first + args.hostile):
        of_kind[kind_of(number, args.kinds)].append(number)
    with tempfile.TemporaryDirectory() as folder:
        for name, numbers in of_kind.items():
            kind = importlib.import_module(f"experiments.bench.hostile.{name}")

            def start(kind: Any = kind) -> Callable[[int], str]:
                runtime.setup(1)
                made = kind.prepare(Path(tempfile.mkdtemp(dir=folder)))

                def call(number: int) -> str:
                    case = made(number)
                    try:
                        return case.outcome()
                    except Exception as error:
                        text = f"{case.what}: {type(error).__name__}: {terminal.reason(error)}"
                        raise RuntimeError(text) from error

                return call

            yield name, start, sorted(numbers, key=getattr(kind, "group", lambda number: 0))


def kind_of(number: int, kinds: tuple[str, ...]) -> str:
    """The kind of the hostile input of this number, always the same one."""
    shares = np.array([KINDS[kind] for kind in kinds])
    return str(np.random.default_rng([number, 21]).choice(kinds, p=shares / shares.sum()))


def main() -> int:
    args = flags.read(Args)
    if args.hostile:
        return try_all(args, "fuzz_hostile", inputs(args))
    return try_all(args, "fuzz", settings(args))


if __name__ == "__main__":
    script.run(main)
