"""What a run records while it trains: `metrics.jsonl`, TensorBoard, W&B; `jaxrl.report.terminal` shows it.

Every metric is an array over seeds, [seeds], or [configs, seeds] in a sweep. One line of
`metrics.jsonl` is one JSON object:

    {"kind": "train" or "eval", "env_steps": per seed, "seconds": of training,
     "steps_per_second": ..., METRIC: nested list, null where undefined, ...}
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from jaxrl.report import terminal
from jaxrl.report.files import Schema, cannot_write, parse, read_bytes, whole

FILE = "metrics.jsonl"
PER_SEED_TAGS = 16  # with more seeds (or configs) TensorBoard gets the mean only


Values = Annotated[list[float | None], Field(min_length=1)]  # [seeds]
Metric = Values | Annotated[list[Values], Field(min_length=1)]  # or [configs, seeds]


class Record(Schema):
    """A line of `metrics.jsonl`; every other entry is a metric."""

    __pydantic_extra__: dict[str, Metric]
    kind: Literal["train", "eval"]
    env_steps: Annotated[int, Field(ge=0, le=2**53)]
    seconds: Annotated[float, Field(ge=0)] | None
    steps_per_second: Annotated[float, Field(ge=0)] | None


class Sink(Protocol):
    """Another place that a run's metrics go to, such as MLflow: `train(..., sinks=[sink])`."""

    def log(self, kind: str, env_steps: int, scalars: dict[str, float]) -> None:
        """Records one point.

        Args:
          kind: "train" or "eval".
          env_steps: done so far, per seed.
          scalars: by tag, such as "eval/return": means over the seeds, and one value per seed as
            "eval/return/seed_0". Undefined ones are left out. A resumed run repeats steps.
        """

    def close(self) -> None:
        """The run has ended or was stopped."""


class Logger:
    """Records one run; a context manager. See the module for the file it writes.

    Args:
      run_dir: where the files go; None: no files.
      total_steps: env steps per seed that mean 100 %.
      seeds, configs: the axes of every metric; `configs` is None unless this is a sweep.
      start_steps: env steps done by the part of the run that this one resumes. Records
        beyond them are dropped, in TensorBoard too.
      progress: True: a live bar. False: a plain line now and then, for files and pipes.
        None: a bar if stdout is a terminal.
      quiet: print nothing.
      tensorboard: write `run_dir/tensorboard`.
      wandb: Weights & Biases project, or None.
      sinks: other places that the metrics go to. Their errors end the run.
      config: what W&B shows as the run's configuration.

    Raises:
      RuntimeError: a file cannot be written (also from `log`), or W&B cannot be used.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike | None,
        total_steps: int,
        *,
        seeds: int = 1,
        configs: int | None = None,
        start_steps: int = 0,
        progress: bool | None = None,
        quiet: bool = False,
        tensorboard: bool = True,
        wandb: str | None = None,
        config: dict[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
    ):
        self._shape = (seeds,) if configs is None else (configs, seeds)
        self._sinks: list[Any] = []
        run_dir = None if run_dir is None else Path(run_dir)
        # These are first: if one cannot be used, no file has been written yet.
        services: list[Any] = [_Foreign(sink) for sink in sinks]
        services += [_WandB(wandb, run_dir, config)] if wandb else []
        if run_dir is not None:
            truncate(run_dir, start_steps)
            self._sinks.append(_Jsonl(run_dir / FILE))
            if tensorboard:
                self._sinks.append(_TensorBoard(run_dir / "tensorboard", start_steps))
        self._sinks += services
        if progress is None:
            progress = sys.stdout.isatty()
        display = terminal.Silent if quiet else terminal.Bar if progress else terminal.Lines
        self._display = display(total_steps, start_steps, math.prod(self._shape))

    def log(
        self,
        kind: str,
        env_steps: int,
        seconds: float,
        steps_per_second: float,
        metrics: dict[str, np.ndarray],
    ) -> None:
        """Records one point.

        Args:
          kind: "train" or "eval".
          env_steps: done so far, per seed.
          seconds: of training so far, without compilation. Time before a resume counts.
          steps_per_second: of all runs together.
          metrics: arrays [seeds] or [configs, seeds]; NaN means undefined.
        """
        metrics = {name: np.asarray(value) for name, value in metrics.items()}
        for name, value in metrics.items():
            if value.shape != self._shape:
                raise ValueError(f"metric {name!r} has shape {value.shape}, not {self._shape}")
        clock = {
            "seconds": round(float(seconds), 3),
            "steps_per_second": round(float(steps_per_second), 1),
        }
        for sink in self._sinks:
            sink.log(kind, int(env_steps), clock, metrics)
        self._display.log(kind, int(env_steps), float(steps_per_second), metrics)

    def note(self, text: str) -> None:
        """Prints a line, above the bar."""
        self._display.note(text)

    def close(self) -> None:
        """Flushes everything and leaves the bar as it is; closing twice does nothing."""
        display, self._display = self._display, terminal.Silent()
        display.close()
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            sink.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_) -> None:
        self.close()


# --- Reading ---


def read(run_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of a run, oldest first; none if it has logged nothing.

    Ignores a last line that is cut off, which a killed run can leave.

    Raises:
      ValueError: any other line is damaged; names file and line.
    """
    return [record for _, record in _parse(Path(run_dir) / FILE)[0]]


