"""Writes files whole or not at all, and checks what it reads against a schema."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from jaxrl.report import terminal

MODEL = TypeVar("MODEL")
Scalar = bool | int | float | str | None
Option = Scalar | list[Scalar]  # an option of an environment, in JSON
MOST_BYTES = 2**30  # the largest text file that is read at once
# What to say an entry must be, by the type of pydantic's error.
WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 64 bits",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "bool_type": "true or false",
    "dict_type": "an object {...}",
    "model_type": "an object {...}",
    "list_type": "a list [...]",
    "too_short": "a list that is not empty",
    "none_required": "null",
}


class Schema(BaseModel):
    """A JSON object whose entries have exactly these types. Entries with other names are allowed.

    `true` is not a number and 1.0 is not a whole number.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the same suffix, then renames it to `path`: all or nothing.

    Raises:
      RuntimeError: the file cannot be written. An earlier file at `path` is kept.
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
    """Returns `value` ready for JSON: arrays (of a sweep) as lists, infinity as the string 'inf'."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return list(value) if isinstance(value, tuple) else value


# --- Reading ---


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. A FIFO, a device or a folder is refused before it is opened.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, is not a regular file, or has more than `MOST_BYTES`.
    """
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path}: must be a regular file, not {_what(about.st_mode)}")
        if about.st_size > MOST_BYTES:
            raise ValueError(
                f"{path}: has {about.st_size:,} bytes, must have at most {MOST_BYTES:,}"
            )
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None


def check_regular(folder: Path) -> None:
    """Raises ValueError where anything below `folder` is neither a regular file nor a folder."""
    for at, folders, names in os.walk(folder):
        for name in (*folders, *names):
            mode = os.stat(os.path.join(at, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ValueError(f"{os.path.join(at, name)} is {_what(mode)}")


def _what(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((word for test, word in kinds if test(mode)), "a device")


def read_json(path: Path, schema: Any) -> Any:
    """Returns the content of a JSON file, checked against `schema`, a type that pydantic knows.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, is not JSON, or an entry has another type. The message is one
        line that names the file, the entry, its value and what is allowed.
    """
    return parse(read_bytes(path), schema, str(path))


def parse(text: bytes | str, schema: Any, where: str) -> Any:
    """Returns the value of a JSON text, checked against `schema`. Messages begin with `where`.

    Raises:
      ValueError: see `read_json`.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{where}: not JSON ({word}; allowed are finite numbers and null)")

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} line {error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not JSON, which is UTF-8 ({error.reason})") from None
    except RecursionError:
        raise ValueError(f"{where}: not JSON (nested too deeply)") from None
    except ValueError as error:  # an integer with more digits than Python reads
        text = terminal.reason(error)
        is_ours = text.startswith(where)
        raise ValueError(text if is_ours else f"{where}: not JSON ({text})") from None
    check(value, schema, where)
    return value


def check(value: Any, schema: Any, where: str) -> None:
    """Raises ValueError if a JSON value does not fit `schema`. The message is one line that begins
    with `where` and names the entry, its value and what is allowed."""
    try:
        _adapter(schema).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}: {_complaint(error)}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"{where}: {terminal.reason(error)}") from None


@cache
def _adapter(schema: Any) -> TypeAdapter:
    config = None if isinstance(schema, type) and issubclass(schema, BaseModel) else STRICT
    return TypeAdapter(schema, config=config)


STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def _complaint(error: ValidationError) -> str:
    """Returns the first error, as `field=value: must be ...`."""
    found = error.errors(include_url=False)
    first = found[0]
    of_union = [e for e in found if e["input"] is first["input"]]
    name = ".".join(str(part) for part in first["loc"] if not _names_a_branch(part, found))
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"{name}: there is no such entry"
    allowed = " or ".join(dict.fromkeys(_allowed(e) for e in of_union))
    return f"{name or 'all of it'}={_short(first['input'])}: must be {allowed}"


def _names_a_branch(part: Any, found: list[Any]) -> bool:
    """Whether `part` of an error's path names a type: pydantic adds it where a union is allowed."""
    branches = ("int", "float", "str", "bool", "none", "list[", "dict[", "constrained")
    return isinstance(part, str) and len(found) > 1 and part.startswith(branches)


def _allowed(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in WORDS:
        return WORDS[kind]
    if kind == "literal_error":
        return f"one of {context['expected']}"
    for limit, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        if limit in context:
            return f"{word} {context[limit]}"
    return error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
