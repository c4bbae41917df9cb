"""How the losses of an on-policy method are added up, and which are refused."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from probes import Probe

from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import total_loss

SAMPLE = SimpleNamespace(
    unroll=SimpleNamespace(valid=jnp.ones((2, 3), bool)), entropy=jnp.full((2, 3), 0.5)
)
CONFIG = SimpleNamespace(value_coef=0.25, entropy_coef=0.1, near_coef=3.0)


def always(value, **metrics):
    """A loss of `value` per sample."""
    return lambda sample, config: (jnp.full((2, 3), value), metrics)


def test_every_loss_counts_times_its_weight():
    terms = {"near": always(2.0, distance=jnp.full((2, 3), 7.0))}
    loss, metrics = total_loss(SAMPLE, always(1.0), always(8.0), terms, jnp.mean, CONFIG)
    assert float(loss) == pytest.approx(1.0 + 0.25 * 8.0 - 0.1 * 0.5 + 3.0 * 2.0)
    expected = {"policy_loss": 1, "value_loss": 8, "entropy": 0.5, "near_loss": 2, "distance": 7}
    assert {name: float(x) for name, x in metrics.items()} == expected


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (jnp.ones((2, 3)), "policy_loss: must return a loss and a dict of metrics"),
        ((jnp.ones((2, 3)), jnp.ones((2, 3))), "policy_loss: must return a loss and a dict"),
        (
            (jnp.ones(()), {}),
            r"policy_loss: the loss has the shape \(\), must be \[T, B\] = \(2, 3",
        ),
        ((jnp.ones(6), {}), r"policy_loss: the loss has the shape \(6,\)"),
        ((jnp.ones((2, 3)), {"x": 0.0}), r"policy_loss: x has the shape \(\)"),
    ],
)
def test_a_loss_that_is_not_per_sample_is_refused(returned, message):
    with pytest.raises(ValueError, match=message):
        total_loss(SAMPLE, lambda sample, config: returned, always(1.0), {}, jnp.mean, CONFIG)


def test_a_term_without_a_weight_is_refused():
    config = ppo.Config(num_envs=2, num_minibatches=2)
    with pytest.raises(ValueError, match=r"terms\['near'\]: Config must have near_coef"):
        parts = ppo.networks(Probe(), config)
        on_policy.make(Probe(), config, *parts, ppo.clipped, terms={"near": always(1.0)})