def truncate(run_dir: str | os.PathLike, env_steps: float) -> None:
    """Drops the records beyond `env_steps` and a cut-off last line, atomically.

    Raises:
      ValueError: see `read`.
      RuntimeError: the file cannot be written.
    """
    path = Path(run_dir) / FILE
    lines, complete = _parse(path)
    kept = [line for line, record in lines if record["env_steps"] <= env_steps]
    if complete and len(kept) == len(lines):
        return
    with whole(path) as part:
        part.write_bytes(b"".join(line + b"\n" for line in kept))


def set_aside(run_dir: str | os.PathLike) -> Path | None:
    """Renames the records of a run to metrics.N.jsonl. Returns that path, or None if there are none."""
    path = Path(run_dir) / FILE
    if not os.path.lexists(path):
        return None
    numbered = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in itertools.count(1))
    free = next(p for p in numbered if not p.exists())
    path.rename(free)
    return free


def _parse(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], bool]:
    """Returns lines with their records, and whether the file ends with a whole line."""
    try:
        *lines, tail = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return [], True
    parsed, shape = [], None
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines) and not tail:  # cut off by a crash of the machine
                return parsed, False
        record = parse(line, Record, where)
        for name, value in record.items():
            if not isinstance(value, list):
                continue
            have = tuple(_shape_of(value))
            shape = shape or have
            if have != shape:
                raise ValueError(f"{where}: {name} has shape {have}: must be {shape} as before")
        parsed.append((line, record))
    return parsed, not tail


def _shape_of(value: Any) -> Iterator[int]:
    """The shape of a metric, [seeds] or [configs, seeds]; -1 where rows differ in length."""
    yield len(value)
    if isinstance(value[0], list):
        yield len(value[0]) if len({len(row) for row in value}) == 1 else -1


# --- Sinks ---


class _Jsonl:
    def __init__(self, path: Path):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")
        except OSError as error:
            raise cannot_write(path, error) from error

    def log(self, kind: str, env_steps: int, clock: dict, metrics: dict) -> None:
        values = {name: _plain(np.asarray(value)) for name, value in (clock | metrics).items()}
        record = {"kind": kind, "env_steps": env_steps, **values}
        try:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:  # the disk is full, and `log` has reported it
            pass


