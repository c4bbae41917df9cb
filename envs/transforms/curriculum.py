"""Every environment has a level, which rises and falls with what its episodes reach (Rudin et al. 2022)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, check_count, on_task
from envs.types import Env, State, check_instance, check_range


@struct.dataclass
class Curriculum(Transform):
    """Its slot holds {"level" [] int32, "score" [] the metric's sum over this episode, "key"}."""

    promote: Any = struct.field(kw_only=True)
    demote: Any = struct.field(kw_only=True)
    start: Any = struct.field(kw_only=True)
    metric: str = struct.field(pytree_node=False, kw_only=True)
    field: str = struct.field(pytree_node=False, kw_only=True)
    levels: int = struct.field(pytree_node=False, kw_only=True)
    steps: int = struct.field(pytree_node=False, kw_only=True)
    reset_reads_level: bool = struct.field(pytree_node=False, kw_only=True)

    @property
    def shown(self) -> str:
        """The name of the metric that reports the level: level, level_1, ..."""
        return self.slot.replace("curriculum", "level")

    def reset(self, key: jax.Array) -> State:
        return self._start(jnp.asarray(self.start, jnp.int32), key)

    def step(self, state: State, action: jax.Array) -> State:
        slot = state.info[self.slot]
        state = self._with(slot["level"]).step(state, action)
        score = slot["score"] + state.metrics[self.metric]
        return self._show(state, slot | {"score": score})

    def carry_over(self, ended: State, start: State) -> State:
        """`start` at the level that the episode before it earned. See `envs.types.CarriesOver`."""
        if hasattr(self.env, "carry_over"):
            start = self.env.carry_over(ended, start)
        level = self.next_level(ended.info[self.slot])
        if not self.reset_reads_level:
            return self._show(start, start.info[self.slot] | {"level": level})
        again = self._start(level, start.info[self.slot]["key"])
        if start.info.keys() != again.info.keys():
            raise ValueError(
                "curriculum: must be outside of every other transform where reset_reads_level=True"
            )
        return again

    def next_level(self, slot: dict[str, jax.Array]) -> jax.Array:
        """The level after an episode that ended with this slot. [] int32"""
        reached = slot["score"] / self.steps  # NaN after a broken step: neither up nor down
        up, down = reached >= self.promote, reached < self.demote
        moved = slot["level"] + up.astype(jnp.int32) - down.astype(jnp.int32)
        return jnp.clip(moved, 0, self.levels - 1)

    def _start(self, level: jax.Array, key: jax.Array) -> State:
        state = self._with(level).reset(key)
        return self._show(state, {"level": level, "score": jnp.zeros(()), "key": key})

    def _show(self, state: State, slot: dict[str, jax.Array]) -> State:
        metrics = state.metrics | {self.shown: slot["level"].astype(jnp.float32)}
        return state.replace(metrics=metrics, info=state.info | {self.slot: slot})

    def _with(self, level: jax.Array) -> Env:
        number = level.astype(jnp.float32)
        return on_task(self.env, lambda task: task.replace(**{self.field: number}))


def curriculum(
    env: Env,
    metric: str,
    promote: float,
    demote: float,
    levels: int = 10,
    start: int = 0,
    field: str = "level",
    steps: int | None = None,
    reset_reads_level: bool = True,
) -> Curriculum:
    """Gives every environment a level, which its own episodes raise and lower.

    The level is the number `field` of the task. An episode reaches r, the sum of `metric` over its
    steps divided by `steps`: an early end counts as zeros. `envs.vectorize` begins the next episode one
    level higher if r >= `promote`, and one lower if r < `demote`. Levels end at 0 and `levels - 1`. The
    metric "level" reports them. A `reset`, and so an evaluation, begins at `start`.

    Args:
      metric: a metric of `env`, of single steps: such as "tracking", or "success" with steps=1.
      promote, demote: bounds of r; demote <= promote.
      levels: how many; at least 1.
      start: the first level.
      field: a number of the task below all transforms.
      steps: at least 1; None: the time limit of `env`.
      reset_reads_level: whether the first state of an episode depends on the level. It is then made
        again after the episode before has ended, which costs a reset of every environment in every
        step, and this transform must be the outermost. False is exact, and free, for a task whose
        `step` alone reads the level.

    Raises:
      ValueError: an unknown metric or field, a field that is no number of the task's pytree, a bound or
        a level out of range, or no `steps` where `env` has no time limit.
    """
    check_instance(env)
    check_count("levels", levels, 1)
    if steps is None:
        if not hasattr(env, "limit"):
            raise ValueError("steps=None: the environment has no time limit, give steps")
        steps = env.limit
    check_count("steps", steps, 1)
    check_count("start", start, 0)
    if start >= levels:
        raise ValueError(f"start={start}: must be below levels={levels}")

    def numbered(task: Env) -> Env:
        if not hasattr(task, field):
            raise ValueError(f"field={field!r}: {type(task).__name__} has no such field")
        changed = task.replace(**{field: 1.0})
        if jax.tree.structure(changed) != jax.tree.structure(task):
            raise ValueError(f"field={field!r}: is no number of {type(task).__name__}'s pytree")
        return task

    on_task(env, numbered)
    known = jax.eval_shape(env.reset, jax.random.key(0)).metrics
    if metric not in known:
        raise ValueError(f"metric={metric!r}: the environment has {', '.join(sorted(known))}")
    new = Curriculum(
        env,
        promote=promote,
        demote=demote,
        start=start,
        metric=metric,
        field=field,
        levels=levels,
        steps=steps,
        reset_reads_level=reset_reads_level,
    )
    check_range(new, -1e6, 1e6, "promote", "demote")
    if isinstance(demote, (int, float)) and isinstance(promote, (int, float)) and demote > promote:
        raise ValueError(f"demote={demote}: must be at most promote={promote}")
    return new
