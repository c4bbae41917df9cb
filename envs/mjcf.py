"""`from_mjcf`: a whole environment from a MuJoCo model and a few pure functions."""

from __future__ import annotations

import inspect
import math
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.contract import described
from envs.gl import mujoco
from envs.mjx.refused import located
from envs.mjx.simulator import LEVELS, Physics, Simulator, load, mjx
from envs.registry import limited, nearest
from envs.types import Box, Env, Space, State, first_state

CONTROL_DT = 0.02  # s, where the caller names none


@struct.dataclass
class Moment:
    """What the functions of a task see: one instance, after a control step or after a reset.

    `data.qpos` and `data.qvel` are those after the step. Derived quantities (`site_xpos`, `xpos`,
    `sensordata`, forces) belong to the start of the last physics step, as they do after `mj_step`.
    """

    data: mjx.Data
    action: jax.Array  # [nu] in -1 .. 1, the one that led here; 0 after a reset
    last_action: jax.Array  # [nu] in -1 .. 1, the one before it; 0 after a reset
    memory: Any  # the task's own pytree; () if `reset` returns none
    sim: Simulator  # `sim.mj_model` has the names, `sim.model` the numbers


Reset = Callable[[jax.Array, Simulator], tuple]
Observe = Callable[[Moment], Any]
Reward = Callable[[Moment], Any]
Terminate = Callable[[Moment], jax.Array]
Remember = Callable[[Moment], Any]
Control = Callable[[jax.Array, Simulator], jax.Array]


@struct.dataclass
class TaskData:
    """The state of an environment of `from_mjcf`."""

    physics: Physics
    action: jax.Array  # [nu] the last one
    memory: Any


@struct.dataclass
class Task:
    """The environment that `from_mjcf` makes. action [nu] in -1 .. 1."""

    sim: Simulator  # its numbers are leaves: `sim.model.body_mass`
    reset_fn: Reset = struct.field(pytree_node=False)
    observe_fn: Observe | None = struct.field(pytree_node=False)
    reward_fn: Reward = struct.field(pytree_node=False)
    terminate_fn: Terminate | None = struct.field(pytree_node=False)
    remember_fn: Remember | None = struct.field(pytree_node=False)
    control_fn: Control = struct.field(pytree_node=False)
    frame_skip: int = struct.field(pytree_node=False)
    spaces: Box | tuple[tuple[str, Box], ...] = struct.field(pytree_node=False)  # hashable
    terms: tuple[str, ...] = struct.field(pytree_node=False)  # of the reward

    @property
    def observation_space(self) -> Space:
        return dict(self.spaces) if isinstance(self.spaces, tuple) else self.spaces

    @property
    def action_space(self) -> Box:
        return Box((self.sim.mj_model.nu,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        physics, memory = _start(self.reset_fn(key, self.sim), self.sim)
        # The default observation reads nothing that `forward` would derive.
        data = self.sim.data(physics) if self.observe_fn is None else self.sim.forward(physics)
        still = jnp.zeros(self.action_space.shape)
        obs = self._observe(Moment(data, still, still, memory, self.sim))
        metrics = {f"reward_{name}": jnp.zeros(()) for name in self.terms}
        return first_state(TaskData(physics, still, memory), obs, metrics)

    def step(self, state: State, action: jax.Array) -> State:
        before = state.data
        action = jnp.clip(action, -1.0, 1.0)

        def derive(data: mjx.Data):
            now = Moment(data, action, before.action, before.memory, self.sim)
            memory = before.memory
            if self.remember_fn is not None:
                new = self.remember_fn(now)
                memory = jax.tree.map(lambda x, old: jnp.asarray(x, old.dtype), new, memory)
            ended = False if self.terminate_fn is None else self.terminate_fn(now)
            obs = self._observe(now.replace(memory=memory))
            return obs, _terms(self.reward_fn(now)), jnp.asarray(ended, bool), memory

        control = jnp.asarray(self.control_fn(action, self.sim), jnp.float32)
        physics, derived = self.sim.simulate(before.physics, control, self.frame_skip, derive)
        obs, terms, terminated, memory = derived
        return state.next(
            data=TaskData(physics, action, memory),
            obs=obs,
            reward=sum(terms.values()),
            terminated=terminated,
            metrics={f"reward_{name}": terms[name] for name in self.terms},
        )

    def _observe(self, now: Moment) -> Any:
        obs = (self.observe_fn or joints)(now)
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), obs)


