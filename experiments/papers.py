"""The page of papers: reads papers.toml and writes PAPERS.md.

A `[[paper]]` has these fields:

    id        "S001" to "S212", each once
    name      short name
    title     full title
    family    one of FAMILIES
    status    one of STATUSES
    method    the file that implements it (works, partly)
    law       the test of its law, "tests/FILE.py::test_NAME" (works)
    claims    names of claims in experiments/claims/FAMILY/ (works; optional for partly)
    missing   what is not built or not run yet (partly)
    nearest   the nearest mechanism that can live here (elsewhere)
    note      what differs from the paper, one sentence (optional; shown where the paper is built)
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from experiments.claims.common import Compared, Comparison
from jaxrl.report.summary import bootstrap_interval, iqm

ROOT = Path(__file__).parent.parent
LIST = ROOT / "experiments/papers.toml"
PAGE = ROOT / "experiments/PAPERS.md"
IDS = tuple(f"S{i:03d}" for i in range(1, 213))
STATUSES = {
    "works": "built from its source, its law tested, its claim run with a verdict",
    "partly": "a part is built, and what is missing is named",
    "open": "can be built here and is not built yet",
    "elsewhere": "cannot honestly be built here, and the nearest mechanism is named",
}
FAMILIES = {
    "on_policy": "On-policy actor-critics",
    "off_policy": "Off-policy actor-critics",
    "offline": "Offline reinforcement learning",
    "offline_to_online": "Offline to online",
    "residual": "Residuals on a frozen base",
    "imitation": "Imitation and human in the loop",
    "chunks": "Generative policies and action chunks",
    "goals": "Goal-conditioned learning",
    "hierarchy": "Hierarchies, slow and fast policies",
    "models": "World models and model-based control",
    "sim2real": "From simulation to reality",
    "multi_task": "Multi-task learning and distillation",
    "multi_agent": "Multi-agent learning and shared policies",
    "safe": "Safe and constrained learning",
    "robust": "Robust and adversarial learning",
    "objectives": "Objectives, preferences and rewards",
    "group": "Group-relative learning on token tasks",
    "bandits": "Bandits and recommendation",
    "planning": "Planning and combinatorial problems",
    "theory": "Theory",
    "other": "Other systems and vision",
}
VERDICTS = ("holds", "does not hold", "no difference", "inconclusive", "not run")


@dataclass(frozen=True)
class Claim:
    """A claim file and what its results say."""

    name: str
    path: str  # FAMILY/NAME.py
    doc: str
    comparisons: tuple[Comparison, ...]
    rows: tuple[Compared, ...]

    def about(self, paper: str) -> list[Compared]:
        """The rows about the paper with the id `paper`.

        These are the comparisons that name the paper, or, if none does, those that name no paper.
        """
        named = [r for r in self.rows if paper in r.comparison.papers]
        return named or [r for r in self.rows if not r.comparison.papers]


@dataclass(frozen=True)
class Paper:
    """A row of papers.toml. The fields are described at the top of this file."""

    id: str
    name: str
    title: str
    family: str
    status: str
    method: str = ""
    law: str = ""
    claims: tuple[str, ...] = ()
    missing: str = ""
    nearest: str = ""
    note: str = ""


def load(path: Path = LIST) -> list[Paper]:
    """The papers of a TOML file, in its order."""
    names = [f.name for f in fields(Paper)]
    papers = []
    for row in tomllib.loads(path.read_text())["paper"]:
        label = f"{path.name}, {row.get('id', 'a row without id')}"
        if unknown := sorted(row.keys() - set(names)):
            raise ValueError(f"{label}: unknown field {unknown[0]}; allowed: {', '.join(names)}")
        if absent := [n for n in names[:5] if not row.get(n)]:
            raise ValueError(f"{label}: the field {absent[0]} is missing")
        papers.append(Paper(**(row | {"claims": tuple(row.get("claims", ()))})))
    return papers


def check(papers: list[Paper], claims: dict[str, Claim]) -> None:
    """Raises ValueError where a row of papers.toml does not say what its status asks for."""
    count = Counter(p.id for p in papers)
    for i in sorted(count.keys() | set(IDS)):
        if count[i] != 1 or i not in IDS:
            raise ValueError(f"papers.toml: id {i} occurs {count[i]} times; S001..S212 occur once")
    for p in papers:
        _check_one(p, claims)


def _check_one(p: Paper, claims: dict[str, Claim]) -> None:
    label = f"papers.toml, {p.id}"
    if p.status not in STATUSES:
        raise ValueError(f"{label}: status={p.status!r} must be one of {', '.join(STATUSES)}")
    if p.family not in FAMILIES:
        raise ValueError(f"{label}: family={p.family!r} must be one of {', '.join(FAMILIES)}")
    if p.method and not (ROOT / p.method).is_file():
        raise ValueError(f"{label}: method={p.method!r} is no file")
    for name in p.claims:
        if name not in claims:
            raise ValueError(f"{label}: claim {name!r} is not in experiments/claims/FAMILY/")
    file, _, test = p.law.partition("::")
    if p.law and not (
        (ROOT / file).is_file() and test and f"def {test}(" in (ROOT / file).read_text()
    ):
        raise ValueError(f"{label}: law={p.law!r} is no test; write tests/FILE.py::test_NAME")
    asked = {"works": ("method", "law", "claims"), "partly": ("method", "missing")}
    asked |= {"open": (), "elsewhere": ("nearest",)}
    for field in ("method", "law", "claims", "missing", "nearest"):
        if not getattr(p, field) and field in asked[p.status]:
            raise ValueError(f"{label}: status {p.status!r} needs the field {field}")
    if p.status == "works" and all(r.verdict == "not run" for r in _rows(p, claims)):
        raise ValueError(f"{label}: works, but no comparison of {', '.join(p.claims)} was run")


def _rows(p: Paper, claims: dict[str, Claim]) -> list[Compared]:
    return [row for name in p.claims for row in claims[name].about(p.id)]


def counts(papers: Iterable[Paper]) -> str:
    """A table: how many papers have each status."""
    of = Counter(p.status for p in papers)
    lines = ["| status | papers | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| {s} | {of[s]} | {text} |" for s, text in STATUSES.items()])


def summary(papers: list[Paper], claims: dict[str, Claim]) -> str:
    """The generated part of README.md: papers by status, comparisons by verdict."""
    of = Counter(row.verdict for claim in claims.values() for row in claim.rows)
    total = ", ".join(f"{word} {of[word]}" for word in VERDICTS)
    return f"{counts(papers)}\n\n{len(claims)} claims, {of.total()} comparisons: {total}."


def page(papers: list[Paper], claims: dict[str, Claim]) -> str:
    """PAPERS.md."""
    of = lambda status: sorted(
        (p for p in papers if p.status == status),
        key=lambda p: (list(FAMILIES).index(p.family), p.id),
    )
    parts = [
        f"# {len(papers)} papers",
        "Generated by `python experiments/collect.py --tables` from `papers.toml`, the claims and"
        " `results/*.json`. Do not edit this page.",
        counts(papers),
        "## Works",
        "Numbers are interquartile means over seeds at the last evaluation, with 95% bootstrap"
        " intervals. [claims/README.md](claims/README.md) has the conditions of every claim and"
        " explains the verdicts.",
        *(_works(p, claims) for p in of("works")),
        "## Partly",
        *(_partly(p, claims) for p in of("partly")),
        "## Open",
        *(_open(family, of("open")) for family in FAMILIES),
        "## Elsewhere",
        "\n".join(
            ["| id | paper | nearest mechanism that can live here |", "|---|---|---|"]
            + [f"| {p.id} | {p.title} | {p.nearest} |" for p in of("elsewhere")]
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(p: Paper, claims: dict[str, Claim]) -> str:
    links = [f"[{name}](claims/{claims[name].path})" for name in p.claims]
    parts = [f"Family `{p.family}`", f"method [`{p.method}`](../{p.method})"]
    if p.law:
        file, _, test = p.law.partition("::")
        parts.append(f"law [`{test}`](../{file})")
    parts += [f"claim {', '.join(links)}"] if links else []
    return f"### {p.id} {p.name}\n\n*{p.title}*. {', '.join(parts)}."


def _works(p: Paper, claims: dict[str, Claim]) -> str:
    return "\n\n".join([_head(p, claims), *([p.note] if p.note else []), _table(_rows(p, claims))])


def _partly(p: Paper, claims: dict[str, Claim]) -> str:
    rows = _rows(p, claims)
    text = [_head(p, claims), f"Missing: {p.missing}"]
    return "\n\n".join(text + ([p.note] if p.note else []) + ([_table(rows)] if rows else []))


def _open(family: str, papers: list[Paper]) -> str:
    names = [f"{p.id} {p.name}" for p in papers if p.family == family]
    return f"**{FAMILIES[family]}** ({len(names)}): {', '.join(names)}." if names else ""


def _table(rows: list[Compared]) -> str:
    """Both sides of every comparison with intervals, and its verdict."""
    lines = [
        "| claim | task | metric | claimed better | IQM (95%) | than | IQM (95%) | verdict | seeds |",
        "|---" * 9 + "|",
    ]
    for r in rows:
        c, ran = r.comparison, r.better is not None
        a, b = (_interval(x) if ran else "" for x in (r.better, r.baseline))
        word = r.verdict + (f" (within {r.margin:.3g})" if r.verdict == "no difference" else "")
        lines.append(
            f"| {c.text} | {r.task} | {r.metric} | {c.better} | {a} | {c.asked} | {b} | {word}"
            f" | {r.better.size if ran else ''} |"
        )
    return "\n".join(lines)


def _interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{iqm(values):.4g} ({low:.4g} .. {high:.4g})"
