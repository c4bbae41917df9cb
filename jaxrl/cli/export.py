"""`python -m jaxrl.export RUN --to FORMAT --out DIR` writes a trained policy for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl import __version__
from jaxrl.cli import flags, runs
from jaxrl.cli.play import episode_keys
from jaxrl.originals import EPISODES
from jaxrl.policies import exported, in_mujoco
from jaxrl.policies.contract import describe
from jaxrl.run import runtime


def export(
    run_dir: Path,
    to: str,
    out: Path,
    *,
    seed_index: int = 0,
    step: int | None = None,
    stochastic: bool = False,
) -> dict[str, Any]:
    """Writes one policy of a run as a folder that needs no jaxrl.

    Args:
      run_dir: the run.
      to: a name in `exported.FORMATS`.
      out: the folder to write. It must not exist, or be empty.
      seed_index: which policy, in configs * seeds.
      step: of the checkpoint, in env steps; None: the newest.
      stochastic: sample actions instead of taking the mode.

    Returns:
      the content of `contract.json`.

    Raises:
      ValueError: no such run, checkpoint or seed, an unknown format, a package that is missing, a
        folder that exists, or a policy that cannot be exported.
      RuntimeError: ONNX Runtime or NumPy acts in another way than JAX.
    """
    exported.check_format(to)
    exported.check_out(out)
    run = runs.load(run_dir, step)
    program = exported.exported(run.policy(seed_index), run.env, not stochastic)
    mujoco, files = in_mujoco.files(run.env, episode_keys(0, EPISODES))
    about = _about(run, seed_index) | describe(run.env) | mujoco
    return exported.write(program, to, out, about, files)


def _about(run: runs.Run, seed_index: int) -> dict[str, Any]:
    names = ("learner", "env", "env_overrides", "residual")
    trained = {name: run.config[name] for name in names if name in run.config}
    steps = {"unit": run.config.get("unit", "env steps"), "steps": run.env_steps}
    return {
        "trained": trained | steps | {"seed_index": seed_index},
        "versions": {"jaxrl": __version__} | runs.versions(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser(
        "python -m jaxrl.export", description="Write a trained policy for use without jaxrl."
    )
    flags.choose_policy(parser)
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="onnx, with a program that needs NumPy and ONNX Runtime only; npz, with a program that"
        " needs NumPy only; jax, which jax.export reads; stablehlo",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist"
    )
    args = parser.parse_args(argv)
    runtime.setup()
    contract = export(
        args.run,
        args.to,
        args.out,
        seed_index=args.seed_index,
        step=args.step,
        stochastic=args.stochastic,
    )
    if "checked" in contract:
        checked = contract["checked"]
        print(
            f"{checked['by']} and JAX differ by {checked['largest_difference']:.2g} at most over"
            f" {checked['steps']} steps"
        )
    files = sorted(path.name for path in args.out.iterdir())
    print(f"{args.out}: {', '.join(files)}")