def joints(now: Moment) -> jax.Array:
    """The default observation: positions, then velocities of all joints. [nq + nv]"""
    return jnp.concatenate([now.data.qpos, now.data.qvel])


def near_keyframe(noise: float = 0.01, keyframe: int = 0) -> Reset:
    """A `reset` near a keyframe of the model, or near `qpos0` if the model has none.

    Args:
      noise: the largest displacement of hinges (rad) and slides (m), which stay within their limits, and
        of all velocities (rad/s and m/s). Free and ball joints start at rest in their pose.
      keyframe: its number in the model.
    """

    def reset(key: jax.Array, sim: Simulator) -> tuple[jax.Array, jax.Array]:
        model = sim.mj_model
        if model.nkey > keyframe:
            qpos, qvel = (
                jnp.asarray(x[keyframe], jnp.float32) for x in (model.key_qpos, model.key_qvel)
            )
        else:
            qpos, qvel = sim.model.qpos0, jnp.zeros(model.nv)
        simple = model.jnt_type >= int(mujoco.mjtJoint.mjJNT_SLIDE)
        bounded = simple & model.jnt_limited.astype(bool)
        address, low, high = (x[simple] for x in (model.jnt_qposadr, *model.jnt_range.T))
        low = np.where(bounded[simple], low, -np.inf)
        high = np.where(bounded[simple], high, np.inf)
        k_qpos, k_qvel = jax.random.split(key)
        moved = qpos[address] + noise * jax.random.uniform(k_qpos, address.shape, minval=-1.0)
        qvel_noise = noise * jax.random.uniform(k_qvel, (model.nv,), minval=-1.0)
        dofs = np.zeros(model.nv, bool)
        dofs[model.jnt_dofadr[simple]] = True
        qpos = qpos.at[address].set(jnp.clip(moved, low, high))
        return qpos, qvel + jnp.where(dofs, qvel_noise, 0.0)

    return reset


def control_range(action: jax.Array, sim: Simulator) -> jax.Array:
    """Controls [nu] of actions [nu]: -1 is the low end of an actuator's `ctrlrange`, 1 the high end."""
    low, high = sim.model.actuator_ctrlrange.T
    return low + (action + 1.0) / 2.0 * (high - low)


