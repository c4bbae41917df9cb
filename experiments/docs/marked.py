"""Markdown for the documentation site: links, lists, docstrings, notebooks, tables."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Returns `text` with `change` applied to everything that is not in a fenced block."""
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.S | re.M)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def for_site(text: str) -> str:
    """Returns a page with its lists in the form that Python-Markdown reads.

    A list needs an empty line before it, and what belongs to an entry is indented by four spaces.
    """

    def change(part: str) -> str:
        part = re.sub(r"^ {2,3}(?=\S)", "    ", part, flags=re.M)
        return re.sub(r"(?m)^(?! *[-|]|\d+\.|\s*$|#|    )(.+)\n(?=- |1\. )", r"\1\n\n", part)

    return outside_code(text, change)


def relinked(text: str, page: str, lead: Callable[[str], str | None]) -> str:
    """Returns a page whose relative links go where `lead` says.

    Args:
      text: of the page.
      page: its path from the root of the repository.
      lead: takes the path that a link leads to, from the root, and returns the path to use; None
        if the link has to stay as it is.
    """
    folder = PurePosixPath(page).parent

    def one(found: re.Match) -> str:
        mark, label, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or "://" in target:
            return found[0]
        new = lead(os.path.normpath(folder / path))
        if new is None:
            return found[0]
        return f"{mark}[{label}]({os.path.relpath(new, folder or '.')}{hash_}{anchor})"

    return outside_code(text, lambda part: LINK.sub(one, part))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a Markdown table. A bar in a cell is escaped."""
    lines = [list(head), ["---"] * len(list(head)), *(list(row) for row in rows)]
    clean = lambda cell: re.sub(r"(?<!\\)\|", r"\\|", str(cell))
    return "\n".join("| " + " | ".join(map(clean, line)) + " |" for line in lines)


def docstring(text: str) -> str:
    """Returns a docstring as Markdown: the entries of Args, Returns and Raises become lists."""
    out: list[str] = []
    section = False
    for line in text.splitlines():
        if found := SECTION.match(line.strip()):
            out += ["", f"**{found[1]}**", ""]
            section = True
        elif section and line.strip() and not line.startswith("  "):
            section = False
            out += ["", line]
        elif section and (found := re.match(r"^ {2}(?! )([^:]{1,80}?): (.*)$", line)):
            out.append(f"- `{found[1].replace('`', '')}`: {found[2]}")
        elif section and re.match(r"^ {2}(?! )", line):
            starts = not out or out[-1] == ""
            out.append(f"- {line.strip()}" if starts else f"    {line.strip()}")
        elif section:
            out.append(f"    {line.strip()}" if line.strip() else "")
        else:
            out.append(line)
    return for_site(safe("\n".join(out)))


def safe(text: str) -> str:
    """Returns prose in which a star or `<` before a letter means itself, as in `[*B, ...]`."""
    parts = re.split(r"(`[^`]*`)", text)
    change = lambda part: re.sub(
        r"(?<!\*)\*(?=\w)", r"\\*", re.sub(r"<(?=[a-zA-Z/])", "&lt;", part)
    )
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def notebook(path: Path) -> str:
    """Returns a notebook as a page: its text, and its code without results."""
    cells = json.loads(path.read_text())["cells"]
    source = lambda cell: "".join(cell["source"]).rstrip()
    parts = [
        source(cell) if cell["cell_type"] == "markdown" else f"```python\n{source(cell)}\n```"
        for cell in cells
    ]
    return "\n\n".join(parts) + "\n"


def code(path: Path, name: str) -> str:
    """Returns a source file as a page."""
    kind = {".py": "python", ".toml": "toml", ".sh": "bash", ".xml": "xml"}.get(path.suffix, "")
    return f"# `{name}`\n\n````{kind}\n{path.read_text().rstrip()}\n````\n"