class _TensorBoard:
    """Writes event files without tensorboardX's queue and thread, which hang on a full disk."""

    def __init__(self, path: Path, start_steps: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._path, self._event, self._summary = path, event_pb2.Event, summary_pb2.Summary
        try:
            path.mkdir(parents=True, exist_ok=True)
            resumed = any(path.iterdir())
            # The file name has a resolution of seconds. A quick resume must not overwrite the file.
            self._writer = EventsWriter(str(path / "events"), f".{time.time_ns()}")
        except OSError as error:
            raise cannot_write(path, error) from error
        if resumed:  # TensorBoard drops older events from this step on
            restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=start_steps + 1 if start_steps else 0, session_log=restart)

    def log(self, kind: str, env_steps: int, clock: dict, metrics: dict) -> None:
        scalars = _scalars(kind, clock, metrics)
        value = [self._summary.Value(tag=tag, simple_value=x) for tag, x in scalars.items()]
        self._write(step=env_steps, summary=self._summary(value=value))

    def _write(self, **fields) -> None:
        try:
            self._writer.write_event(self._event(wall_time=time.time(), **fields))
            self._writer.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError:
            pass


class _WandB:
    def __init__(self, project: str, run_dir: Path | None, config: dict | None):
        try:
            import wandb
        except ImportError as error:
            raise RuntimeError(
                f"wandb={project!r}: Weights & Biases is missing: pip install jaxrl[wandb]"
            ) from error
        kept = run_dir / "wandb_id" if run_dir else None
        resumed = kept is not None and kept.exists()  # continue the same W&B run
        run_id = read_bytes(kept).decode().strip() if resumed else uuid.uuid4().hex[:8]
        try:
            if run_dir:
                run_dir.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=project,
                name=run_dir.name if run_dir else None,
                dir=run_dir,
                config=config,
                id=run_id,
                resume="allow",
            )
        except Exception as error:  # no network, no login, ...
            raise RuntimeError(f"wandb={project!r}: {terminal.reason(error)}") from error
        if kept:
            with whole(kept) as part:
                part.write_text(run_id)
        # W&B's own step must not decrease, but a resumed run repeats steps.
        self._run.define_metric("*", step_metric="env_steps")

    def log(self, kind: str, env_steps: int, clock: dict, metrics: dict) -> None:
        self._run.log({"env_steps": env_steps, **_scalars(kind, clock, metrics)})

    def close(self) -> None:
        self._run.finish()


class _Foreign:
    """A `Sink` of the user's."""

    def __init__(self, sink: Sink):
        if not all(callable(getattr(sink, name, None)) for name in ("log", "close")):
            raise ValueError(f"sinks: {sink!r} must have the methods of jaxrl.report.log.Sink")
        self._sink = sink

    def log(self, kind: str, env_steps: int, clock: dict, metrics: dict) -> None:
        self._sink.log(kind, env_steps, _scalars(kind, clock, metrics))

    def close(self) -> None:
        self._sink.close()


def _scalars(kind: str, clock: dict[str, float], metrics: dict[str, np.ndarray]) -> dict:
    """Returns values by tag: the mean over all seeds, and one per seed (per config in a sweep)."""
    scalars = {f"{kind}/{name}": value for name, value in clock.items()}
    for name, value in metrics.items():
        value = value.astype(np.float64)
        one = "seed" if value.ndim == 1 else "config"
        rows = value.reshape(value.shape[0], -1)
        entries = {f"{kind}/{name}": rows}
        if 1 < len(rows) <= PER_SEED_TAGS:
            entries |= {f"{kind}/{name}/{one}_{i}": row for i, row in enumerate(rows)}
        for tag, x in entries.items():
            x = x[np.isfinite(x)]
            if x.size:
                scalars[tag] = float(x.mean())
    return scalars


def _plain(value: np.ndarray) -> Any:
    """Returns nested lists: null for non-finite numbers, the shortest exact form of all others."""
    if value.ndim:
        return [_plain(x) for x in value]
    if value.dtype.kind in "biu":
        return int(value)
    return float(str(value)) if np.isfinite(value) else None