def from_mjcf(
    source: str | os.PathLike | mujoco.MjSpec | mujoco.MjModel,
    reset: Reset | None = None,
    observe: Observe | None = None,
    *,
    reward: Reward,
    terminate: Terminate | None = None,
    remember: Remember | None = None,
    control_dt: float | None = None,
    frame_skip: int | None = None,
    time_limit: int | None = 1000,
    physics: str | dict[str, Any] = "accurate",
    action: str | Control = "ctrl range",
) -> Env:
    """Makes an environment of a MuJoCo model and a few pure functions.

    The functions are written for one instance. They are checked here by `jax.eval_shape`, and nothing
    is compiled. All but `reward` have defaults.

    | function | returns |
    |---|---|
    | `reset(key, sim)` | `(qpos [nq], qvel [nv])`, or `(qpos, qvel, memory)` |
    | `observe(now)` | an array `[n]` (or more axes), or a flat dict of such arrays |
    | `reward(now)` | a number `[]`, or a dict of numbers that are added up |
    | `terminate(now)` | `[]` bool: whether the MDP ended |
    | `remember(now)` | the memory of the next step, with the structure of `reset`'s |
    | `action(action, sim)` | controls `[nu]` of an action `[nu]` in -1 .. 1 |

    `now` is a `Moment`. `reward`, `terminate` and `remember` see the memory that the policy acted
    with, and `observe` sees the new one: a command that `remember` draws is observed before it is
    rewarded. The terms of a reward that is a dict are the metrics `reward_NAME`.

    Args:
      source: an MJCF or URDF file with its meshes and includes, MJCF text (it starts with "<"), a
        `mujoco.MjSpec` or a `mujoco.MjModel`.
      reset: None: `near_keyframe()`.
      observe: None: qpos and qvel. [nq + nv]
      reward, terminate, remember: see above.
      control_dt: seconds of a control step; a whole multiple of the model's timestep.
      frame_skip: physics steps of a control step, in place of `control_dt`. If both are None, a
        control step is about 0.02 s.
      time_limit: control steps of an episode, which is then truncated; None: no limit.
      physics: "accurate" (the model's own options), "balanced", "fast" (`envs.mjx.simulator`), or
        options such as `{"iterations": 2}`. MJX has no PGS: Newton takes its place with a warning.
      action: "ctrl range" (`control_range`), or a function.

    Raises:
      ValueError: one line that names the argument, what it is or returned, and what is expected; or
        the element of the model and its file, and the nearest thing that works.
    """
    path, model = compiled(source)
    if not model.nu:
        raise ValueError(f"{_named(path)}: the model has no actuator, expected at least one")
    if not model.nv:
        raise ValueError(f"{_named(path)}: the model has no joint, expected at least one")
    num_substeps = _substeps(model, control_dt, frame_skip)
    if isinstance(action, str):
        _check_control_range(model, action, path)
        action = control_range
    sim = load(model, options=solver_options(model, physics), source=path)
    reset = near_keyframe() if reset is None else reset
    memory = _check_reset(reset, sim)
    still = jax.ShapeDtypeStruct((model.nu,), jnp.float32)
    now = Moment(sim.template, still, still, memory, sim)
    spaces, terms = _check_functions(now, observe, reward, terminate, remember, action)
    task = Task(
        sim, reset, observe, reward, terminate, remember, action, num_substeps, spaces, terms
    )
    return limited(task, time_limit)


def compiled(source: Any) -> tuple[Path | None, mujoco.MjModel]:
    """The file, if `source` is one, and the compiled model.

    Raises:
      ValueError: MuJoCo cannot read it, in one line.
    """
    if isinstance(source, mujoco.MjModel):
        return None, source
    is_text = isinstance(source, str) and source.lstrip().startswith("<")
    path = None if is_text or isinstance(source, mujoco.MjSpec) else Path(source)
    if path is not None and not path.is_file():
        raise ValueError(f"{path}: no such file, expected an MJCF or URDF file")
    try:
        if path is not None:
            source = mujoco.MjSpec.from_file(str(path))
        elif is_text:
            source = mujoco.MjSpec.from_string(source)
        return path, source.compile()
    except ValueError as error:
        cause = ", ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise ValueError(f"{_named(path)}: MuJoCo cannot read it ({cause})") from None


def solver_options(model: mujoco.MjModel, physics: str | dict[str, Any]) -> dict[str, Any]:
    """The options that `physics` of `from_mjcf` sets in a copy of the model.

    Raises:
      ValueError: an unknown level or option.
    """
    if isinstance(physics, str):
        if physics not in LEVELS:
            raise ValueError(
                f"physics={physics!r}: allowed are {', '.join(map(repr, LEVELS))} and a dict of options"
            )
        physics = LEVELS[physics]
    known = [name for name in dir(model.opt) if not name.startswith("_")]
    for name in physics:
        if name not in known:
            raise ValueError(
                f"physics: mujoco.MjOption has no field {name!r}{nearest(name, known)}"
            )
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS and "solver" not in physics:
        warnings.warn("MJX has no PGS solver: Newton takes its place", stacklevel=3)
        return {"solver": int(mujoco.mjtSolver.mjSOL_NEWTON)} | physics
    return physics


