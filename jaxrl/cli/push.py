"""`jaxrl push RUN PLACE` keeps a policy of a run in a Hugging Face repository or a folder."""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import tempfile
from collections.abc import Sequence
from pathlib import Path

from envs.transforms.base import check_count
from jaxrl.cli import flags, hub, zoo
from jaxrl.report import terminal
from jaxrl.run import runtime


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser(
        "jaxrl push", description="Keep a policy of a run in a Hugging Face repository or a folder."
    )
    flags.choose_policy(parser)
    parser.add_argument("place", metavar="PLACE", help="OWNER/NAME at Hugging Face, or ./FOLDER")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--episodes", type=int, default=32, help="that the policy is measured on")
    parser.add_argument("--seed", type=int, default=0, help="of these episodes")
    args = parser.parse_args(argv)
    if args.stochastic:
        raise ValueError("--stochastic: a kept policy is measured by its most likely actions")
    check_count("episodes", args.episodes, 1)
    runtime.check_seed(args.seed)
    runtime.setup()
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"seed_index": args.seed_index, "step": args.step}
        measured = {"episodes": args.episodes, "seed": args.seed}
        card = zoo.save(args.run, Path(folder), **chosen, **measured)
        where = hub.push(Path(folder), args.place, args.private)
    score = card["score"]
    print(f"{where}: {score['metric']} {score['mean']:.5g} over {score['episodes']} episodes")


if __name__ == "__main__":
    terminal.run(main)
