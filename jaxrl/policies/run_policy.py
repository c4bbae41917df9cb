"""Runs an exported policy with NumPy and ONNX Runtime alone.

    python run_policy.py                         # acts on zeros, prints actions and latency
    python run_policy.py --obs obs.npy --out actions.npy    # obs [steps, ...]

In a program of your own:

    from run_policy import Policy

    policy = Policy("FOLDER")
    policy.reset()                # at the start of every episode
    action = policy.act(obs)      # once per control step

`contract.json` beside this file names every array, its shape and its unit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np


class Policy:
    """Acts for one robot. The memory of the policy is inside and begins anew with `reset`."""

    def __init__(self, folder=Path(__file__).parent, seed=0):
        """Loads `folder`. `seed` (0 .. 2**32 - 1) selects the random numbers of a policy that draws.

        Raises ValueError if the model file is not the one that the contract was written for.
        """
        import onnxruntime

        folder = Path(folder)
        self.contract = json.loads((folder / "contract.json").read_text())
        model = (folder / self.contract["file"]).read_bytes()
        if hashlib.sha256(model).hexdigest() != self.contract["sha256"]:
            raise ValueError(f"{folder / self.contract['file']}: not the file of contract.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # small networks are faster on one core
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._taken = {entry.name for entry in self._session.get_inputs()}
        self._start = dict(np.load(folder / "start.npz")) if "start" in self.contract else {}
        self._inputs = self.contract["inputs"]
        self._observed = [e for e in self._inputs if e["role"] == "observation"]
        self.seed = seed
        self.reset()

    def reset(self):
        """Starts an episode."""
        self._carry, self._step = dict(self._start), 0

    def act(self, obs, key=None):
        """Returns the action, in the environment's units.

        obs: an array, or a dict of arrays where the contract has several observations. Its names may
        leave out the "obs." in front.
        key: two words, uint32 [2], that select the random numbers of this step. The default is the
        seed and the number of the step.
        """
        if key is None:
            key = np.array([self.seed, self._step], np.uint32)
        given = {"key": np.asarray(key, np.uint32)} | self._carry | self._observation(obs)
        action, *carry = self._session.run(
            None, {name: x for name, x in given.items() if name in self._taken}
        )
        self._carry = dict(zip(self._carry, carry, strict=True))
        self._step += 1
        return action

    def _observation(self, obs):
        if not isinstance(obs, dict):
            obs = {self._observed[0]["name"]: obs}
        found = {}
        for entry in self._observed:
            name = entry["name"]
            short = name.partition(".")[2]
            if name not in obs and short not in obs:
                raise ValueError(
                    f"observation: has no entry {short or name!r}; it has {sorted(obs)}"
                )
            x = np.asarray(obs[name] if name in obs else obs[short], entry["dtype"])
            if list(x.shape) != entry["shape"]:
                raise ValueError(f"{name}: has shape {list(x.shape)}, must be {entry['shape']}")
            found[name] = x
        return found


def main():
    parser = argparse.ArgumentParser(description="Run an exported policy.")
    parser.add_argument("--obs", type=Path, help="observations, .npy [steps, ...] or .npz by name")
    parser.add_argument("--out", type=Path, help="writes the actions, .npy [steps, ...]")
    parser.add_argument("--steps", type=int, default=100, help="without --obs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    policy = Policy(seed=args.seed)
    observed = {e["name"]: e for e in policy.contract["inputs"] if e["role"] == "observation"}
    if args.obs is None:
        rows = {
            name: np.zeros([args.steps, *e["shape"]], e["dtype"]) for name, e in observed.items()
        }
    else:
        loaded = np.load(args.obs)
        rows = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"obs": loaded}
    actions, seconds = [], []
    for step in range(min(map(len, rows.values()))):
        start = time.perf_counter()
        actions.append(policy.act({name: x[step] for name, x in rows.items()}))
        seconds.append(time.perf_counter() - start)
    rate = policy.contract.get("control", {}).get("rate_hz")
    print(f"first action: {actions[0].tolist()}")
    print(f"last action: {actions[-1].tolist()}")
    print(
        f"{len(actions)} steps, median {1e3 * np.median(seconds):.3g} ms, slowest"
        f" {1e3 * max(seconds):.3g} ms" + (f"; the task runs at {rate:.4g} Hz" if rate else "")
    )
    if args.out:
        np.save(args.out, np.stack(actions))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}".splitlines()[0], file=sys.stderr)
        sys.exit(2)