def _named(path: Path | None) -> str:
    return str(path) if path else "model"


def _substeps(model: mujoco.MjModel, control_dt: float | None, frame_skip: int | None) -> int:
    timestep = model.opt.timestep
    if control_dt is not None and frame_skip is not None:
        raise ValueError(f"control_dt={control_dt}, frame_skip={frame_skip}: give one of them")
    if frame_skip is not None:
        if isinstance(frame_skip, bool) or not isinstance(frame_skip, int) or frame_skip < 1:
            raise ValueError(f"frame_skip={frame_skip!r}: must be an integer, at least 1")
        return frame_skip
    steps = (CONTROL_DT if control_dt is None else control_dt) / timestep
    if control_dt is None:
        return max(1, round(steps))
    if not (math.isfinite(steps) and steps >= 1 - 1e-6) or abs(steps - round(steps)) > 1e-4 * steps:
        low = max(1, math.floor(steps)) if math.isfinite(steps) and steps > 0 else 1
        raise ValueError(
            f"control_dt={control_dt}: must be a whole multiple of the model's timestep {timestep:g},"
            f" such as {low * timestep:g} or {(low + 1) * timestep:g}"
        )
    return round(steps)


def _check_control_range(model: mujoco.MjModel, action: str, path: Path | None) -> None:
    if action != "ctrl range":
        raise ValueError(f"action={action!r}: allowed are 'ctrl range' and a function")
    without = np.flatnonzero(model.actuator_ctrllimited == 0)
    if len(without):
        names = []
        for row in map(int, without[:4]):
            name = model.actuator(row).name
            place = located(path, name) if path and name else ""
            names.append(
                (repr(name) if name else f"number {row}") + (f" ({place})" if place else "")
            )
        more = f" and {len(without) - 4} more" if len(without) > 4 else ""
        raise ValueError(
            f"{_named(path)}: actuator {', '.join(names)}{more} has no ctrlrange, expected one such as"
            ' ctrlrange="-1 1", or action=FUNCTION that returns the controls'
        )


def _start(started: Any, sim: Simulator) -> tuple[Physics, Any]:
    """The physics and the memory of what `reset` returned."""
    qpos, qvel, *memory = started
    qpos, qvel = (jnp.asarray(x, jnp.float32) for x in (qpos, qvel))
    return sim.physics(qpos, qvel), jax.tree.map(jnp.asarray, memory[0] if memory else ())


def _terms(reward: Any) -> dict[str, jax.Array]:
    terms = reward if isinstance(reward, dict) else {"": reward}
    return {name: jnp.asarray(x, jnp.float32) for name, x in terms.items()}


def _check_reset(reset: Any, sim: Simulator) -> Any:
    """The shapes of the memory."""
    nq, nv = sim.mj_model.nq, sim.mj_model.nv
    expected = f"(qpos float32[{nq}], qvel float32[{nv}]) or (qpos, qvel, memory)"

    def look(started: Any) -> Any:
        if not isinstance(started, tuple) or len(started) not in (2, 3):
            raise _wrong("reset", started, expected)
        if [getattr(x, "shape", None) for x in started[:2]] != [(nq,), (nv,)]:
            raise _wrong("reset", started, expected)
        memory = started[2] if len(started) == 3 else ()
        if not all(_is_number(x) for x in jax.tree.leaves(memory)):
            raise _wrong("reset", started, "a memory of arrays")
        return jax.tree.map(jnp.asarray, memory)

    return _traced("reset", "reset(key, sim)", reset, look, jax.random.key(0), sim)


