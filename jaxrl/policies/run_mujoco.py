"""Runs an exported policy in C MuJoCo, with NumPy and mujoco alone (`policy.onnx` needs ONNX Runtime).

    python run_mujoco.py                     # the episodes that `jaxrl play RUN --on mujoco` measures
    python run_mujoco.py --task my_task.py   # with functions of your own
    python run_mujoco.py --view              # the first episode, in MuJoCo's viewer

`my_task.py` holds any of these functions in NumPy, for one `mujoco.MjModel` and `mujoco.MjData`:

    observe(model, data) -> array, or a dict of arrays     default: what the contract says
    control(model, action) -> data.ctrl                    default: what the contract says
    reward(model, data, action) -> number                  default: none, lengths are printed alone
    terminated(model, data) -> bool                        default: the time limit ends an episode

In a program of your own: `returns, lengths = run(folder, episodes=32, reward=reward)`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import runpy
import sys
import time
from pathlib import Path

import mujoco
import numpy as np

FUNCTIONS = ("observe", "control", "reward", "terminated")


def load_model(folder, path=None):
    """The `MjModel` of the export, or the one of the file `path` (MJCF, URDF or mjb)."""
    if path is not None:
        path = Path(path)
        load = "from_binary_path" if path.suffix == ".mjb" else "from_xml_path"
        return getattr(mujoco.MjModel, load)(str(path))
    about = about_mujoco(folder)
    file = Path(folder) / about["model"]
    if hashlib.sha256(file.read_bytes()).hexdigest() != about["sha256"]:
        raise ValueError(f"{file}: not the file of contract.json")
    try:
        return mujoco.MjModel.from_binary_path(str(file))
    except ValueError as error:
        raise ValueError(
            f"{file}: mujoco {about['version']} wrote it and mujoco {mujoco.__version__} cannot read it;"
            " install that version, or give your MJCF as --model"
        ) from error


def about_mujoco(folder):
    """What the contract says about MuJoCo."""
    contract = json.loads((Path(folder) / "contract.json").read_text())
    if "mujoco" not in contract:
        raise ValueError(f"{folder}: the policy's task has no MuJoCo model")
    return contract["mujoco"]


def run(
    folder=Path(__file__).parent, episodes=None, model=None, policy=None, view=None, **functions
):
    """Runs episodes from the start states of the export.

    folder: of the export.
    episodes: how many of the start states, from the first on; None: all.
    model: an `MjModel`; None: that of the export.
    policy: an object with `reset()` and `act(obs)`; None: that of the export.
    view: called with `MjData` after every control step.
    functions: observe, control, reward, terminated; see the top of this file.

    Returns the returns and the lengths, arrays [episodes]. Returns are NaN without a reward, and where
    the simulation broke.
    """
    folder, about = Path(folder), about_mujoco(folder)
    model = load_model(folder) if model is None else model
    policy = exported(folder) if policy is None else policy
    starts = dict(np.load(folder / about["starts"]))
    known = {"observe": by_contract(about), "control": in_range(about)} | functions
    count = len(starts["qpos"]) if episodes is None else min(episodes, len(starts["qpos"]))
    each = [
        episode(model, policy, {k: x[i] for k, x in starts.items()}, about, view, **known)
        for i in range(count)
    ]
    return np.array([total for total, _ in each]), np.array([length for _, length in each])


def exported(folder):
    """The policy of the export."""
    try:
        from run_policy import Policy
    except ImportError:
        raise ValueError(
            f"{folder}: has no run_policy.py; export the policy --to npz or --to onnx, or call"
            " run(policy=...) with an object that has reset() and act(obs)"
        ) from None
    return Policy(folder)


def episode(model, policy, start, about, view, observe, control, reward=None, terminated=None):
    """One episode: its return and its length."""
    data = mujoco.MjData(model)
    for name, x in start.items():
        getattr(data, name)[:] = x
    mujoco.mj_forward(model, data)
    policy.reset()
    total, length, limit = 0.0 if reward else np.nan, 0, about["time_limit"] or 1000
    while length < limit:
        action = policy.act(observe(model, data))
        data.ctrl[:] = control(model, action)
        mujoco.mj_step(model, data, about["substeps"])
        length += 1
        if not np.isfinite(data.qpos).all() or data.warning.number[BAD].any():
            return np.nan, length
        if reward:
            total += float(reward(model, data, action))
        if view:
            view(data)
        if terminated and terminated(model, data):
            break
    return total, length


# MuJoCo starts anew where a simulation breaks, and counts it.
BAD = [int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{x}")) for x in ("QPOS", "QVEL", "QACC")]


def by_contract(about):
    """The observation that the contract describes: arrays of `MjData`, one after another."""

    def observe(model, data):
        if about["observation"] is None:
            raise ValueError(
                "observe: the task computes its own observation; write observe(model, data) in NumPy"
                " in a file, and give it as --task FILE"
            )
        return np.concatenate([getattr(data, name) for name in about["observation"]])

    return observe


def in_range(about):
    """Controls of actions in -1 .. 1, which are the ends of an actuator's range."""

    def control(model, action):
        if about["control"] is None:
            raise ValueError(
                "control: the task computes its own controls; write control(model, action) in NumPy"
                " in a file, and give it as --task FILE"
            )
        low, high = model.actuator_ctrlrange.T
        return low + (np.clip(action, -1.0, 1.0) + 1.0) / 2.0 * (high - low)

    return control


def main():
    parser = argparse.ArgumentParser(description="Run an exported policy in C MuJoCo.")
    parser.add_argument("--task", type=Path, help="a file with functions of your own")
    parser.add_argument("--model", type=Path, help="another MJCF, URDF or mjb file")
    parser.add_argument("--episodes", type=int, help="default: all start states")
    parser.add_argument("--view", action="store_true", help="show the first episode")
    args = parser.parse_args()
    folder = Path(__file__).parent
    found = runpy.run_path(str(args.task)) if args.task else {}
    functions = {name: found[name] for name in FUNCTIONS if name in found}
    model = load_model(folder, args.model)
    if args.view:
        from mujoco import viewer

        pause = model.opt.timestep * about_mujoco(folder)["substeps"]
        shown = mujoco.MjData(model)
        with viewer.launch_passive(model, shown) as window:

            def view(data):
                shown.qpos[:], shown.mocap_pos[:] = data.qpos, data.mocap_pos
                mujoco.mj_forward(model, shown)
                window.sync()
                time.sleep(pause)

            run(folder, 1, model, view=view, **functions)
        return
    returns, lengths = run(folder, args.episodes, model, **functions)
    mean = lambda x: f"{x[np.isfinite(x)].mean():.6g}" if np.isfinite(x).any() else "undefined"
    print(f"{len(lengths)} episodes: mean length {mean(lengths)}")
    if "reward" in functions:
        print(
            f"mean return {mean(returns)}, lowest {returns.min():.6g}, highest {returns.max():.6g}"
        )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}".splitlines()[0], file=sys.stderr)
        sys.exit(2)
