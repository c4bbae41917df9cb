"""Output for people: progress as a live bar or plain lines, tables, short numbers, errors in one
line."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxrl.report.summary import iqm

LINE_SECONDS = 30.0  # the longest time between two lines, without a terminal


def reason(error: BaseException) -> str:
    """Returns the first line of the error's message, or its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and ends the process. A user's mistake gives one line and exit code 2, not a
    traceback."""
    sys.stdout, sys.stderr = (
        sys.stdout or _nowhere(),
        sys.stderr or _nowhere(),
    )  # closed by the user
    for stream in (sys.stdout, sys.stderr):  # a locale may lack the letters of tables and names
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # do not wait for threads that compile
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise  # ours, not the user's
        print(f"error: {reason(error)}", file=sys.stderr)
        sys.exit(2)


def _nowhere() -> Any:
    return open(os.devnull, "w")


def short(x: float) -> str:
    """1234567 -> '1.23M'."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= 0.9995 * size:  # three digits round up to this size
            return f"{x / size:.3g}{suffix}"
    return f"{x:.3g}"


def number(x: float) -> str:
    """Formats a score: whole from 100 on, three digits below."""
    return f"{x:.0f}" if 100 <= abs(x) < 1e7 else f"{x:.3g}"


def digits(values: np.ndarray) -> int:
    """Decimals of a table's scores: three where none is above 1 in size, as of rates, else one."""
    finite = np.abs(values[np.isfinite(values)])
    return 3 if finite.size and finite.max() <= 1 else 1


def spread(value: np.ndarray) -> str | None:
    """Returns 'IQM (min..max)' over the seeds, in a sweep of the best config; None if undefined."""
    rows = [row[np.isfinite(row)] for row in np.atleast_2d(value)]
    rows = [row for row in rows if row.size]
    if not rows:
        return None
    best = max(rows, key=iqm)
    text = number(iqm(best))
    if best.size > 1:
        text += f" ({number(best.min())}..{number(best.max())})"
    return text + (f", best of {len(value)}" if value.ndim > 1 else "")


def trouble(metrics: dict[str, np.ndarray]) -> str:
    """What is wrong in training: the shares of broken steps and skipped updates, if any."""
    names = {"nonfinite_share": "broken steps", "skipped": "skipped updates"}
    found = {what: np.nanmax(np.append(metrics.get(k, 0.0), 0.0)) for k, what in names.items()}
    return "  ".join(f"{what} {share:.2%}" for what, share in found.items() if share > 0)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a titled table: the first column to the left, the others to the right."""
    grid = Table()
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i else "left")
    for row in rows:
        grid.add_row(*(Text(str(x)) for x in row))
    # Rich assumes 80 columns in a pipe, which would cut wide tables.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(Text(title), grid)


class Silent:
    def __init__(self, *_):
        pass

    def log(self, *_) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Display(Silent):
    """The texts that both displays share."""

    def __init__(self, total_steps: int, start_steps: int, num_runs: int):
        self.total, self.steps, self.num_runs = max(total_steps, 1), start_steps, num_runs
        self.rate = math.nan
        self.returns: dict[str, str] = {}  # kind: text
        self.trouble = ""
        self._began: tuple[float, int] | None = None  # time and steps at the first point

    @property
    def fraction(self) -> float:
        return min(self.steps / self.total, 1.0)

    def log(self, kind: str, env_steps: int, rate: float, metrics: dict) -> None:
        self.steps, self.rate = env_steps, rate
        self._began = self._began or (time.monotonic(), env_steps)
        self.trouble = trouble(metrics) if kind == "train" else self.trouble
        value = metrics.get("episode_return" if kind == "train" else "return")
        text = None if value is None else spread(value)
        if kind == "eval" and value is not None and not text:
            text = "undefined: every episode broke"
        if text:
            self.returns[kind] = text

    def eta(self) -> str:
        """The remaining time, by the wall clock since the first point: evaluations count, compilation
        does not."""
        rate = self.rate
        if self._began and self.steps > self._began[1]:
            rate = (self.steps - self._began[1]) / max(time.monotonic() - self._began[0], 1e-9)
        if not rate > 0:
            return "-:--"
        return duration((self.total - min(self.steps, self.total)) / rate)

    def counts(self) -> str:
        """Steps per seed; the rate is that of all runs together."""
        text = f"{short(self.steps)}/{short(self.total)} steps"
        text += f" x {self.num_runs}" if self.num_runs > 1 else ""
        return f"{text}  {short(self.rate)}/s" if self.rate > 0 else text

    def scores(self, *kinds: str) -> str:
        names = {"train": "return", "eval": "eval"}
        return "  ".join(f"{names[k]} {self.returns[k]}" for k in kinds if k in self.returns)


class Lines(_Display):
    """Plain lines: of each kind one per tenth of the run, or every 30 s."""

    def __init__(self, *steps_and_runs: int):
        super().__init__(*steps_and_runs)
        self._printed: dict[str, tuple[int, float]] = {}  # kind: tenth, time
        self._unprinted: str | None = None

    def log(self, kind: str, env_steps: int, rate: float, metrics: dict) -> None:
        super().log(kind, env_steps, rate, metrics)
        if kind == "eval":
            parts = [self.scores("eval")]
        else:
            parts = [self.counts(), f"eta {self.eta()}", self.scores(kind), self.trouble]
        line = "  ".join(part for part in (f"{self.fraction:4.0%}", *parts) if part)
        tenth, now = int(10 * self.fraction), time.monotonic()
        last_tenth, last_time = self._printed.get(kind, (-1, now))
        self._unprinted = line if kind == "train" else self._unprinted
        if tenth > last_tenth or now - last_time >= LINE_SECONDS:
            self._printed[kind] = tenth, now
            self._unprinted = None
            self.note(line)

    def note(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        if self._unprinted:
            self.note(self._unprinted)


class Bar(_Display):
    """A live bar and the scores below it."""

    def __init__(self, *steps_and_runs: int):
        super().__init__(*steps_and_runs)
        self._live = Live(
            console=Console(force_terminal=True),
            get_renderable=self._picture,
            refresh_per_second=4,
        )
        self._live.start()

    def _picture(self) -> Group:
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(width=4)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        bar = ProgressBar(total=1.0, completed=self.fraction)
        row.add_row(f"{self.fraction:4.0%}", bar, f"{self.counts()}  eta {self.eta()}")
        return Group(
            row,
            Text(" " * 5 + self.scores("train", "eval"), no_wrap=True, overflow="ellipsis"),
            *([Text(" " * 5 + self.trouble)] if self.trouble else []),
        )

    def note(self, text: str) -> None:
        self._live.console.print(Text(text))

    def close(self) -> None:
        self._live.stop()


def duration(seconds: float) -> str:
    """75 -> '1:15', 3675 -> '1:01:15'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