def _check_functions(
    now: Moment, observe: Any, reward: Any, terminate: Any, remember: Any, action: Any
) -> tuple[Any, tuple[str, ...]]:
    """The observation spaces and the names of the reward's terms."""
    nu = now.action.shape[0]

    def look_obs(obs: Any) -> Any:
        entries = obs if isinstance(obs, dict) else {"": obs}
        if not entries or not all(_is_number(x) and jnp.ndim(x) for x in entries.values()):
            raise _wrong("observe", obs, "float32[n], or a flat dict of such arrays")
        return jax.tree.map(jnp.asarray, obs)

    def look_reward(found: Any) -> Any:
        entries = found if isinstance(found, dict) else {"": found}
        if not entries or not all(_is_number(x) and jnp.ndim(x) == 0 for x in entries.values()):
            raise _wrong("reward", found, "float32[], or a dict of such numbers")
        return {name: 0.0 for name in entries}

    def look_end(found: Any) -> None:
        if not _is_number(found) or jnp.ndim(found) or jnp.result_type(found) != jnp.bool_:
            raise _wrong("terminate", found, "bool[]")

    def look_memory(new: Any) -> None:
        shapes = lambda tree: (jax.tree.structure(tree), *map(jnp.shape, jax.tree.leaves(tree)))
        if shapes(new) != shapes(now.memory):
            raise _wrong("remember", new, f"{described(now.memory)}, the memory of reset")

    def look_control(control: Any) -> None:
        if getattr(control, "shape", None) != (nu,):
            raise _wrong("action", control, f"float32[{nu}], one control for each actuator")

    _traced("action", "action(action, sim)", action, look_control, now.action, now.sim)
    if remember is not None:
        _traced("remember", "remember(now)", remember, look_memory, now)
    obs = _traced("observe", "observe(now)", observe or joints, look_obs, now)
    spaces = jax.tree.map(lambda x: Box(x.shape), obs)
    spaces = tuple(spaces.items()) if isinstance(spaces, dict) else spaces
    terms = _traced("reward", "reward(now)", reward, look_reward, now)
    if terminate is not None:
        _traced("terminate", "terminate(now)", terminate, look_end, now)
    return spaces, tuple(name for name in terms if name)


def _traced(name: str, form: str, f: Any, look: Callable[[Any], Any], *args: Any) -> Any:
    """The shapes of what `look` returns of `f(*args)`.

    Raises:
      ValueError: one line: `f` is no function, cannot be called so, or raises.
    """
    if not callable(f):
        raise ValueError(f"{name}={f!r}: must be a function {form}")
    try:
        inspect.signature(f).bind(*args)
    except TypeError as error:
        raise ValueError(f"{name}: is called as {form}, but {error}") from None
    except ValueError:  # a built-in function without a signature
        pass

    def run(*args):
        try:
            found = f(*args)
        except Exception as error:
            raise ValueError(f"{name}: raised {_cause(f, error)}") from error
        return look(found)

    return jax.eval_shape(run, *args)


def _cause(f: Callable, error: Exception) -> str:
    """The error's first line, the line of `f` that raised it, and what helps."""
    line = (str(error).strip().splitlines() or [""])[0]
    file = getattr(getattr(f, "__code__", None), "co_filename", None)
    frames = [x for x in traceback.extract_tb(error.__traceback__) if x.filename == file]
    where = f" (line {frames[-1].lineno} of {os.path.basename(file)})" if frames else ""
    hint = ""
    if isinstance(error, jax.errors.ConcretizationTypeError):
        hint = "; use jnp.where for `if`, and & | ~ for `and or not`"
    elif isinstance(error, jax.errors.TracerArrayConversionError):
        hint = "; use jnp for np"
    return f"{type(error).__name__}: {line.rstrip('.')}{where}{hint}"


def _wrong(name: str, found: Any, expected: str) -> ValueError:
    return ValueError(f"{name}: returned {described(found)}, expected {expected}")


def _is_number(x: Any) -> bool:
    """An array or a Python number."""
    if isinstance(x, (bool, int, float, np.generic)):
        return True
    return hasattr(x, "dtype") and hasattr(x, "shape")
