"""A trained policy as files that need no jaxrl: ONNX, StableHLO, a serialised JAX program, NumPy.

The program is (observation, carry[, key]) to (action, carry), every one a list of plain arrays.
Normaliser, squashing and action scale are inside. `contract.json` names every array.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from envs.transforms.residual import Residual
from envs.types import Env
from jaxrl.policies import run_policy
from jaxrl.policies.deployed import deployed
from jaxrl.policies.numpy_form import numpy_form
from jaxrl.policies.straight import as_function, live, straight
from jaxrl.types import Policy

FORMATS = {  # and the file of each
    "onnx": "policy.onnx",
    "jax": "policy.jax",
    "stablehlo": "policy.stablehlo",
    "npz": "policy.npz",
}
CONTRACT, START, PROGRAM = "contract.json", "start.npz", "program.npz"
NEEDED = {"onnx": ("jax2onnx", "onnxruntime"), "jax": ("flatbuffers",)}  # packages
PLATFORMS = ("cpu", "cuda", "tpu")  # of a serialised JAX program
RUNNERS = {"onnx": "ONNX Runtime", "npz": "NumPy"}  # of run_policy.py
CHECKED_STEPS = 50  # that the runner and JAX act side by side before a file is written
TOLERANCE = 1e-3  # between their actions, as a share of the action or of 1, whichever is larger


@dataclass(frozen=True)
class Entry:
    """One array that goes in or out."""

    name: str
    role: str  # "observation", "carry", "key" or "action"
    shape: tuple[int, ...]
    dtype: str

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)


@dataclass(frozen=True)
class Exported:
    """A policy as a program of plain operations.

    `call` takes the arrays of `inputs` in this order and returns those of `outputs`. Output i + 1
    is the next value of carry i. `start` holds the carry at the start of an episode.
    """

    call: Callable[..., tuple[Any, ...]]
    inputs: tuple[Entry, ...]
    outputs: tuple[Entry, ...]
    start: dict[str, np.ndarray]
    params: Any  # of the policy
    deterministic: bool

    def names(self, role: str) -> list[str]:
        """The names of the inputs with this role."""
        return [entry.name for entry in self.inputs if entry.role == role]


def exported(policy: Policy, env: Env, deterministic: bool = True) -> Exported:
    """Returns `policy` as a program of plain operations, for one instance of `env`.

    Parts of the network and of the carry that no action depends on (a critic) are left out. The
    program takes a key, uint32 [2], only if it draws random numbers. A flow or diffusion policy
    draws at every plan, also if it is deterministic. On a residual the program holds the base, too,
    and its action is the one that is carried out.

    Args:
      policy: acts on observations.
      env: the environment that it was trained in.
      deterministic: act by the mode of the policy.

    Raises:
      ValueError: the policy acts on the simulator's state, or its generator of random numbers is
        not Threefry.
    """
    policy, env = _whole(policy, env)
    policy = deployed(policy, env)
    obs = jax.tree.map(_array, jax.eval_shape(env.reset, jax.random.key(0)).obs)
    start = policy.init_carry()
    kept, carry = jax.tree.flatten(jax.tree.map(_plain, start))
    shapes, tree = jax.tree.flatten(obs)

    def flat(*arrays):
        seen = jax.tree.unflatten(tree, arrays[: len(shapes)])
        memory = jax.tree.unflatten(carry, arrays[len(shapes) : -1])
        memory = jax.tree.map(_like, memory, start)
        key = jax.random.wrap_key_data(arrays[-1], impl="threefry2x32")
        action, memory = policy.act(memory, seen, key, deterministic)
        return action, *(_plain(x) for x in jax.tree.leaves(memory))

    program = straight(flat, *shapes, *kept, np.zeros(2, np.uint32))
    program, read, lives = _needed(program, len(shapes), len(kept))

    names = _paths(obs, "obs")
    inputs = [_entry(n, "observation", x) for n, x in zip(names, shapes, strict=True)]
    memories = [_entry(f"carry.{i}", "carry", kept[j]) for i, j in enumerate(lives)]
    key = [_entry("key", "key", np.zeros(2, np.uint32))] if read[-1] else []
    taken = [*(i for i, r in enumerate(read[: len(shapes)]) if r)]
    call = as_function(program)

    def act(*arrays):  # an observation that nothing reads is an input nevertheless
        seen, rest = arrays[: len(shapes)], arrays[len(shapes) :]
        return call(*(seen[i] for i in taken), *rest)

    action, *_ = program.out_avals
    return Exported(
        call=act,
        inputs=(*inputs, *memories, *key),
        outputs=(
            _entry("action", "action", action),
            *(Entry(f"next.{i}", "carry", m.shape, m.dtype) for i, m in enumerate(memories)),
        ),
        start={m.name: np.asarray(kept[j]) for m, j in zip(memories, lives, strict=True)},
        params=policy.params,
        deterministic=deterministic,
    )


def _needed(program: ClosedJaxpr, num_obs: int, num_carry: int):
    """Returns the part of the program that actions need, what it reads, and which carries it keeps.

    A carry is needed if the action or a needed carry depends on it.
    """
    needed, found = None, set()
    while found != needed:
        needed = found
        part, read = live(program, [True, *(i in needed for i in range(num_carry))])
        found = {i for i in range(num_carry) if read[num_obs + i]}
    return part, read, sorted(needed)


def _whole(policy: Policy, env: Env) -> tuple[Policy, Env]:
    """Returns the policy and the environment without the bases that are inside `env`."""
    if policy.sees_state:
        raise ValueError(
            "the policy acts on the simulator's state, which a robot does not have: it has no export"
        )
    if not isinstance(env, Residual):
        return policy, env
    residual, (base, task) = env, _whole(env.base, env.env)

    def apply(params, carry, obs, key, deterministic):
        k_base, k_own = jax.random.split(key)
        action, below = base.apply(params[0], carry[0], obs, k_base, residual.deterministic)
        seen = (obs if isinstance(obs, dict) else {"obs": obs}) | {residual.entry: action}
        correction, own = policy.apply(params[1], carry[1], seen, k_own, deterministic)
        return residual.combine(action, correction), (below, own)

    start = lambda: (base.init_carry(), policy.init_carry())
    return Policy((base.params, policy.params), start, apply), task


def _array(x: Any) -> np.ndarray:
    return np.zeros(x.shape, x.dtype)


def _plain(x: Any) -> Any:
    """The words of a key; anything else as it is."""
    is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def _like(x: Any, start: Any) -> Any:
    """The inverse of `_plain`."""
    is_key = jnp.issubdtype(jnp.result_type(start), jax.dtypes.prng_key)
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(start)) if is_key else x


def _entry(name: str, role: str, x: Any) -> Entry:
    return Entry(name, role, tuple(x.shape), str(np.dtype(x.dtype)))


def _paths(tree: Any, root: str) -> list[str]:
    """A name for every leaf, such as `obs` or `obs.goal`."""
    word = lambda k: str(
        next(v for v in (getattr(k, a, None) for a in ATTRIBUTES) if v is not None)
    )
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [".".join([root, *map(word, path)]) for path, _ in paths]


ATTRIBUTES = ("key", "idx", "name")  # of the entries of a path


# --- Files ---


def check_format(to: str) -> None:
    """Raises ValueError for an unknown format, or one whose packages are not installed."""
    if to not in FORMATS:
        raise ValueError(f"to={to!r}: must be one of {', '.join(FORMATS)}")
    missing = [x for x in NEEDED.get(to, ()) if importlib.util.find_spec(x) is None]
    if missing:
        raise ValueError(f"--to {to} needs {' and '.join(missing)}: pip install 'jaxrl[export]'")


def check_out(out: Path) -> None:
    """Raises ValueError if the folder exists and is not empty, or is a file."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise ValueError(f"{out} exists: choose another --out")


