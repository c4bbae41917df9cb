"""Shared by the claims: train the variants, keep every raw number, compare.

A claim is a file `experiments/claims/FAMILY/NAME.py` with `NAME`, a tuple `COMPARISONS` and a
`main`. Its results file, `experiments/results/NAME.json`, is a list with one entry per task and
variant. `measure` adds an entry after each training, so a claim that was stopped continues where
it stopped, and a claim that is complete trains nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from jaxrl.cli import runs
from jaxrl.report import terminal
from jaxrl.report.files import Schema, read_json
from jaxrl.report.summary import bootstrap_interval, difference_interval, iqm, verdict
from jaxrl.run import folder, runtime
from jaxrl.run.train import train
from jaxrl.types import Learner

RESULTS = Path(__file__).parent.parent / "results"


Seeds = Annotated[list[float | None], Field(min_length=1)]  # a number of each; null: undefined


class Entry(Schema):
    """What a variant reached on one task: an entry of results/CLAIM.json."""

    task: str
    variant: str
    metric: str
    seeds: folder.Count = 1
    seconds: Annotated[float, Field(ge=0)] = 0.0
    steps: Annotated[list[int], Field(min_length=1)]
    values: Annotated[list[Seeds], Field(min_length=1)]

    @model_validator(mode="after")
    def one_length(self) -> Entry:
        if len(self.steps) != len(self.values):
            raise ValueError("of one length in steps and values")
        return self


def read(path: Path, schema: type[Schema] = Entry) -> list[dict]:
    """The entries of a results file; none if there is no file.

    Raises:
      ValueError: one is not what `schema` says; names the file and the entry.
    """
    try:
        return read_json(path, list[schema])
    except FileNotFoundError:
        return []


@dataclass(frozen=True)
class Comparison:
    """One sentence of a claim: `better` beats `baseline` on every task that has both.

    Attributes:
      text: the sentence that is checked.
      better, baseline: names of variants in the results file.
      tolerance: makes the claim "not worse": `better` may be worse by this share of every
        baseline value. In [0, 1), and only without a margin.
      margin: differences of at most this size do not matter, in the metric's units, >= 0.
      relative_margin: the same as a share of the baseline's IQM. Give one margin or none.
      lower_is_better: the claim is that `better` has the smaller values.
      papers: ids ("S001") of the papers that this comparison is about. A paper that no comparison
        of the claim names is shown with the comparisons that name no paper.
    """

    text: str
    better: str
    baseline: str
    tolerance: float = 0.0
    margin: float = 0.0
    relative_margin: float = 0.0
    lower_is_better: bool = False
    papers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"{self.text}: tolerance={self.tolerance} must be in [0, 1)")
        for field in ("margin", "relative_margin"):
            if not (value := getattr(self, field)) >= 0:
                raise ValueError(f"{self.text}: {field}={value} must be 0 or more")
        if sum(x > 0 for x in (self.tolerance, self.margin, self.relative_margin)) > 1:
            raise ValueError(
                f"{self.text}: give one of tolerance={self.tolerance}, margin={self.margin}"
                f" and relative_margin={self.relative_margin}"
            )

    @property
    def asked(self) -> str:
        """The baseline as the claim uses it, for example "ppo less 5%"."""
        sign = "plus" if self.lower_is_better else "less"
        return self.baseline + (f" {sign} {self.tolerance:.0%}" if self.tolerance else "")


@dataclass(frozen=True)
class Compared:
    """A comparison on one task. Without a baseline only the first three fields are set."""

    comparison: Comparison
    task: str
    metric: str
    better: np.ndarray | None = None  # [seeds], at the last evaluation
    baseline: np.ndarray | None = None  # [seeds], less the tolerance
    interval: tuple[float, float] = (0.0, 0.0)  # 95%, of IQM(better) - IQM(baseline)
    margin: float = 0.0  # in the metric's units
    verdict: str = "not run"
    steps: int = 0  # of `better`


def compared(comparisons: Sequence[Comparison], entries: list[dict]) -> list[Compared]:
    """Every comparison on every task whose `better` variant is in `entries`, task by task."""
    final = {(e["task"], e["variant"]): e for e in entries}
    tasks = dict.fromkeys(e["task"] for e in entries)
    return [
        _compare(c, final[task, c.better], final.get((task, c.baseline)))
        for task in tasks
        for c in comparisons
        if (task, c.better) in final
    ]


def _compare(c: Comparison, better: dict, baseline: dict | None) -> Compared:
    about = (c, better["task"], better.get("metric", "return"))
    if baseline is None:
        return Compared(*about)
    a, b = (np.array(e["values"][-1], float) for e in (better, baseline))
    sign = -1 if c.lower_is_better else 1
    b = b - sign * c.tolerance * np.abs(b)
    low, high = difference_interval(a, b)
    margin = c.margin or c.relative_margin * abs(iqm(b))
    word = verdict((low, high) if sign > 0 else (-high, -low), margin)
    return Compared(*about, a, b, (low, high), margin, word, better["steps"][-1])


SPREAD = "IQM (worst .. best seed)"
COLUMNS = ("task", "claimed better", SPREAD, "than", SPREAD, "difference, 95% interval", "margin")
COLUMNS += ("verdict", "seeds", "steps")


def cells(row: Compared) -> list[str]:
    """`row` as texts, one for each of `COLUMNS`."""
    c, (low, high) = row.comparison, row.interval
    if row.better is None:
        return [row.task, c.better, "", c.asked, "", "", "", row.verdict, "", ""]
    lower = c.lower_is_better
    return [
        *(row.task, c.better, spread(row.better, lower), c.asked, spread(row.baseline, lower)),
        *(f"{low:+.4g} .. {high:+.4g}", f"{row.margin:.3g}" if row.margin else "", row.verdict),
        *(str(row.better.size), f"{row.steps:,}"),
    ]


def spread(values: np.ndarray, lower_is_better: bool = False) -> str:
    ends = (values.max(), values.min()) if lower_is_better else (values.min(), values.max())
    return f"{iqm(values):.4g} ({ends[0]:.4g} .. {ends[1]:.4g})"


def load(name: str) -> list[dict]:
    return read(RESULTS / f"{name}.json")


def save(name: str, entries: list[dict]) -> None:
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]\n")
    part.replace(path)


def measure(
    name: str,
    task: str,
    variant: str,
    make: Any,
    total_steps: int,
    *,
    seeds: int,
    seed: int = 0,
    num_evals: int = 10,
    eval_episodes: int = 32,
    learner_name: str = "",
    metric: str = "return",
    devices: int = 1,
    sweep: tuple[str, list[float]] | None = None,
    about: dict[str, Any] | None = None,
    found: Callable[[Any], dict[str, Any]] = lambda result: {},
    score: Any = lambda x: x,
) -> Any:
    """Trains `make() -> Learner` and adds its entry to results/NAME.json, unless it is there.

    Args:
      total_steps: environment steps per seed, or updates of an offline learner.
      seed: of the first run. Settings are chosen on other seeds than those that are reported.
      metric: the evaluation metric that is kept.
      sweep: `(field, values)` trains all values in one program. Each value has an entry of its
        own, "VARIANT FIELD=VALUE".
      about: further fields of the entry.
      found: `found(result)` gives further fields of the entry from the result of training.
      score: maps every value before it is stored.

    Returns:
      The result of training, or None if the entry was there already.

    Raises:
      ValueError: the entry that is there was made with other settings.
      KeyboardInterrupt: a signal stopped the training. Nothing is stored.
    """
    entries = load(name)
    field, settings = sweep or ("", [None])
    variants = [f"{variant} {field}={v:g}" if sweep else variant for v in settings]
    learner: Learner = make()
    made = runs.describe(learner_name or variant, task, {}, learner.config, {})
    fixed = {"seeds": seeds, "eval_episodes": eval_episodes, "config": made["config"]}
    fixed |= {"versions": made["versions"], "hardware": made["hardware"]} | (about or {})
    for old in entries:
        if (old["task"], old["variant"]) == (task, variants[-1]):
            new = fixed | {"steps": [total_steps]}
            new["config"] = {k: v for k, v in made["config"].items() if k != field}
            plain = runs.describe("", task, {}, type(learner.config)(), {})["config"]
            check_same(old, new, plain)
            return None
    print(f"--- {task}: {variant}")
    result = train(
        learner,
        total_steps,
        seeds=seeds,
        seed=seed,
        num_evals=num_evals,
        eval_episodes=eval_episodes,
        devices=devices,
        sweep={field: settings} if sweep else None,
    )
    if result.interrupted:
        raise KeyboardInterrupt
    for i, (label, value) in enumerate(zip(variants, settings, strict=True)):
        curve = [e[metric][i] if sweep else e[metric] for e in result.evals]
        entries.append(
            {"task": task, "variant": label, "metric": metric}
            | fixed
            | {
                "steps": [e["env_steps"] for e in result.evals],
                "values": [[round(float(score(x)), 4) for x in row] for row in curve],
                "seconds": round(result.seconds, 1),  # of all values of a sweep
                "compile_seconds": round(result.compile_seconds, 1),
                "config": made["config"] | ({field: value} if sweep else {}),
            }
            | found(result)
        )
    save(name, entries)
    return result


def add(
    name: str,
    task: str,
    variant: str,
    compute: Callable[[], np.ndarray],
    *,
    seeds: int,
    steps: Sequence[int] = (0,),
    metric: str = "return",
    config: dict[str, Any] | None = None,
) -> None:
    """Adds the entry of a variant that no `Learner` trains, such as a planner or an exact solver.

    Args:
      compute: returns the values, [evals, seeds], or [seeds] for one evaluation. It is not called
        if the entry is there already.
      steps: the steps before each evaluation, [evals]: of the environment, or 0 where there is none.
      metric: the name of the values.
      config: the settings that the values depend on, as JSON can hold them.

    Raises:
      ValueError: the values have another shape or are not finite, or the entry that is there was
        made with other settings.
    """
    entries = load(name)
    made = {"task": task, "variant": variant, "metric": metric, "seeds": seeds}
    made |= {"steps": list(steps), "config": json.loads(json.dumps(config or {}))}
    for old in entries:
        if (old["task"], old["variant"]) == (task, variant):
            check_same(old, made, {})
            return
    print(f"--- {task}: {variant}")
    started = time.perf_counter()
    values = np.asarray(compute(), float)
    values = values[None] if values.ndim == 1 else values
    if values.shape != (len(steps), seeds) or not np.isfinite(values).all():
        raise ValueError(
            f"{task}, {variant}: values of shape {list(values.shape)} must be finite and of shape"
            f" {[len(steps), seeds]}, [evals, seeds]"
        )
    made |= {"values": [[float(f"{x:.6g}") for x in row] for row in values]}
    made |= {"seconds": round(time.perf_counter() - started, 1)}
    save(name, [*entries, made | {"versions": runs.versions(), "hardware": runtime.hardware()}])


def check_same(old: dict, new: dict, defaults: dict) -> None:
    """Raises ValueError if the entry `old` was made with other settings than `new`.

    A setting that the entry does not have yet must be at its default.
    """
    have, want = (e | e["config"] | {"total_steps": e["steps"][-1]} for e in (old, new))
    have = defaults | have
    apart = ("config", "steps", "versions", "hardware", "eval_episodes")
    for field in sorted(want.keys() - set(apart)):
        if field in have and have[field] != want[field]:
            raise ValueError(
                f"{old['task']}, {old['variant']}: kept with {field}={have[field]},"
                f" now {want[field]}; delete the entry to measure it anew"
            )


def report(name: str, title: str, comparisons: Sequence[Comparison]) -> None:
    """Prints the last evaluation of every variant, then the verdict of every comparison."""
    rows = []
    for e in load(name):
        final = np.array(e["values"][-1])
        low, high = bootstrap_interval(final)
        rows.append(
            [
                e["task"],
                e["variant"],
                f"{iqm(final):.4g}",
                f"{low:.4g} .. {high:.4g}",
                f"{final.min():.4g} .. {final.max():.4g}",
                str(final.size),
                f"{e['steps'][-1]:,}",
                f"{e['seconds']:.0f}",
            ]
        )
    columns = ["task", "variant", "IQM", "95% interval", "min .. max", "seeds", "steps", "seconds"]
    terminal.table(title, columns, rows)
    rows = [[r.comparison.text, r.task, r.verdict] for r in compared(comparisons, load(name))]
    terminal.table("the claim", ["claim", "task", "verdict"], rows)


def derive(
    name: str, task: str, variant: str, parts: list[str], combine: Any, metric: str = ""
) -> None:
    """Adds an entry made from other entries of the task, `parts`.

    Args:
      combine: maps values [parts, evals, seeds] to [evals, seeds]. It may return the last
        evaluation only.
    """
    entries = load(name)
    have = {e["variant"]: e for e in entries if e["task"] == task}
    values = combine(np.array([have[p]["values"] for p in parts]))
    derived = {"task": task, "variant": variant, "metric": metric or have[parts[0]]["metric"]}
    derived |= {k: have[parts[0]][k] for k in ("seeds", "steps", "seconds")}
    derived |= {"steps": derived["steps"][-len(values) :], "values": values.round(4).tolist()}
    if variant in have:  # it keeps its place
        entries[entries.index(have[variant])] = derived
    else:
        entries.append(derived)
    save(name, entries)
