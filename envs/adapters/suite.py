"""What the adapters share, and `SuiteEnv`: a Brax or Playground environment as our `Env`.

Both suites carry everything in one `State` (physics, obs, reward, done, metrics, info)
and leave episodes to wrappers. Those wrappers restart from one cached start and let
`info` leak into the next episode, so none of them is used here.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.interpreters import partial_eval

from envs.gl import mujoco
from envs.mjx import cholesky, contacts
from envs.registry import is_number, nearest
from envs.types import Box, Space, State, first_state

FAR = 1e9  # in place of infinity
MODELS = ("sys", "_mjx_model")  # where Brax and Playground keep the model that a step reads
POSE = ("q", "qd", "qpos", "qvel", "mocap_pos", "mocap_quat")  # what a picture needs


@struct.dataclass
class SuiteEnv:
    """A Brax-like environment. Actions are in [-1, 1], as both suites assume.

    `model` is the suite's model, a pytree whose leaves can be replaced, for instance by
    `transforms.randomise`: an `mjx.Model` of Playground, a `System` of Brax (which is an
    `mjx.Model`, too). It is None for a suite that keeps none.

    `state.data` is the suite's own state, in which the leaves that no later step can
    read are None: for `brax/ant` on mjx that leaves 0.7 kB of 12 kB to carry, to select
    at a reset and to keep as a restart state.
    """

    template: Any  # a suite state, to fill the leaves that are not carried
    model: Any
    suite: Any = struct.field(pytree_node=False)
    carried: tuple[bool, ...] = struct.field(pytree_node=False)
    obs_spaces: tuple[tuple[str | None, Box], ...] = struct.field(pytree_node=False)

    @property
    def observation_space(self) -> Space:
        return self.obs_spaces[0][1] if self.obs_spaces[0][0] is None else dict(self.obs_spaces)

    @property
    def action_space(self) -> Box:
        return Box((self.suite.action_size,), -1.0, 1.0)

    @property
    def dt(self) -> float:
        """Seconds per step."""
        return float(self.suite.dt)

    def reset(self, key: jax.Array) -> State:
        with jax.default_matmul_precision("highest"):
            new = self._suite().reset(key)
        data = self._pack(new)
        # BarkourJoystick starts with -inf for "never"; a step that carried it would look broken.
        data = data.replace(info=jax.tree.map(_without_infinity, data.info))
        return first_state(data, new.obs, _metrics(new))

    def step(self, state: State, action: jax.Array) -> State:
        with jax.default_matmul_precision("highest"):
            new = self._suite().step(self._unpack(state.data), action)
        return state.next(
            data=self._pack(new),
            obs=new.obs,
            reward=jnp.asarray(new.reward, jnp.float32),
            terminated=jnp.asarray(new.done).astype(bool),
            metrics=_metrics(new),
        )

    @property
    def mj_model(self) -> mujoco.MjModel | None:
        """The C model, for names; None of a suite without MuJoCo."""
        return getattr(self.suite, "mj_model", getattr(self.model, "mj_model", None))

    @property
    def is_mjx(self) -> bool:
        """Whether MJX simulates: Brax's other backends do not read the fields of an `mjx.Model`."""
        return self.model is not None and getattr(self.suite, "backend", "mjx") == "mjx"

    def pushed(self, state: State, xfrc_applied: jax.Array) -> State:
        """Returns `state` with pushes on the bodies [nbody, 6] in the next step."""
        held = self._physics
        physics = getattr(state.data, held).replace(xfrc_applied=xfrc_applied)
        return state.replace(data=state.data.replace(**{held: physics}))

    def check_pushes(self) -> None:
        """Raises ValueError if MJX does not simulate, or the task sets its own pushes."""
        physics = getattr(self._pack(self.template), self._physics, None)
        if not self.is_mjx or getattr(physics, "xfrc_applied", None) is None:
            name = type(self.suite).__name__
            raise ValueError(
                f"push: a step of {name} does not read the xfrc_applied that it is given"
            )

    @property
    def _physics(self) -> str:
        """Which field of the suite's state is the `mjx.Data`."""
        return "data" if hasattr(self.template, "data") else "pipeline_state"

    def _suite(self) -> Any:
        """The suite's environment with this model."""
        if self.model is None:
            return self.suite
        suite = copy.copy(self.suite)
        setattr(suite, _model_name(suite), self.model)
        return suite

    def _pack(self, suite_state: Any) -> Any:
        # Cast, so that a reset and a step agree where the suite returns a Python number.
        cast = jax.tree.map(lambda x, t: jnp.asarray(x, t.dtype), suite_state, self.template)
        leaves, treedef = jax.tree.flatten(cast)
        return treedef.unflatten(
            [x if c else None for x, c in zip(leaves, self.carried, strict=True)]
        )

    def _unpack(self, data: Any) -> Any:
        leaves, treedef = jax.tree.flatten(self.template, is_leaf=_is_none)
        given = jax.tree.leaves(data, is_leaf=_is_none)
        return treedef.unflatten(
            [t if x is None else x for x, t in zip(given, leaves, strict=True)]
        )


