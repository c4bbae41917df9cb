"""`jaxrl COMMAND ...`: the scripts of `experiments/` and the modules of this library, from anywhere."""

from __future__ import annotations

import jaxrl.cli.starting  # noqa: F401  # isort: skip

import importlib.util
import runpy
import sys
from pathlib import Path

# The name: where its code is, and what it does.
COMMANDS = {
    "demo": ("jaxrl.cli.demo", "shows a small trained policy acting"),
    "train": ("experiments/train.py", "trains any learner by name on any environment"),
    "sweep": ("experiments/sweep.py", "trains PPO with several learning rates in one program"),
    "tune": ("experiments/tune.py", "tunes numbers of a learner with Optuna"),
    "play": ("jaxrl.play", "evaluates a run and films an episode"),
    "plot": ("jaxrl.plot", "draws learning curves of runs"),
    "export": ("jaxrl.export", "writes a run's policy for a robot or another program"),
    "record": ("experiments/record.py", "records data sets with a run's policies"),
    "demos": ("experiments/demos.py", "records a scripted expert"),
    "convert": ("jaxrl.data", "converts a data set: robomimic, LeRobot, OGBench, .npz"),
    "imitate": ("experiments/imitate.py", "clones demonstrations"),
    "residual": ("experiments/residual.py", "refines a clone"),
    "refine": ("experiments/refine.py", "does the last three in one command"),
    "new": ("jaxrl.new", "writes the template of a task of your own"),
    "push": ("jaxrl.cli.push", "keeps a run's policy at Hugging Face or in a folder"),
    "pull": ("jaxrl.cli.pull", "fetches a policy that was kept"),
    "envs": ("", "lists the environments that are installed"),
}


def main() -> int:
    """Runs the command that the first argument names, with the others as its flags."""
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: jaxrl COMMAND [FLAGS]; jaxrl COMMAND --help lists the flags\n")
        for command, (_, text) in COMMANDS.items():
            print(f"  {command:<10}{text}")
        return 0
    if name not in COMMANDS:
        print(f"error: command={name!r}: allowed are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    path, _ = COMMANDS[name]
    if name == "envs":
        import envs

        print("\n".join(envs.names()))
    elif path.endswith(".py"):
        script = Path(importlib.util.find_spec("experiments").origin).parent / Path(path).name
        sys.argv, sys.path[:0] = [str(script), *flags], [str(script.parent)]
        runpy.run_path(str(script), run_name="__main__")
    else:
        sys.argv = [name, *flags]
        runpy.run_module(path, run_name="__main__", alter_sys=True)
    return 0
