"""Converts a data set: `python -m jaxrl.data IN OUT`.

    python -m jaxrl.data low_dim.hdf5 data/can.npz --split train
    python -m jaxrl.data my_lerobot_folder data/arm.hdf5 --to robomimic
    python -m jaxrl.data data/peg.npz data/peg --to lerobot --fps 20

IN is whatever `jaxrl.data.files.load` reads: `.npz` or HDF5 in our layout, OGBench, robomimic HDF5, a
LeRobot folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from jaxrl.cli import flags
from jaxrl.data import files, lerobot, robomimic
from jaxrl.data.dataset import Dataset

FORMATS = ("npz", "hdf5", "robomimic", "lerobot")


def convert(dataset: Dataset, out: Path, to: str = "", fps: int = 0) -> str:
    """Writes a data set and returns its format.

    Args:
      dataset: what to write.
      out: the new file or folder.
      to: one of `FORMATS`; "": by the suffix of `out`, which is none for a LeRobot folder.
      fps: frames a second of a LeRobot folder; 0: those of the data set, or 30.

    Raises:
      ValueError: `out` exists or has the wrong suffix, or the format cannot hold the data.
      RuntimeError: it cannot be written.
    """
    suffix = out.suffix
    to = to or {".npz": "npz", "": "lerobot"}.get(suffix, "hdf5")
    if fps and to != "lerobot":
        raise ValueError(f"fps={fps}: only LeRobot's format has a rate; add --to lerobot")
    if to == "lerobot":
        lerobot.save(dataset, out, fps)
        return to
    allowed = (".npz",) if to == "npz" else files.HDF5
    if suffix not in allowed:
        raise ValueError(f"{out}: must end in {' or '.join(allowed)} for --to {to}")
    (robomimic.save if to == "robomimic" else files.save)(dataset, out)
    return to


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser("python -m jaxrl.data", description="Convert a data set.")
    parser.add_argument("source", metavar="IN", type=Path, help="a file or a LeRobot folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="the new file or folder")
    parser.add_argument("--to", default="", choices=FORMATS, help="default: by the suffix of OUT")
    parser.add_argument("--split", default="", help="a filter key of robomimic, a split of LeRobot")
    parser.add_argument("--images", action="store_true", help="keep robomimic's images, as uint8")
    parser.add_argument("--fps", type=int, default=0, help="of a LeRobot folder that is written")
    parser.add_argument("--cut-at", type=int, default=0, help="steps; ends episodes without a flag")
    parser.add_argument("--terminals-are-timeouts", action="store_true", help="as in OGBench")
    args = parser.parse_args(argv)
    if args.out.exists():
        raise ValueError(f"{args.out} exists: choose another name")
    dataset = files.load(
        args.source,
        args.terminals_are_timeouts,
        args.cut_at,
        split=args.split,
        images=args.images,
    )
    to = convert(dataset, args.out, args.to, args.fps)
    shapes = jax.tree.map(lambda x: list(x.shape[2:]), dataset.steps.obs)
    print(
        f"{args.out} ({to}): {len(dataset.ends)} episodes, {len(dataset)} steps, observations"
        f" {shapes}, actions {list(dataset.steps.action.shape[2:])}"
    )