def write(
    program: Exported,
    to: str,
    out: Path,
    about: dict[str, Any],
    files: dict[str, bytes] | None = None,
) -> dict[str, Any]:
    """Writes the folder `out` with the model file and `contract.json`.

    With ONNX and npz `run_policy.py` comes along. Its program for NumPy is `program.npz`. A policy
    with an operation that NumPy does not have is exported without it, and `contract.json` says why.

    The folder appears whole or not at all.

    Args:
      program: what to write.
      to: a name in `FORMATS`.
      out: a folder that does not exist, or is empty.
      about: more entries of the contract, such as `jaxrl.policies.contract.describe` gives.
      files: more files by name, such as `jaxrl.policies.in_mujoco.files` gives.

    Returns:
      the contract.

    Raises:
      ValueError: an unknown format, a missing package, a folder that exists, or an operation that
        ONNX cannot express.
      RuntimeError: ONNX Runtime or NumPy acts in another way than JAX.
    """
    check_format(to)
    check_out(out)
    part = out.absolute().with_name(f".{out.absolute().name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, content in (files or {}).items():
            (part / name).write_bytes(content)
        contract = _fill(program, to, part, about)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return contract


def _fill(program: Exported, to: str, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    model = CONTENTS[to](program)
    (folder / FORMATS[to]).write_bytes(model)
    contract = {"format": to, "file": FORMATS[to], "sha256": hashlib.sha256(model).hexdigest()}
    contract |= _signature(program)
    if "start" in contract:
        np.savez(folder / START, **program.start)
    if to == "npz":
        contract |= _arrays_only(program) | _for_numpy(program, folder)
    contract |= about
    _write_json(folder / CONTRACT, contract)
    if to == "onnx" or contract.get("program"):
        shutil.copy(run_policy.__file__, folder / "run_policy.py")
        versions = {name: metadata.version(name) for name in NEEDED.get(to, ())}
        contract |= {"converted_by": versions} if versions else {}
        contract["checked"] = _check(program, folder, RUNNERS[to])
        _write_json(folder / CONTRACT, contract)
    return contract


def _for_numpy(program: Exported, folder: Path) -> dict[str, Any]:
    """Writes the program for `run_policy.py`, and returns its entries of the contract."""
    try:
        content = numpy_form(program.call, [entry.spec for entry in program.inputs])
    except ValueError as error:
        return {"program": None, "no_program": f"{error}: use --to onnx or --to jax"}
    (folder / PROGRAM).write_bytes(content)
    return {"program": {"file": PROGRAM, "sha256": hashlib.sha256(content).hexdigest()}}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _signature(program: Exported) -> dict[str, Any]:
    found = {
        "deterministic": program.deterministic,
        "inputs": [_described(entry) for entry in program.inputs],
        "outputs": [_described(entry) for entry in program.outputs],
    }
    return found | ({"start": START} if program.start else {})


def _arrays_only(program: Exported) -> dict[str, Any]:
    arrays = _arrays(program).items()
    return {"arrays": {n: {"shape": list(x.shape), "dtype": str(x.dtype)} for n, x in arrays}}


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "role": entry.role,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
    }


def _arrays(program: Exported) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(program.params)
    names = _paths(program.params, "params")
    return {n: np.asarray(_plain(x)) for n, x in zip(names, leaves, strict=True)}


def _npz(program: Exported) -> bytes:
    file = io.BytesIO()
    np.savez(file, **_arrays(program))
    return file.getvalue()


def _jax(program: Exported) -> bytes:
    specs = [entry.spec for entry in program.inputs]
    made = jax.export.export(jax.jit(program.call), platforms=PLATFORMS)(*specs)
    return bytes(made.serialize())


def _stablehlo(program: Exported) -> bytes:
    specs = [entry.spec for entry in program.inputs]
    return jax.export.export(jax.jit(program.call))(*specs).mlir_module_serialized


def _onnx(program: Exported) -> bytes:
    from jax2onnx import to_onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of shapes that it leaves out
    try:
        model = to_onnx(
            lambda *arrays: program.call(*arrays),
            [entry.spec for entry in program.inputs],
            model_name="policy",
            input_names=[entry.name for entry in program.inputs],
            output_names=[entry.name for entry in program.outputs],
        )
    except Exception as error:  # of any kind: converters raise what they meet
        raise ValueError(_cannot(error)) from error
    return model.SerializeToString()


def _cannot(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"ONNX has no form of this policy: {text}. Use --to stablehlo"


CONTENTS: dict[str, Callable[[Exported], bytes]] = {
    "onnx": _onnx,
    "jax": _jax,
    "stablehlo": _stablehlo,
    "npz": _npz,
}


def _check(program: Exported, folder: Path, runner: str) -> dict[str, Any]:
    """Acts by `run_policy.py` and by JAX side by side, on drawn observations.

    Raises:
      ValueError: ONNX Runtime cannot load the file.
      RuntimeError: the actions differ by more than `TOLERANCE`.
    """
    try:
        there = run_policy.Policy(folder)
    except Exception as error:
        raise ValueError(_cannot(error)) from error
    act, largest = jax.jit(program.call), 0.0
    carry = list(program.start.values())
    random = np.random.default_rng(0)
    seen = [entry for entry in program.inputs if entry.role == "observation"]
    for step in range(CHECKED_STEPS):
        obs = {e.name: _drawn(random, e) for e in seen}
        key = np.array([0, step], np.uint32)
        last = [key] if program.names("key") else []
        action, *carry = act(*obs.values(), *carry, *last)
        found = there.act(obs, key)
        scale = np.maximum(1.0, np.abs(np.asarray(action, np.float64)))
        gap = np.abs(np.asarray(action, np.float64) - np.asarray(found, np.float64)) / scale
        largest = max(largest, float(gap.max(initial=0.0)))
    if not largest <= TOLERANCE:
        raise RuntimeError(
            f"{runner} and JAX differ by {largest:.2g} over {CHECKED_STEPS} steps, more than"
            f" {TOLERANCE:g}: use --to stablehlo"
        )
    return {"by": runner, "steps": CHECKED_STEPS, "largest_difference": largest}


def _drawn(random: np.random.Generator, entry: Entry) -> np.ndarray:
    kind = np.dtype(entry.dtype).kind
    if kind == "f":
        return random.normal(size=entry.shape).astype(entry.dtype)
    return random.integers(0, 2, entry.shape).astype(entry.dtype)
