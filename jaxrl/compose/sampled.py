"""A learner whose policies sample their actions in evaluations, too."""

from __future__ import annotations

import dataclasses

import jax

from jaxrl.types import Learner


def sampled(learner: Learner) -> Learner:
    """Returns `learner` with policies that always sample, whatever `deterministic` is.

    A multimodal policy's mode may be between its modes; a sample is not.
    """
    first = lambda key: learner.policy(learner.init(key, learner.config))
    draws = jax.eval_shape(first, jax.random.key(0)).apply  # one function: policies compile once
    apply = lambda params, carry, obs, key, deterministic: draws(params, carry, obs, key, False)
    return dataclasses.replace(learner, policy=lambda s: learner.policy(s).replace(apply=apply))
