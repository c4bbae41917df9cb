"""Conditions that stay branches when runs are batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from jaxrl.learners.on_policy import ppo
from jaxrl.loops.branch import in_any_run, same_in_runs, update_if


def primitives(jaxpr) -> list[str]:
    """The names of all primitives in a jaxpr, those of inner ones included."""
    found = []
    for eqn in jaxpr.eqns:
        found.append(eqn.primitive.name)
        for param in eqn.params.values():
            for inner in param if isinstance(param, tuple | list) else [param]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += primitives(inner)
    return found


@pytest.mark.parametrize("reduce", [same_in_runs, in_any_run])
def test_a_reduced_predicate_keeps_a_cond_under_nested_vmaps(reduce):
    f = lambda x: jax.lax.cond(reduce(x > 0), lambda: x * 2, lambda: x)
    jaxpr = jax.make_jaxpr(jax.vmap(jax.vmap(f)))(jnp.ones((2, 3)))
    assert "cond" in primitives(jaxpr.jaxpr)
    plain = lambda x: jax.lax.cond(x > 0, lambda: x * 2, lambda: x)
    assert "cond" not in primitives(jax.make_jaxpr(jax.vmap(plain))(jnp.ones(3)).jaxpr)


def test_any_run_is_true_for_all_if_it_is_for_one():
    told = jax.vmap(in_any_run, out_axes=None)
    assert bool(told(jnp.array([False, True]))) and not bool(told(jnp.array([False, False])))


def test_an_update_that_is_not_due_leaves_the_state_and_reports_nan():
    update = lambda x: (x + 1.0, {"loss": x})
    state, metrics = update_if(jnp.array(False), update, jnp.array(3.0))
    assert float(state) == 3.0 and np.isnan(metrics["loss"])
    state, metrics = update_if(jnp.array(True), update, jnp.array(3.0))
    assert float(state) == 4.0 and float(metrics["loss"]) == 3.0


def test_ppo_asks_for_the_value_of_final_observations_only_where_an_episode_was_cut():
    """A `cond` with a batched predicate would be a second pass of the network at every step."""
    config = ppo.Config(num_envs=2, unroll_length=2, num_minibatches=1, num_epochs=1)
    learner = ppo.make(Probe(), config)
    state = jax.eval_shape(jax.vmap(learner.init), jax.random.split(jax.random.key(0), 2))
    assert "cond" in primitives(jax.make_jaxpr(jax.vmap(learner.step))(state).jaxpr)
