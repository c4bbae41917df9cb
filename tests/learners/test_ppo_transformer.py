"""PPO with a transformer: what its policy looks at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from jaxrl.learners.on_policy import ppo_transformer

TINY = ppo_transformer.Config(
    num_envs=2,
    num_minibatches=1,
    unroll_length=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
    actor_out_scale=1.0,
    context=3,
    width=4,
)


def test_the_policy_looks_at_the_last_steps_and_at_none_before():
    """With two layers, too: tokens are embedded anew from observations, not from earlier layers."""
    learner = ppo_transformer.make(Probe(), TINY.replace(layers=2))
    policy = learner.policy(jax.jit(learner.init)(jax.random.key(0)))
    act = jax.jit(lambda carry, obs: policy.act(carry, obs, jax.random.key(0)))

    def last_action(first):
        obs = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
        obs[: len(first)] = first
        carry = policy.init_carry()
        for x in jnp.asarray(obs):
            action, carry = act(carry, x)
        return float(action[0])

    same = last_action(np.zeros((0, 7)))
    assert last_action(np.ones((2, 7))) == same  # steps 0 and 1 of 0 .. 4
    assert last_action(np.ones((3, 7))) != same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gru_width": 8}, "^gru_width=8: must be 0"),
        ({"attention_heads": 3}, "^width=4: must be a multiple of attention_heads=3"),
        ({"shuffle": "steps", "num_minibatches": 4}, "^num_minibatches=4: .*whole unrolls"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ppo_transformer.make(Probe(), TINY.replace(**changes))
