"""Collects finished runs into a results file, and writes every generated page.

    python experiments/collect.py runs/ppo_hopper runs/ppo_reacher --out experiments/results/ppo.json
    python experiments/collect.py --tables

Runs on a Gymnasium task are evaluated in Gymnasium's own environment, too.
`--tables` writes the tables of README.md, claims/README.md and docs/requests.md, and the whole of
PAPERS.md. They come from experiments/results/*.json, the claims in experiments/claims/FAMILY/,
papers.toml and docs/requests.toml.
"""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import importlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field, model_validator

from envs.adapters.originals import ORIGINALS
from experiments import papers
from experiments.claims import common
from experiments.docs import asked
from jaxrl.cli import flags, runs, script
from jaxrl.originals import EPISODES, evaluate_on_original
from jaxrl.report import log, terminal
from jaxrl.report.files import Option, Schema
from jaxrl.report.summary import bootstrap_interval, iqm
from jaxrl.run import folder

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments/results"
CLAIMS = ROOT / "experiments/claims"
SCORED = ("ppo_1m", "sac_320k")  # results files of README.md's first table,
FAST = ("ppo", "sac", "td3", "drq")  # its second one
GPU = ("gpu_ppo", "gpu_sac")  # and its third one
# Mean returns in Gymnasium's tasks after as many steps. PPO after a million: Tianshou's MuJoCo benchmark
# (ten seeds, v2 and v3, the maximum of the curve), for swimmer Stable-Baselines3's zoo (one run, v3). SAC
# after 320,000: the baselines in SimbaV2's repository (v4).
PUBLISHED = {
    "ppo_1m": {
        "ant": 3258,
        "half_cheetah": 5784,
        "hopper": 2609,
        "inverted_double_pendulum": 9231,
        "reacher": -4.1,
        "swimmer": 282,
        "walker2d": 3588,
    },
    "sac_320k": {"half_cheetah": 8715, "hopper": 2212},
}
PAGES = {
    "results": ROOT / "README.md",
    "fast": ROOT / "README.md",
    "published": ROOT / "README.md",
    "gpu": ROOT / "README.md",
    "papers": ROOT / "README.md",
    "claims": CLAIMS / "README.md",
    "requests": asked.PAGE,
}


class Original(Schema):
    """What the final policies of a run reach in Gymnasium's own environment."""

    id: str  # such as Hopper-v5
    episodes: Annotated[int, Field(ge=1)]  # of every seed, from fixed seeds 0 ..
    returns: Annotated[common.Seeds, Field(alias="return")]  # mean of each seed, modes of actions


class Result(Schema):
    """What a preset reached on one task: an entry of results/LEARNER.json."""

    learner: str
    env: str
    env_overrides: dict[str, Option]
    config: dict[str, Option]
    train: folder.Train
    seconds: Annotated[float, Field(ge=0)]
    env_steps: Annotated[list[int], Field(min_length=1)]
    returns: Annotated[list[common.Seeds], Field(min_length=1, alias="return")]
    original: Original | None = None  # None: no task of Gymnasium, or not evaluated there yet

    @model_validator(mode="after")
    def one_length(self) -> Result:
        if len(self.env_steps) != len(self.returns):
            raise ValueError("of one length in env_steps and return")
        return self


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()  # finished run directories to add
    out: Path = RESULTS / "ppo.json"  # entries of the same task are replaced
    tables: bool = False  # write the generated pages


def entry(run_dir: Path) -> dict:
    """One task's result: settings, every seed's learning curve, cost."""
    config = folder.read_config(run_dir)
    records = log.read(run_dir)
    evals = [r for r in records if r["kind"] == "eval" and "return" in r]
    if config["learner"] == folder.ROAD:
        raise ValueError(f"{run_dir} holds several runs: choose {run_dir}/base or .../residual")
    if not evals or evals[-1]["env_steps"] != config["train"]["total_steps"]:
        raise ValueError(f"{run_dir} is not finished")
    if "sweep" in config["train"]:
        raise ValueError(f"{run_dir} is a sweep: its settings are not one task's result")
    return {
        "learner": config["learner"],
        "env": config["env"],
        "env_overrides": config["env_overrides"],
        "config": config["config"],
        "train": config["train"],
        "versions": config.get("versions", {}),
        "hardware": config.get("hardware", ""),
        "seconds": evals[-1]["seconds"],
        "env_steps": [r["env_steps"] for r in evals],
        "return": [[x if x is None else round(x, 3) for x in r["return"]] for r in evals],
        "original": on_original(run_dir) if has_original(config) else None,
    }


