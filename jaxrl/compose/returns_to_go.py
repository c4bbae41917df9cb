"""A learner from recorded data whose batches hold the return to go of every recorded step."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxrl.loops.algorithm import Columns, Cut, uniform
from jaxrl.ops import returns
from jaxrl.ops.windows import Window
from jaxrl.types import Learner, Transition

SIGNAL = "return_to_go"
Unfinished = Literal["forever", "zero", "unknown"]


def with_returns(learner: Learner, unfinished: Unfinished) -> Learner:
    """Returns `learner`. Recorded steps have the signal "return_to_go": [T, 1] float32.

    It is the discounted sum of scaled rewards to the end of the episode. `gamma` and the scale are
    numbers of the state's config, so a sweep over them is exact. They are summed once per `step`.

    Args:
      learner: offline, or one that collects and has prior data. Its method uses `first_of` and, if
        it collects, `unknown`.
      unfinished: what comes after an episode that a clock ended. "forever": its last reward again
        and again, r / (1 - gamma), as in Cal-QL's code for rewards of -1 and 0. "zero": nothing.
        "unknown": the returns of such an episode are -inf.
    """
    own = learner.step

    def step(state: Any, data: Any = learner.data) -> Any:
        if data is None:
            return own(state)
        return own(state, (to_go(data[0], state.config, unfinished), *data[1:]))

    if (sharing := learner.sharing) is None:
        return dataclasses.replace(learner, step=step)
    on_axis = lambda axis: with_returns(sharing.on_axis(axis), unfinished)
    shared = dataclasses.replace(sharing, on_axis=on_axis)
    return dataclasses.replace(learner, step=step, sharing=shared)


def to_go(steps: Transition, config: Any, unfinished: Unfinished) -> Transition:
    """Returns recorded steps [T, 1, ...] with the signal; see `with_returns`."""
    reward = steps.reward * config.reward_scale + config.reward_shift
    ever = reward / jnp.maximum(1.0 - config.gamma, 1e-6)
    after = {
        "forever": ever,
        "zero": jnp.zeros_like(ever),
        "unknown": jnp.full_like(ever, -jnp.inf),
    }
    after = jnp.where(steps.terminated, 0.0, after[unfinished])
    ended = jnp.asarray(steps.terminated | steps.truncated)
    found = returns.to_go(reward, ended, after, config.gamma)
    return steps.replace(signals=steps.signals | {SIGNAL: found})


def first_of(cut: Cut) -> Cut:
    """Returns `cut` with the return to go of a window's first step, in place of a sum over steps."""

    def make(window: Window, config: Any):
        batch = cut.make(window, config)
        return batch.replace(signals=batch.signals | {SIGNAL: window.steps.signals[SIGNAL][0]})

    return Cut(cut.length, make)


def unknown(ring: Any, keys: jax.Array, columns: Columns, length: int, config: Any) -> Window:
    """Draws windows of collected steps, whose return to go is not known: -inf."""
    window = uniform(ring, keys, columns, length, config)
    nothing = jnp.full(window.steps.reward.shape, -jnp.inf)
    signals = window.steps.signals | {SIGNAL: nothing}
    return window.replace(steps=window.steps.replace(signals=signals))
