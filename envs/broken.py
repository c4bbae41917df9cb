"""`what_breaks(env)`: the first number of an environment that is not sound, in words."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import MAX_MAGNITUDE, Env, State, sample_actions

STEPS = 8  # that are tried


def what_breaks(env: Env, key: jax.Array | None = None) -> str:
    """Returns such as "obs[2] is nan after step 1", or "" if all is sound.

    It runs one episode of up to `STEPS` random actions. What counts as sound is `types.is_sound`.
    Observation and reward are named before what is hidden in the state.

    Args:
      env: one instance.
      key: of the episode; None: always the same.
    """
    key = jax.random.key(0) if key is None else key
    step = jax.jit(env.step)
    state = jax.jit(env.reset)(key)
    for number in range(STEPS + 1):
        if found := unsound(env, state):
            return f"{found} after {f'step {number}' if number else 'reset'}"
        state = step(state, sample_actions(env, jax.random.fold_in(key, number)))
    return ""


def unsound(env: Env, state: State) -> str:
    """Returns the first number of an unbatched `state` that is not sound, as "reward is inf"."""
    bound = getattr(env, "max_magnitude", MAX_MAGNITUDE)
    shown = {"obs": state.obs, "reward": state.reward}
    hidden = {"signals": state.signals, "data": state.data, "info": state.info}
    return _first(shown, bound) or _first(hidden, np.inf)


def _first(tree: dict[str, Any], bound: float) -> str:
    """The first entry that is not finite, or larger than `bound`."""
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            continue
        x = np.asarray(x, np.float64)
        wrong = np.argwhere(~np.isfinite(x) | (np.abs(x) > bound))
        if len(wrong):
            at = tuple(wrong[0])
            (name, *inner) = path
            where = name.key + jax.tree_util.keystr(tuple(inner))
            where += f"[{', '.join(map(str, at))}]" if at else ""
            return f"{where} is {x[at]:.3g}"
    return ""
