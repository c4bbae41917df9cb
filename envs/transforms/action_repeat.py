"""One decision lasts several control steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from envs.transforms.base import Transform, check_count
from envs.types import ACTION_SIGNALS, Env, State, check_instance


@struct.dataclass
class ActionRepeat(Transform):
    """Repeats every action. Rewards add up until the episode ends; then the state stays."""

    repeats: int = struct.field(pytree_node=False, kw_only=True)

    @property
    def limit(self) -> int:
        """The time limit inside, in decisions."""
        return -(-self.env.limit // self.repeats)

    def reset(self, key: jax.Array) -> State:
        return self.env.reset(key)

    def step(self, state: State, action: jax.Array) -> State:
        def again(_, state: State) -> State:
            new = self.env.step(state, action)
            metrics = {
                k: v + state.metrics[k] if k.startswith("reward_") else v
                for k, v in new.metrics.items()
            }
            signals = {
                k: old if k in ACTION_SIGNALS else old + new.signals[k]
                for k, old in state.signals.items()
            }
            new = new.replace(reward=state.reward + new.reward, metrics=metrics, signals=signals)
            ended = state.terminated | state.truncated
            return jax.tree.map(lambda old, x: jnp.where(ended, old, x), state, new)

        # The first step is outside the loop, because flags in `state` may be those of the last episode.
        return jax.lax.fori_loop(1, self.repeats, again, self.env.step(state, action))


def action_repeat(env: Env, n: int) -> ActionRepeat:
    """Holds every action for `n` steps of `env`.

    A time limit inside `env` counts its own steps. Rewards and signals are sums over these steps,
    but a task's `goal_reward` is that of a single step. Signals that are actions are those of the
    first step.

    Raises:
      ValueError: `n` < 1.
    """
    check_instance(env)
    check_count("n", n, 1)
    return ActionRepeat(env, repeats=n)