def adapt(suite: Any) -> SuiteEnv:
    """Wraps an environment with Brax's `reset(key)`, `step(state, action)`, `action_size`."""
    cholesky.install()  # before MJX is traced
    contacts.install()
    state = jax.tree.map(_zeros, jax.eval_shape(suite.reset, jax.random.key(0)))
    carried = read_by_step(suite.step, state, jnp.zeros(suite.action_size))
    obs = state.obs if isinstance(state.obs, dict) else {None: state.obs}
    spaces = tuple((name, unbounded(x)) for name, x in obs.items())
    name = _model_name(suite)
    return SuiteEnv(state, getattr(suite, name) if name else None, suite, carried, spaces)


def read_by_step(step: Callable, state: Any, action: jax.Array) -> tuple[bool, ...]:
    """Which leaves of `state` can change what a later step shows.

    A leaf counts if an observation, reward, done or metric of the step depends on it,
    or a leaf that counts does: the least fixed point, found by dead-code elimination on
    the traced step. The pose counts always.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(state)

    def flat_step(leaves, action):
        new = step(treedef.unflatten(leaves), action)
        return jax.tree.leaves((new, (new.obs, new.reward, new.done, new.metrics)))

    leaves = [leaf for _, leaf in paths]
    jaxpr = jax.make_jaxpr(flat_step)(leaves, action).jaxpr
    shown = [True] * (len(jaxpr.outvars) - len(leaves))
    carried = [getattr(path[-1], "name", None) in POSE for path, _ in paths]
    while True:
        _, used = partial_eval.dce_jaxpr(jaxpr, carried + shown)
        grown = [c or u for c, u in zip(carried, used[: len(leaves)], strict=True)]
        if grown == carried:
            return tuple(carried)
        carried = grown


def load_suite(module: str, package: str, install: str) -> Any:
    """Imports a suite.

    Raises:
      ImportError: it is missing or does not import; one line says what to install.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that Warp is missing
            return importlib.import_module(module)
    except ImportError as error:
        cause = str(error).splitlines()[0]
        raise ImportError(f"{package} cannot be imported ({cause}): {install}") from error


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError with the nearest matches when `name` is not among `known`."""
    known = sorted(known)
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )


def check_kinds(suite_task: str, options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises ValueError where `options` has something else than the number that is the default, or a
    whole number that an int32 does not hold."""
    for name, value in options.items():
        default = defaults.get(name)
        if is_number(default) and not is_number(value):
            raise ValueError(
                f"option of {suite_task}: {name}={value!r}: must be a number, by default {default!r}"
            )
        whole = isinstance(default, int) and isinstance(value, int)
        if whole and not isinstance(default, bool) and abs(value) >= 2**31:
            raise ValueError(f"option of {suite_task}: {name}={value}: must be below 2^31 in size")


def _model_name(suite: Any) -> str | None:
    return next((name for name in MODELS if name in vars(suite)), None)


def unbounded(x: Any) -> Box:
    return Box(tuple(x.shape), dtype=np.dtype(x.dtype))


def _metrics(suite_state: Any) -> dict[str, jax.Array]:
    """Playground writes `reward/upright` where we write `reward_upright`."""
    metrics = suite_state.metrics
    return {k.replace("/", "_"): jnp.asarray(v, jnp.float32) for k, v in metrics.items()}


def _zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), x.shape)
    return jnp.zeros(x.shape, x.dtype)


def _without_infinity(x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.where(jnp.isinf(x), jnp.copysign(FAR, x), x)


def _is_none(x: Any) -> bool:
    return x is None
