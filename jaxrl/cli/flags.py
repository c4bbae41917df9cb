"""Command lines whose mistakes are one line: `--head='vae': allowed are gaussian, flow, diffusion`."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro

WORDS = {"INT": "a whole number", "FLOAT": "a number", "{None}": "None"}  # of a flag's metavar
MOST_HINTS = 3


class Parser(argparse.ArgumentParser):
    """A parser that raises a mistake as ValueError. By default argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def choose_policy(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose one policy of a run: RUN, --seed-index, --step, --stochastic."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--seed-index", type=int, default=0, help="which of its settings times seeds"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--stochastic", action="store_true", help="sample actions")


def read(kind: Any, words: Sequence[str] | None = None, **options: Any) -> Any:
    """Returns what `tyro.cli(kind, args=words, **options)` returns.

    Raises:
      ValueError: a flag is unknown, or has a wrong value. The message is one line that names the
        flag, its value and what is allowed.
      SystemExit: after `--help`, or for a mistake that is not understood, which tyro has printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=words, **options)
    except SystemExit as ended:
        if ended.code and (message := _one_line(said.getvalue())):
            raise ValueError(message) from None
        sys.stderr.write(said.getvalue())
        raise


def _one_line(box: str) -> str:
    """Returns the mistake that tyro prints in a box; "" if it has another form."""
    parts = _parts(box)
    if not parts:
        return ""
    told, *more = [" ".join(" ".join(part).split()) for part in parts]
    if found := re.match(r"invalid choice (.*) for argument '(\S+)'\. Expected .*\((.*)\)", told):
        value, flag, allowed = found.groups()
        return f"{flag}={value}: allowed are {allowed.replace(chr(39), '').rstrip(', ')}"
    if found := re.match(r"Missing value for argument '(\S+)'", told):
        return f"{found[1]}: needs a value"
    if found := re.match(r"Unrecognized options: (\S+)", told):
        return _unknown(found[1].rstrip(","), parts[1:])
    if found := re.match(r"Missing from \S+: (\S+)", told):
        return f"{found[1]}: is missing"
    if found := re.match(r"Error parsing (\S+): (.*)", told):
        return _bad_value(*found.groups(), " ".join(more))
    return told


def _parts(box: str) -> list[list[str]]:
    """Returns the lines in a box of tyro, between its rules."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in box.splitlines()]
    drawn = [re.fullmatch("│ (.*?) *│", line) for line in lines]
    rows = [found[1] for found in drawn if found]
    parts: list[list[str]] = [[]]
    for row in rows or [line[2:] for line in lines]:
        if re.fullmatch("[─-]{4,}", row):
            parts.append([])
        else:
            parts[-1].append(row)
    return parts if rows else parts[1:]  # where output is not UTF-8, a rule follows the title


def _unknown(word: str, parts: list[list[str]]) -> str:
    """A word that no flag takes, and the flags that tyro takes it to be a slip for."""
    if not word.startswith("-"):
        return f"{word!r} belongs to no flag"
    hints = [x.split()[0].rstrip(",") for part in parts for x in part if x.startswith("    --")]
    more = f", did you mean {' or '.join(hints[:MOST_HINTS])}?" if hints else ""
    return f"{word.split('=')[0]}: there is no such flag{more}"


def _bad_value(flag: str, message: str, helptext: str) -> str:
    """A value that is of no kind that the flag takes, or that its own parser refuses."""
    kinds = re.match(rf"Argument helptext: .*?{re.escape(flag)} (\S+)", helptext)
    value = re.search(r"(?:base 10: |to float: |from \[|arguments: \[)(.*?)(?:\]|$)", message)
    if not (kinds and value):
        return f"{flag}: {message}"
    allowed = " or ".join(WORDS.get(kind, kind) for kind in kinds[1].strip("[]").split("|"))
    return f"{flag}={value[1]}: must be {allowed}" + " each" * kinds[1].startswith("[")
