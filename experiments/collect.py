"""Collects finished runs into a results file, and writes the tables of README.md and claims/README.md.

python experiments/collect.py runs/ppo_hopper runs/ppo_reacher --out experiments/results/ppo.json
python experiments/collect.py --tables
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from jaxrl.cli import runs, script
from jaxrl.report import log
from jaxrl.report.summary import bootstrap_interval, difference_interval, iqm, verdict

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments/results"
LEARNERS = ("ppo", "sac", "td3")  # whose results, a file each, are the README's table
PAGES = {"results": ROOT / "README.md", "claims": ROOT / "experiments/claims/README.md"}
# What each claim says is higher than what; with a share: than that much less of it. Its raw numbers
# are in experiments/results/CLAIM.json.
CLAIMS: dict[str, tuple[tuple[str, str] | tuple[str, str, float], ...]] = {
    "sac_sample_efficiency": (("sac", "ppo"),),
    "rlpd_sparse": (("rlpd", "sac"), ("rlpd", "sac with RLPD's critics"), ("rlpd", "bc")),
    "dsac_reward_scale": (("dsac, worst scale", "sac, worst scale"),),
    "pmoe_multimodal": (("pmoe", "sac"), ("pmoe, ends reached", "sac, ends reached")),
    "mdpo": (("mdpo, on policy", "ppo", 0.05), ("mdpo, off policy", "sac", 0.05)),
    "bfloat16": (
        ("sac, bfloat16", "sac, float32", 0.1),
        ("ppo, bfloat16", "ppo, float32", 0.1),
    ),
    "offline_data": (
        ("td3_bc", "bc"),
        ("iql", "bc"),
        ("td3_bc, weighted", "td3_bc"),
        ("iql, weighted", "iql"),
    ),
    "residual": (
        ("residual PPO", "base"),
        ("residual PPO", "base, 4 x demonstrations"),
        ("residual PPO", "PPO from scratch"),
        ("residual PPO", "PPO from a clone"),
        ("residual SAC", "RLPD"),
        ("residual PPO, steps to 0.9 / 5", "residual SAC, steps to 0.9"),
    ),
    "chunks": (
        ("flow", "Gaussian"),
        ("flow", "Gaussian, sampled"),
        ("diffusion", "Gaussian"),
        ("diffusion", "Gaussian, sampled"),
        ("flow, streaming", "flow", 0.05),
        ("flow, streaming", "flow, one evaluation"),
        ("diffusion, streaming", "diffusion", 0.05),
    ),
}
SEEDS = "IQM (worst .. best seed)"
COLUMNS = ("task", "claimed higher", SEEDS, "than", SEEDS, "difference, 95% interval", "verdict")
COLUMNS += ("seeds", "steps")


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()  # finished run directories to add
    out: Path = RESULTS / "ppo.json"  # entries of the same task are replaced
    tables: bool = False  # write the tables into the pages that show them


def entry(run_dir: Path) -> dict:
    """One task's result: settings, every seed's learning curve, cost."""
    config = runs.read_config(run_dir)
    records = log.read(run_dir)
    evals = [r for r in records if r["kind"] == "eval"]
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
        "versions": config["versions"],
        "hardware": config["hardware"],
        "seconds": evals[-1]["seconds"],
        "env_steps": [r["env_steps"] for r in evals],
        "return": [[x if x is None else round(x, 3) for x in r["return"]] for r in evals],
    }


def table(results: list[dict]) -> str:
    """A Markdown table: the final deterministic evaluation, IQM over seeds and its interval."""
    lines = [
        "| task | learner | physics | return (IQM) | 95% interval | worst seed | seeds | env steps each | training seconds, all seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r["env"], r["learner"])):
        final = np.array(r["return"][-1], float)  # null: undefined
        low, high = bootstrap_interval(final)
        physics = r["env_overrides"].get("physics", "accurate")
        lines.append(
            f"| {r['env']} | {r['learner']} | {physics} | {iqm(final):.1f} | {low:.1f} .. {high:.1f}"
            f" | {final.min():.1f} | {final.size} | {r['env_steps'][-1] / 1e6:.2f} M"
            f" | {r['seconds']:.0f} |"
        )
    return "\n".join(lines)


def of_presets() -> list[dict]:
    """What the presets reach, of all learners."""
    return [r for name in LEARNERS for r in json.loads((RESULTS / f"{name}.json").read_text())]


def compared(name: str, entries: list[dict]) -> list[list[str]]:
    """A row of `COLUMNS` for each comparison of the claim `name` that was made or lacks its baseline."""
    if name not in CLAIMS:
        raise ValueError(f"{name}: say in experiments/collect.py what this claims (CLAIMS)")
    final = {(e["task"], e["variant"]): e for e in entries}
    rows = []
    for task in dict.fromkeys(e["task"] for e in entries):
        for higher, other, *share in CLAIMS[name]:
            than = other + "".join(f" less {x:.0%}" for x in share)
            if (task, higher) not in final:
                continue
            if (task, other) not in final:
                rows.append([task, higher, "", than, "", "", "not run", "", ""])
                continue
            a, b = (np.array(final[task, v]["values"][-1]) for v in (higher, other))
            b = b - sum(share) * np.abs(b)
            low, high = difference_interval(a, b)
            rows.append(
                [task, higher, spread(a), than, spread(b), f"{low:+.4g} .. {high:+.4g}"]
                + [verdict((low, high)), str(a.size), f"{final[task, higher]['steps'][-1]:,}"]
            )
    return rows


def spread(values: np.ndarray) -> str:
    return f"{iqm(values):.4g} ({values.min():.4g} .. {values.max():.4g})"


def claims_table(folder: Path) -> str:
    """Every claim: both sides, the interval of their difference, and what that says."""
    lines = ["| claim | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, pairs in CLAIMS.items():
        path = folder / f"{name}.json"
        rows = [["", pairs[0][0], "", pairs[0][1], "", "", "not run", "", ""]]
        if path.exists():
            rows = compared(name, json.loads(path.read_text()))
        lines += [f"| {name} | " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    args = tyro.cli(Args)
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    new = [entry(run) for run in args.runs]
    replaced = {r["env"] for r in new}
    if len(learners := {r["learner"] for r in results + new}) > 1:
        raise ValueError(f"{args.out}: one learner a file, not {' and '.join(sorted(learners))}")
    results = [r for r in results if r["env"] not in replaced] + new
    if new:
        args.out.write_text("[\n" + ",\n".join(json.dumps(r) for r in results) + "\n]\n")
    print(table(results))
    if args.tables:
        for name, made in {
            "results": table(of_presets()),
            "claims": claims_table(RESULTS),
        }.items():
            head, _, tail = split(PAGES[name].read_text(), name)
            PAGES[name].write_text(f"{head}\n{made}\n{tail}")
    return 0


def split(text: str, name: str) -> tuple[str, str, str]:
    """A page before, within and after the markers of a table."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    if begin not in text or end not in text:
        raise ValueError(f"{PAGES[name]} has no markers {begin} and {end}")
    head, rest = text.split(begin)
    within, tail = rest.split(end)
    return head + begin, within.strip(), end + tail


if __name__ == "__main__":
    script.run(main)
