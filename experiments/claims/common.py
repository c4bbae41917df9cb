"""What the claim scripts share: train variants with equal budgets, keep every raw number, compare.

A result file is a list of entries, one per variant and task, written after each: a script that
was stopped goes on where it was, and one that has finished measures nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import collect
import numpy as np

from jaxrl.cli import runs
from jaxrl.report import terminal
from jaxrl.report.summary import bootstrap_interval, iqm
from jaxrl.run.train import train
from jaxrl.types import Learner

RESULTS = Path(__file__).parent.parent / "results"


def load(name: str) -> list[dict]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


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

    With `sweep=(field, values)` all values train in one program, and each has an entry
    "VARIANT FIELD=VALUE". What `about` holds goes into the entry as it is, and what `found` makes
    of the result of training; `score` is applied to the values first.

    Returns the result of training, or None where it was there already. A run that a signal
    stopped is not kept.
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


def check_same(old: dict, new: dict, defaults: dict) -> None:
    """Raises ValueError where a kept entry was made with other settings than `new`.

    Settings of the learner that are newer than the entry must have their default.
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


def report(name: str, title: str) -> None:
    """Prints every variant's last evaluation, and what that says about the claim."""
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
    terminal.table("the claim", list(collect.COLUMNS), collect.compared(name, load(name)))


def derive(
    name: str, task: str, variant: str, parts: list[str], combine: Any, metric: str = ""
) -> None:
    """Adds an entry whose seeds are `combine`d [parts, evals, seeds] -> [evals, seeds].

    `combine` may return the last evaluation only.
    """
    entries = load(name)
    have = {e["variant"]: e for e in entries if e["task"] == task}
    values = combine(np.array([have[p]["values"] for p in parts]))
    entries = [e for e in entries if (e["task"], e["variant"]) != (task, variant)]
    derived = {"task": task, "variant": variant, "metric": metric or have[parts[0]]["metric"]}
    derived |= {k: have[parts[0]][k] for k in ("seeds", "steps", "seconds")}
    derived |= {"steps": derived["steps"][-len(values) :], "values": values.round(4).tolist()}
    save(name, [*entries, derived])
