"""`jaxrl demo [NAME]` shows a small trained policy acting: one episode, its return, a film."""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrl.cli import flags, play, zoo
from jaxrl.episodes import film
from jaxrl.report import terminal
from jaxrl.run import runtime

FILM_SECONDS = 10.0  # of the simulated world


def demo(
    name: str, video: Path | None = None, seed: int = 0, width: int = 480, height: int = 360
) -> float:
    """Plays one episode with a kept policy, prints its return, and films its first seconds.

    Args:
      name: of a policy of the package, or a folder that `jaxrl push` or `jaxrl pull` wrote.
      video: the file for the film; None: no film.
      seed: of the episode.
      width, height: of the film, in pixels.

    Returns:
      the return of the episode.

    Raises:
      ValueError: no such policy, or a seed out of range.
    """
    kept = zoo.load(zoo.find(name))
    runtime.check_seed(seed)
    _print_card(kept.card)
    states, length = film(kept.env, kept.policy, jax.random.key(seed))
    total = float(states.reward[1 : 1 + length].sum())
    ended = "terminated" if states.terminated[length] else "at its time limit"
    print(f"episode {seed}: return {total:.5g} in {length} steps, {ended}")
    if video is not None:
        shown = play.film_of([kept.env], [(states, length)], video, FILM_SECONDS, width, height)
        if shown:
            print(f"the first {FILM_SECONDS:g} s of it: {shown}")
    return total


def _print_card(card: dict[str, Any]) -> None:
    score = card["score"]
    print(
        f"{card['learner']} on {card['env']}, trained for {terminal.short(card['steps'])}"
        f" {card['unit']}: {score['metric']} {score['mean']:.5g}, 95% interval"
        f" {score['low']:.5g}..{score['high']:.5g} over {score['episodes']} episodes"
    )


def main(argv: Sequence[str] | None = None) -> None:
    names = zoo.shipped()
    parser = flags.Parser("jaxrl demo", description="Show a small trained policy acting.")
    parser.add_argument(
        "name",
        nargs="?",
        default=next(iter(names)),
        metavar="NAME",
        help=f"{', '.join(names)}, or a folder that `jaxrl pull` wrote; default: %(default)s",
    )
    parser.add_argument("--list", action="store_true", help="list the policies of the package")
    parser.add_argument("--seed", type=int, default=0, help="of the episode")
    parser.add_argument("--video", type=Path, help="default: NAME.mp4 in the current folder")
    parser.add_argument("--no-video", action="store_true")
    args = parser.parse_args(argv)
    if args.list:
        rows = [[name, text] for name, text in names.items()]
        terminal.table("Policies of the package", ["name", "what it does"], rows)
        return
    start = time.perf_counter()
    runtime.setup()
    video = args.video or Path(f"{Path(args.name).name}.mp4")
    demo(args.name, None if args.no_video else video, args.seed)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    terminal.run(main)
