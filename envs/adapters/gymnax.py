"""`gymnax/NAME`: the environments of the installed gymnax (1.0 or later)."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.adapters.suite import check_kinds, check_name, load_suite
from envs.registry import limited
from envs.transforms.base import box, check_count
from envs.types import Box, Discrete, Env, MultiDiscrete, State, first_state

DEFAULT = object()  # the task's own `max_steps_in_episode`


@struct.dataclass
class GymnaxData:
    """gymnax's own state, and the key its next step draws from."""

    state: Any
    key: jax.Array


@struct.dataclass
class Gymnax:
    """A gymnax environment; its parameters are leaves.

    An action of a gymnax `Tuple` is a vector here.
    Observations of integers or booleans become float32, a discrete observation becomes
    one-hot. gymnax's `terminated` never includes the clock; ours is the time limit around.
    """

    params: Any
    template: Any  # shapes and dtypes of gymnax's state
    suite: Any = struct.field(pytree_node=False)
    observation_space: Box = struct.field(pytree_node=False)
    action_space: Box | Discrete | MultiDiscrete = struct.field(pytree_node=False)
    num_categories: int | None = struct.field(pytree_node=False)  # of a discrete observation

    def reset(self, key: jax.Array) -> State:
        k_reset, k_step = jax.random.split(key)
        obs, state = self.suite.reset_env(k_reset, self.params)
        return first_state(GymnaxData(self._cast(state), k_step), self._obs(obs))

    def step(self, state: State, action: jax.Array) -> State:
        key, k_step = jax.random.split(state.data.key)
        action = tuple(action) if isinstance(self.action_space, MultiDiscrete) else action
        # Not `step`, which resets. `step_env` reports the natural end only.
        obs, suite_state, reward, terminated, _ = self.suite.step_env(
            k_step, state.data.state, action, self.params
        )
        return state.next(
            data=GymnaxData(self._cast(suite_state), key),
            obs=self._obs(obs),
            reward=jnp.asarray(reward, jnp.float32).reshape(()),
            terminated=jnp.asarray(terminated).astype(bool).reshape(()),
        )

    def _cast(self, suite_state: Any) -> Any:
        """A reset writes Python numbers where a step returns arrays: agree on the step's."""
        return jax.tree.map(lambda x, t: jnp.asarray(x, t.dtype), suite_state, self.template)

    def _obs(self, obs: jax.Array) -> jax.Array:
        if self.num_categories is not None:
            return jax.nn.one_hot(obs, self.num_categories)
        return jnp.asarray(obs, self.observation_space.dtype)


def make(task: str, *, time_limit: int | None = DEFAULT, **overrides) -> Env:
    """Builds a gymnax environment, without gymnax's auto-reset.

    Args:
      task: a name gymnax has registered, e.g. "CartPole-v1".
      time_limit: in steps; the default is the task's `max_steps_in_episode`, None is
        no limit. A limit is written into that parameter too, because some tasks
        observe the fraction of it that has passed.
      **overrides: parameters of the task (e.g. `gravity`) or arguments of its constructor.

    Raises:
      ImportError: gymnax is not installed.
      ValueError: unknown task or override, a value of the wrong kind, `time_limit` < 1, or a space
        that is neither Box, Discrete nor a Tuple of Discrete.
    """
    gymnax = load_suite("gymnax", "gymnax", "pip install 'jaxrl[gymnax]'")
    check_name("gymnax task", task, gymnax.registered_envs)
    build = _constructor_arguments(task)
    check_kinds(f"gymnax/{task}", overrides, build)
    suite, params = gymnax.make(task, **{k: v for k, v in overrides.items() if k in build})
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    del fields["max_steps_in_episode"]
    for name in overrides:
        check_name(f"option of gymnax/{task}", name, fields.keys() | build.keys() | {"time_limit"})
    check_kinds(f"gymnax/{task}", overrides, fields)
    limit = int(params.max_steps_in_episode) if time_limit is DEFAULT else time_limit
    # A whole number in place of a real one would be an int32, which holds less.
    real = lambda k, v: float(v) if isinstance(fields[k], float) and isinstance(v, int) else v
    params = params.replace(**{k: real(k, v) for k, v in overrides.items() if k in fields})
    if limit is not None:  # one task (BernoulliBandit) needs it to stay a float
        check_count("time_limit", limit, 1)
        params = params.replace(max_steps_in_episode=type(params.max_steps_in_episode)(limit))

    key = jax.random.key(0)
    obs, state = jax.eval_shape(suite.reset_env, key, params)
    space = suite.action_space(params)
    action_space = _space(space, np.float32, getattr(space, "shape", None))
    action = jax.eval_shape(space.sample, key)
    template = jax.eval_shape(suite.step_env, key, state, action, params)[1]
    num_categories = getattr(suite.observation_space(params), "n", None)
    observation_space = (
        _space(suite.observation_space(params), _obs_dtype(obs.dtype), obs.shape)
        if num_categories is None
        else Box((int(num_categories),), 0.0, 1.0)
    )
    env = Gymnax(
        params=params,
        template=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), template),
        suite=suite,
        observation_space=observation_space,
        action_space=action_space,
        num_categories=num_categories,
    )
    return limited(env, limit)


def _constructor_arguments(task: str) -> dict[str, Any]:
    """Names to defaults."""
    from gymnax import registration

    arguments = inspect.signature(registration._registry[task]).parameters
    return {name: argument.default for name, argument in arguments.items()}


def _obs_dtype(dtype) -> np.dtype:
    """Pixels stay bytes; other integers are read as numbers."""
    keep = jnp.issubdtype(dtype, jnp.floating) or dtype == np.uint8
    return np.dtype(dtype if keep else np.float32)


def _space(space: Any, dtype, shape: tuple[int, ...] | None) -> Box | Discrete | MultiDiscrete:
    """Shape and dtype are given: some tasks declare others than they return."""
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    parts = getattr(space, "spaces", None)
    if isinstance(parts, tuple | list) and parts and all(hasattr(s, "n") for s in parts):
        return MultiDiscrete(tuple(int(s.n) for s in parts))
    if not hasattr(space, "low"):
        raise ValueError(
            f"gymnax space {space!r}: supported are Box, Discrete and a Tuple of Discrete"
        )
    return box(_bounds(space.low, shape), _bounds(space.high, shape), dtype)


def _bounds(x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A suite's largest float means no bound."""
    x = np.broadcast_to(np.asarray(x, np.float64), shape)
    return np.where(np.abs(x) > 1e38, np.copysign(np.inf, x), x)