def has_original(config: dict) -> bool:
    """Whether the run's policy can act in Gymnasium's own environment, by the run's config.json."""
    return config["env"] in ORIGINALS and "residual" not in config


def on_original(run_dir: Path, episodes: int = EPISODES) -> dict:
    """The mean return of each seed's newest policy in the original of the run's task.

    Every seed plays the same `episodes`, from `reset(seed=0)` on. An `Original`.
    """
    run = runs.load(run_dir)
    name, options = run.config["env"], run.config["env_overrides"]
    means = [
        evaluate_on_original(name, run.policy(i), episodes, **options)["return"].mean()
        for i in range(runs.num_runs(run.config["train"]))
    ]
    defined = [None if np.isnan(x) else round(float(x), 3) for x in means]
    return {"id": ORIGINALS[name], "episodes": episodes, "return": defined}


ORIGINAL = ("Gymnasium v5: return (IQM)", "95% interval", "worst seed")
OWN = ("trained on", "return there (IQM)", "95% interval", "worst seed")
COST = ("seeds", "env steps each", "training seconds, all seeds")


def table(results: list[tuple[str, dict]]) -> str:
    """A Markdown table: the final deterministic evaluation, IQM over seeds and its interval.

    Args:
      results: the name of a preset and an entry of its results file, for every row.

    The first scores are those in Gymnasium's own environment, which C MuJoCo simulates. They are left
    out if no row has them. The others are those in the environment and the physics of training.
    """
    scored = any(r.get("original") for _, r in results)
    columns = ("task", "preset", *(ORIGINAL if scored else ()), *OWN, *COST)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, r in sorted(results, key=lambda row: (row[1]["env"], row[0])):
        final, original = r["return"][-1], r.get("original")
        there = scores(original["return"]) if original else ["not measured", "", ""]
        cells = [
            r["env"],
            name,
            *(there if scored else ()),
            r["env_overrides"].get("physics", "accurate"),
            *scores(final),
            f"{len(final)}",
            f"{r['env_steps'][-1] / 1e6:.2f} M",
            f"{r['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def beside_published(results: list[tuple[str, dict]]) -> str:
    """A Markdown table: mean returns in Gymnasium v5, of all seeds and the worst, and published ones.

    The best evaluation is the largest mean over the seeds, in the environment of training.
    """
    heads = ("preset", "task", "mean", "worst seed", "best evaluation", "seeds", "published mean")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, r in sorted(results, key=lambda row: (row[0], row[1]["env"])):
        x = np.array(r["original"]["return"], float)
        best = np.array(r["return"], float).mean(1).max()
        d, told = terminal.digits(x), PUBLISHED[name].get(r["env"], "")
        cells = [name, r["env"], *(f"{v:.{d}f}" for v in (x.mean(), x.min(), best)), len(x), told]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def scores(seeds: list[float | None]) -> list[str]:
    """IQM, 95% interval and worst of the seeds' returns; null: undefined."""
    x = np.array(seeds, float)
    (low, high), d = bootstrap_interval(x), terminal.digits(x)
    return [f"{iqm(x):.{d}f}", f"{low:.{d}f} .. {high:.{d}f}", f"{x.min():.{d}f}"]


def results_of(names: Iterable[str]) -> list[tuple[str, dict]]:
    """The entries of these results files, each with the name of its preset."""
    rows = lambda name: common.read(RESULTS / f"{name}.json", Result)
    return [(name.removeprefix("gpu_"), r) for name in names for r in rows(name)]


def claims(results: Path = RESULTS) -> dict[str, papers.Claim]:
    """Every claim of experiments/claims/FAMILY/, by name, compared by its file in `results`."""
    found: dict[str, papers.Claim] = {}
    for path in sorted(CLAIMS.glob("*/*.py")):
        family, name = path.parent.name, path.stem
        module = importlib.import_module(f"experiments.claims.{family}.{name}")
        if not getattr(module, "COMPARISONS", ()) or getattr(module, "NAME", "") != name:
            raise ValueError(f'{path}: a claim defines NAME = "{name}" and COMPARISONS')
        if name in found:
            raise ValueError(f"{path}: the claim {found[name].path} has this name already")
        raw = results / f"{name}.json"
        rows = common.compared(module.COMPARISONS, common.read(raw))
        found[name] = papers.Claim(
            name, f"{family}/{name}.py", module.__doc__ or "", module.COMPARISONS, tuple(rows)
        )
    return found


def verdicts(claim: papers.Claim) -> str:
    """A list: each sentence of the claim with its verdict on every task."""
    lines = []
    for c in claim.comparisons:
        words = [f"{r.task}: **{r.verdict}**" for r in claim.rows if r.comparison == c]
        lines.append(f"- {c.text}. {'; '.join(words) or '**not run**'}")
    return "\n".join(lines)


def claim_section(claim: papers.Claim) -> str:
    """A claim's part of claims/README.md: its docstring, its verdicts and its numbers."""
    title, _, text = claim.doc.partition("\n")
    command = f"python experiments/claims/{claim.path}"
    body = "\n".join(line for line in text.strip().splitlines() if line.strip() != command)
    lines = ["| " + " | ".join(common.COLUMNS) + " |", "|---" * len(common.COLUMNS) + "|"]
    lines += ["| " + " | ".join(common.cells(row)) + " |" for row in claim.rows]
    return "\n\n".join(
        [
            f"### [{claim.name}]({claim.path})",
            f"**{title}** `{command}`",
            verdicts(claim),
            *([body.strip()] if body.strip() else []),
            *(["\n".join(lines)] if claim.rows else []),
        ]
    )


def claims_page(found: dict[str, papers.Claim]) -> str:
    """The generated part of claims/README.md."""
    return "\n\n".join(claim_section(claim) for claim in found.values())


def pages() -> dict[str, str]:
    """What is between the markers of each of `PAGES`, and the whole page "PAPERS"."""
    found, rows = claims(), papers.load()
    papers.check(rows, found)
    return {
        "results": table(results_of(SCORED)),
        "fast": table(results_of(FAST)),
        "published": beside_published(results_of(PUBLISHED)),
        "gpu": table(results_of(GPU)),
        "papers": papers.summary(rows, found),
        "claims": claims_page(found),
        "requests": asked.table(asked.load()),
        "PAPERS": papers.page(rows, found),
    }


def main() -> int:
    args = flags.read(Args)
    results = common.read(args.out, Result)
    new = [entry(run) for run in args.runs]
    replaced = {r["env"] for r in new}
    if len(learners := {r["learner"] for r in results + new}) > 1:
        raise ValueError(f"{args.out}: one learner a file, not {' and '.join(sorted(learners))}")
    results = [r for r in results if r["env"] not in replaced] + new
    if new:
        args.out.write_text("[\n" + ",\n".join(json.dumps(r) for r in results) + "\n]\n")
    if new or not args.tables:
        print(table([(args.out.stem, r) for r in results]))
    if args.tables:
        made = pages()
        write(papers.PAGE, made.pop("PAPERS"))
        for name, text in made.items():
            head, _, tail = split(PAGES[name].read_text(), name)
            write(PAGES[name], f"{head}\n{text}\n{tail}")
    return 0


def write(page: Path, text: str) -> None:
    """Writes the page and says so, if `text` is new."""
    if page.read_text() != text:
        page.write_text(text)
        print(f"wrote {page.relative_to(ROOT)}")


def split(text: str, name: str) -> tuple[str, str, str]:
    """A page before, within and after the markers of a generated part."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    if begin not in text or end not in text:
        raise ValueError(f"{PAGES[name]} has no markers {begin} and {end}")
    head, rest = text.split(begin)
    within, tail = rest.split(end)
    return head + begin, within.strip(), end + tail


if __name__ == "__main__":
    script.run(main)
