"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxrl.report import terminal


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, of the same suffix, which then takes the place of `path`: all or nothing.

    Raises:
      RuntimeError: it cannot be written; what was there stays.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def cannot_write(path: Path, error: OSError) -> RuntimeError:
    return RuntimeError(f"cannot write {path}: {error.strerror or terminal.reason(error)}")


def plain(value: Any) -> Any:
    """JSON-ready; arrays (a sweep) become lists, infinity the string 'inf'."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return list(value) if isinstance(value, tuple) else value
