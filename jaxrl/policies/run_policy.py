"""Runs an exported policy with NumPy alone, or with ONNX Runtime where the model is `policy.onnx`.

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
import math
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
        folder = Path(folder)
        self.contract = json.loads((folder / "contract.json").read_text())
        for what in (self.contract, self.contract.get("program")):
            if what and digest(folder / what["file"]) != what["sha256"]:
                raise ValueError(f"{folder / what['file']}: not the file of contract.json")
        self._run = (onnx if self.contract["format"] == "onnx" else program)(folder, self.contract)
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
        action, *carry = self._run(given)
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


def digest(file):
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def onnx(folder, contract):
    """A function from the inputs by name to the outputs, which ONNX Runtime evaluates."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small networks are faster on one core
    options.log_severity_level = 3  # errors only
    model = (folder / contract["file"]).read_bytes()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}
    return lambda given: session.run(None, {k: x for k, x in given.items() if k in taken})


# --- A program for NumPy ---


def program(folder, contract):
    """A function from the inputs by name to the outputs, which NumPy evaluates."""
    if not contract.get("program"):
        raise ValueError(f"{folder}: holds arrays without a program; export it --to onnx or jax")
    arrays = np.load(folder / contract["program"]["file"])
    text = json.loads(str(arrays["program"]))
    names = [entry["name"] for entry in contract["inputs"]]
    known = {n: arrays[f"c{i}"] for i, n in enumerate(text["constants"])}
    steps = [(OPERATIONS[name], *rest) for name, *rest in text["steps"]]

    def run(given):
        values = known | {n: given[x] for n, x in zip(text["inputs"], names, strict=True)}
        with np.errstate(all="ignore"):  # as XLA: integers wrap, and a branch not taken may be NaN
            for operation, taken, params, made in steps:
                found = operation(*(values[n] for n in taken), **params)
                found = found if isinstance(found, list) else [found]
                values.update(zip(made, found, strict=True))
        return [np.asarray(values[n]) for n in text["outputs"]]

    return run


def _dot_general(a, b, dimension_numbers):
    (a_sum, b_sum), (a_batch, b_batch) = dimension_numbers
    a_free = [i for i in range(a.ndim) if i not in (*a_sum, *a_batch)]
    b_free = [i for i in range(b.ndim) if i not in (*b_sum, *b_batch)]
    size = lambda x, axes: math.prod(x.shape[i] for i in axes)
    left = a.transpose(*a_batch, *a_free, *a_sum)
    right = b.transpose(*b_batch, *b_sum, *b_free)
    left = left.reshape(size(a, a_batch), size(a, a_free), size(a, a_sum))
    right = right.reshape(size(b, b_batch), size(b, b_sum), size(b, b_free))
    shape = [a.shape[i] for i in (*a_batch, *a_free)] + [b.shape[i] for i in b_free]
    return (left @ right).reshape(shape)


def _broadcast_in_dim(x, shape, broadcast_dimensions):
    ones = [1] * len(shape)
    for i, axis in enumerate(broadcast_dimensions):
        ones[axis] = x.shape[i]
    return np.broadcast_to(np.reshape(x, ones), shape)


def _starts(x, starts, sizes):
    """Slices that begin at `starts` and stay inside of `x`, as XLA cuts them."""
    first = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(s, s + k) for s, k in zip(first, sizes, strict=True))


def _dynamic_slice(x, *starts, slice_sizes):
    return x[_starts(x, starts, slice_sizes)]


def _dynamic_update_slice(x, new, *starts):
    x = np.array(x)
    x[_starts(x, starts, new.shape)] = new
    return x


def _slice(x, start_indices, limit_indices, strides):
    strides = strides or [1] * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, strides))]


def _select_n(which, *cases):
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 else np.choose(which, cases)


def _cumsum(x, axis, reverse):
    if reverse:
        return np.flip(np.cumsum(np.flip(x, axis), axis, x.dtype), axis)
    return np.cumsum(x, axis, x.dtype)


def _iota(dtype, shape, dimension):
    along = [1] * len(shape)
    along[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(along), shape)


def _erf_inv(x):
    """Giles (2010), "Approximating the erfinv function": the polynomials for single precision."""
    w = -np.log1p(-x * x)
    near, far = w - np.float32(2.5), np.sqrt(w) - np.float32(3.0)
    low = [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087]
    low += [-0.00125372503, -0.00417768164, 0.246640727, 1.50140941]
    high = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773]
    high += [-0.0076224613, 0.00943887047, 1.00167406, 2.83297682]
    found = np.where(w < 5.0, np.polyval(np.float32(low), near), np.polyval(np.float32(high), far))
    edge = np.where(np.abs(x) == 1.0, np.inf * x, found * x)
    return edge.astype(x.dtype)


def _reduce(f):
    return lambda x, axes: f(x, axis=tuple(axes))


def _arg(f):
    return lambda x, axes, index_dtype: f(x, axis=axes[0]).astype(index_dtype)


OPERATIONS = {  # by their names in JAX; what they do is in the documentation of `jax.lax`
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "argmax": _arg(np.argmax),
    "argmin": _arg(np.argmin),
    "atan2": np.arctan2,
    "bitcast_convert_type": lambda x, new_dtype: np.asarray(x).view(new_dtype),
    "broadcast_in_dim": _broadcast_in_dim,
    "ceil": np.ceil,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "convert_element_type": lambda x, new_dtype: np.asarray(x).astype(new_dtype),
    "cos": np.cos,
    "cumsum": _cumsum,
    "div": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else (a / b).astype(a.dtype),
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "eq": np.equal,
    "erf": lambda x: np.vectorize(math.erf, [np.float32])(x),
    "erf_inv": _erf_inv,
    "exp": np.exp,
    "exp2": np.exp2,
    "expand_dims": lambda x, dimensions: np.expand_dims(x, tuple(dimensions)),
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "integer_pow": lambda x, y: x**y if y >= 0 else x.dtype.type(1) / x**-y,
    "iota": _iota,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": lambda x: x.dtype.type(1) / (x.dtype.type(1) + np.exp(-x)),
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "pow": np.power,
    "reduce_and": _reduce(np.all),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_or": _reduce(np.any),
    "reduce_prod": _reduce(np.prod),
    "reduce_sum": _reduce(lambda x, axis: np.sum(x, axis, x.dtype)),
    "rem": np.fmod,
    "reshape": lambda x, new_sizes: np.reshape(x, new_sizes),
    "rev": lambda x, dimensions: np.flip(x, tuple(dimensions)),
    "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "select_n": _select_n,
    "shift_left": np.left_shift,
    "shift_right_logical": np.right_shift,
    "sign": np.sign,
    "sin": np.sin,
    "slice": _slice,
    "split": lambda x, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis),
    "sqrt": np.sqrt,
    "square": np.square,
    "squeeze": lambda x, dimensions: np.squeeze(x, tuple(dimensions)),
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
    "transpose": lambda x, permutation: np.transpose(x, permutation),
    "unstack": lambda x, axis: list(np.moveaxis(x, axis, 0)),
    "xor": np.bitwise_xor,
}


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
