"""One learner in a family of environments. Each run has its own numbers of the environment."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Env
from jaxrl.episodes import evaluate
from jaxrl.types import Learner, Policy

PREFIX = "env."  # names of swept numbers of the environment: "env.mass"


class Make(Protocol):
    """Returns the same learner for another environment, e.g. `lambda env: ppo.make(env, config)`."""

    def __call__(self, env: Env) -> Learner: ...


@struct.dataclass
class FamilyConfig:
    """A learner's config and the numbers of its environment, all data."""

    learner: Any
    env: dict[str, jax.Array]  # by name

    def with_values(self, **values: float) -> FamilyConfig:
        """Returns a config with some numbers replaced. Those of the environment are "env.NAME"."""
        of_env = {k.removeprefix(PREFIX): v for k, v in values.items() if k.startswith(PREFIX)}
        own = {k: v for k, v in values.items() if not k.startswith(PREFIX)}
        return self.replace(learner=self.learner.replace(**own), env=self.env | of_env)


@struct.dataclass
class FamilyState:
    inner: Any  # the learner's own state
    env: dict[str, jax.Array]


def family(make: Make, env: Env, names: tuple[str, ...]) -> Learner:
    """Returns the learner `make(env)` with the numbers `names` of `env` as data of each run.

    `init` takes a `FamilyConfig`, whose defaults are those of `env`. `step` builds the learner
    around the traced numbers, so one program serves all of them. Evaluations are in each run's own
    environment. Devices share whole runs only.

    Raises:
      ValueError: `env` has no such number.
    """
    defaults = {name: number_of(env, name) for name in names}
    learner = make(env)

    def within(numbers: dict[str, jax.Array]) -> Learner:
        return make(with_numbers(env, numbers))

    def init(key: jax.Array, config: FamilyConfig | None = None) -> FamilyState:
        config = FamilyConfig(learner.config, defaults) if config is None else config
        numbers = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config.env)
        return FamilyState(within(numbers).init(key, config.learner), numbers)

    def step(state: FamilyState, *data: Any) -> tuple[FamilyState, Any]:
        inner, metrics = within(state.env).step(state.inner, *data)
        return state.replace(inner=inner), metrics

    def policy(state: FamilyState) -> Policy:
        return learner.policy(state.inner)

    def measure(_: Learner, state: FamilyState, keys: jax.Array) -> dict[str, jax.Array]:
        return evaluate(with_numbers(env, state.env), policy(state), keys)

    return dataclasses.replace(
        learner,
        init=init,
        step=step,
        policy=policy,
        config=FamilyConfig(learner.config, defaults),
        sharing=None,
        evaluate=measure,
    )


def number_of(env: Env, name: str) -> float:
    """Returns the number `name` of `env`, or of the environment inside its transforms.

    Raises:
      ValueError: there is none.
    """
    layer = env
    while True:
        fields = {f.name: f for f in dataclasses.fields(layer)}
        value = getattr(layer, name) if name in fields else None
        if name in fields and fields[name].metadata.get("pytree_node", True) and _is_number(value):
            return value
        if "env" not in fields:
            raise ValueError(
                f"sweep over {PREFIX + name!r}: the numbers of this environment are"
                f" {', '.join(numbers_of(env))}"
            )
        layer = layer.env


def numbers_of(env: Env) -> list[str]:
    """Returns the names of all scalars that are data of `env` or of an environment inside it."""
    own = [
        f.name
        for f in dataclasses.fields(env)
        if f.metadata.get("pytree_node", True) and _is_number(getattr(env, f.name))
    ]
    inner = {f.name for f in dataclasses.fields(env)} & {"env"}
    return sorted({*own, *(numbers_of(env.env) if inner else [])})


def with_numbers(env: Env, numbers: dict[str, Any]) -> Env:
    """Returns `env` with other numbers. Each is replaced in the outermost layer that has it."""
    own = {f.name for f in dataclasses.fields(env)} & numbers.keys()
    rest = {k: v for k, v in numbers.items() if k not in own}
    inner = {"env": with_numbers(env.env, rest)} if rest else {}
    return env.replace(**{k: numbers[k] for k in own}, **inner)


def _is_number(x: Any) -> bool:
    return not isinstance(x, bool) and (
        isinstance(x, (int, float)) or (isinstance(x, jax.Array) and x.ndim == 0)
    )
