"""`jaxrl pull PLACE` fetches a policy that `jaxrl push` kept, and checks it."""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

from collections.abc import Sequence
from pathlib import Path

from jaxrl.cli import flags, hub
from jaxrl.report import terminal
from jaxrl.run import runtime


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser("jaxrl pull", description="Fetch a policy that `jaxrl push` kept.")
    parser.add_argument("place", metavar="PLACE", help="OWNER/NAME at Hugging Face, or ./FOLDER")
    parser.add_argument("--out", type=Path, help="default: NAME in the current folder")
    parser.add_argument("--revision", help="a branch, tag or commit; default: the newest")
    args = parser.parse_args(argv)
    out = args.out or Path(Path(args.place).name)
    runtime.setup()
    hub.pull(args.place, out, args.revision)
    print(f"{out}: `jaxrl demo {out}` shows it acting")


if __name__ == "__main__":
    terminal.run(main)
