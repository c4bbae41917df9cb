"""The table of what users ask for: reads requests.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

LIST = Path(__file__).parent / "requests.toml"
PAGE = Path(__file__).parent / "requests.md"
STATUSES = ("has", "partly", "not yet")


@dataclass(frozen=True)
class Request:
    """A row of requests.toml, whose first lines describe the fields."""

    request: str
    asked: tuple[str, ...]
    status: str
    use: str = ""
    missing: str = ""


def load(path: Path = LIST) -> list[Request]:
    """Returns the requests of a TOML file, in its order.

    Raises:
      ValueError: an unknown field or status, or a row that lacks what its status asks for.
    """
    names, rows = [f.name for f in fields(Request)], []
    for given in tomllib.loads(path.read_text())["request"]:
        label = f"{path.name}, {given.get('request', 'a row without request')!r}"
        if unknown := sorted(given.keys() - set(names)):
            raise ValueError(f"{label}: unknown field {unknown[0]}; allowed: {', '.join(names)}")
        row = Request(**(given | {"asked": tuple(given["asked"])}))
        if row.status not in STATUSES:
            raise ValueError(f"{label}: status={row.status!r}: must be {', '.join(STATUSES)}")
        if bool(row.use) != (row.status != "not yet"):
            raise ValueError(f"{label}: status {row.status!r}, and `use` is {row.use!r}")
        if bool(row.missing) != (row.status != "has"):
            raise ValueError(f"{label}: status {row.status!r}, and `missing` is {row.missing!r}")
        rows.append(row)
    return rows


def table(rows: list[Request]) -> str:
    """Returns the Markdown table of the requests, and a line that counts them."""
    count = {status: sum(row.status == status for row in rows) for status in STATUSES}
    lines = [", ".join(f"{status}: {n}" for status, n in count.items()) + ".", ""]
    lines += ["| | request | asked in | | with | missing |", "|---" * 6 + "|"]
    for i, row in enumerate(rows, 1):
        asked = ", ".join(map(_link, row.asked))
        status = row.status if row.status == "not yet" else f"**{row.status}**"
        lines.append(f"| {i} | {row.request} | {asked} | {status} | {row.use} | {row.missing} |")
    return "\n".join(lines)


def _link(asked: str) -> str:
    repository, _, number = asked.partition("#")
    name = repository.split("/")[-1]
    return f"[{name} #{number}](https://github.com/{repository}/issues/{number})"
