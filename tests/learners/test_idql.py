"""IDQL: critics are IQL's, the clone has no weights, the choice by hand."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import assert_same

from jaxrl.learners.offline import idql, iql
from jaxrl.loops.algorithm import Obs
from jaxrl.nn import heads

KEY = jax.random.key(0)
LINEAR = idql.Config(actor_hidden=(), critic_hidden=(), num_samples=4, denoise_steps=2)
BATCH = batch_of([1.0, -1.0], [[0.9], [-0.5]], [1.0, 2.0], [2.0, 3.0], [0.5, 0.0])


def critic(*weights):
    """Two critics: `weights` . (obs, action), and the same plus 1."""
    kernel = jnp.tile(jnp.asarray(weights, jnp.float32)[None, :, None], (2, 1, 1))
    layer = {"kernel": kernel, "bias": jnp.array([[0.0], [1.0]])}
    return {"params": {"VmapMLP_0": {"Dense_0": layer}}}


def test_the_critics_learn_as_those_of_iql():
    algorithm, agent, traced = by_hand.built(idql, LINEAR)
    other, plain, settings = by_hand.built(iql, iql.Config(actor_hidden=(), critic_hidden=()))
    plain = plain.replace(value=agent.value, critic=agent.critic)
    mine, told = jax.jit(algorithm.update.critic)(agent, BATCH, traced)
    own, expected = jax.jit(other.update.critic)(plain, BATCH, settings)
    assert_same((mine.value, mine.critic, told), (own.value, own.critic, expected), rtol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_carries_out_the_sample_of_the_highest_value(sign):
    algorithm, agent, _ = by_hand.built(idql, LINEAR)
    agent = agent.replace(critic=agent.critic.replace(target=critic(0.0, sign)))
    obs = Obs(jnp.full(1, 2.0), jnp.full(1, 2.0))
    act = jax.jit(lambda kept: algorithm.act(kept, (), obs, KEY, True)[0])
    head = heads.of_kind("diffusion", heads.FlatTrunk((), 1), 1, 1, 2)
    draw = lambda key: head.sample(agent.actor.target, jnp.full((1, 1), 2.0), key, False)
    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4))).ravel()
    best = drawn[(sign * drawn).argmax()]
    assert float(act(algorithm.keeps(agent))[0]) == pytest.approx(best, rel=1e-5)


def test_the_clone_imitates_every_action_alike():
    """No value reaches it, and its loss is the mean over the samples."""
    algorithm, agent, traced = by_hand.built(idql, LINEAR)
    update = jax.jit(algorithm.update.actor)
    mine, told = update(agent, BATCH, traced)
    other = agent.replace(critic=agent.critic.replace(target=critic(9.0, -9.0)))
    assert_same(update(other, BATCH, traced)[0].actor, mine.actor)
    head = heads.of_kind("diffusion", heads.FlatTrunk((), 1), 1, 1, 2)
    ones = jnp.ones(1)
    each = lambda obs, action, key: head.loss(
        agent.actor.params, obs[None], action[None], ones, key
    )
    losses = jax.jit(jax.vmap(each))(BATCH.obs.actor, BATCH.action, BATCH.key)
    assert float(told["actor_loss"]) == pytest.approx(float(losses.mean()), rel=1e-5)
