"""`python -m jaxrl.new my_task.py` writes the template of a task of one's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from jaxrl.cli import flags


def new(path: Path) -> None:
    """Writes the template of a task, which trains as it is.

    Raises:
      ValueError: the name is none of a Python module, or there is such a file.
      OSError: the file cannot be written.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path}: must be the name of a Python module, such as my_task.py")
    if importlib.util.find_spec(path.stem) is not None and not path.exists():
        raise ValueError(f"{path}: Python has a module {path.stem!r} already, choose another name")
    template = Path(importlib.util.find_spec("envs").origin).with_name("template.py")
    text = template.read_text().replace("my_task", path.stem)
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"{path} exists: choose another name") from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser("python -m jaxrl.new", description="Write the template of a task.")
    parser.add_argument("file", type=Path, help="such as my_task.py")
    args = parser.parse_args(argv)
    new(args.file)
    print(f"{args.file}: train it by\n  jaxrl train --learner ppo --env {args.file.stem}:make")
