"""CrossQ: batch renormalisation and the joint batch of its critics, by hand in NumPy."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import assert_same, differ

from jaxrl.learners.off_policy import crossq
from jaxrl.loops.algorithm import Obs
from jaxrl.nn import batch_renorm, spaces

KEY = jax.random.key(0)
LINEAR = crossq.Config(
    actor_hidden=(), critic_hidden=(), momentum=0.9, warm_up=2.0, init_alpha=0.5, actor_lr=0.0
)


def renormalise(x, mean, var, updates, weight=None, **changes):
    """The output and the new statistics of a layer with these statistics."""
    layer = batch_renorm.BatchRenorm()
    as_f32 = lambda value: jnp.asarray(value, jnp.float32)
    variables = layer.init(KEY, as_f32(x), None)
    kept = {"mean": as_f32([mean]), "var": as_f32([var]), "updates": as_f32(updates)}
    weight = jnp.ones(len(x)) if weight is None else as_f32(weight)
    c = LINEAR.replace(**changes)
    training = batch_renorm.Training(weight, lambda tree: tree, c.momentum, c.warm_up)
    y, new = layer.apply(
        variables | {"statistics": kept}, as_f32(x), training, mutable=["statistics"]
    )
    return np.asarray(y)[:, 0], new["statistics"]


def test_the_first_updates_are_plain_batch_normalisation():
    y, new = renormalise([[1.0], [5.0]], mean=0.0, var=1.0, updates=1)
    np.testing.assert_allclose(y, np.array([-2.0, 2.0]) / np.sqrt(4.001), rtol=1e-5)
    np.testing.assert_allclose(new["mean"], [0.1 * 3.0], rtol=1e-5)  # momentum 0.9
    np.testing.assert_allclose(new["var"], [0.9 + 0.1 * 4.0], rtol=1e-5)
    assert new["updates"] == 2


def test_later_updates_are_normalised_as_by_the_running_statistics():
    """Within the limits, r and d cancel the statistics of the batch (Ioffe 2017)."""
    y, _ = renormalise([[1.0], [5.0]], mean=2.0, var=9.0, updates=2)
    np.testing.assert_allclose(y, (np.array([1.0, 5.0]) - 2.0) / np.sqrt(9.001), rtol=1e-4)


def test_the_correction_is_limited():
    """std 10 over 1 is limited to 3, and a shift of 100 to 5."""
    y, _ = renormalise([[90.0], [110.0]], mean=0.0, var=1.0, updates=2)
    np.testing.assert_allclose(y, [-3.0 + 5.0, 3.0 + 5.0], rtol=1e-3)


def test_a_sample_that_does_not_count_moves_no_statistics():
    _, new = renormalise([[1.0], [5.0], [700.0]], 0.0, 1.0, 0, weight=[1, 1, 0])
    np.testing.assert_allclose(new["mean"], [0.3], rtol=1e-5)
    _, kept = renormalise([[7.0]], 0.5, 2.0, 0, weight=[0])
    assert kept["mean"] == 0.5 and kept["var"] == 2.0


BATCH = batch_of(
    obs=[0.0, 1.0, 3.0],
    action=[[0.5], [-0.5], [0.2]],
    reward=[1.0, 2.0, -1.0],
    next_obs=[1.0, 2.0, 5.0],
    discount=[0.9, 0.9, 0.0],
)


@pytest.fixture(scope="module")
def built():
    return by_hand.built(crossq, LINEAR)


def test_the_critics_normalise_both_halves_together_and_have_no_targets(built):
    algorithm, agent, config = built
    assert agent.critic.target == ()
    new, metrics = algorithm.update.critic(agent, BATCH, config)

    # The next action, as the actor draws it from its running statistics: here as they start.
    keys = jax.vmap(jax.random.split)(BATCH.key)[:, 0]
    head = agent.actor.params["Dense_0"]
    out = BATCH.next_obs.actor / np.sqrt(1.001) @ head["kernel"] + head["bias"]
    dist = spaces.tanh_normal(out)
    raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
    next_action, log_prob = np.asarray(dist.squash(raw)), np.asarray(dist.log_prob(raw))

    now = np.concatenate([BATCH.obs.critic, BATCH.action], -1)
    after = np.concatenate([BATCH.next_obs.critic, next_action], -1)
    x = np.concatenate([now, after])
    x_hat = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    kernel = np.asarray(agent.critic.params["Dense_0"]["kernel"])  # [2, 2, 1]
    q = (x_hat @ kernel)[..., 0]  # [2, 6]
    target = BATCH.reward + BATCH.discount * (q[:, 3:].min(0) - 0.5 * log_prob)
    error = q[:, :3] - target
    np.testing.assert_allclose(metrics["critic_loss"], 0.5 * (error**2).mean(1).sum(), rtol=1e-4)
    # Adam's first moment holds half the gradient, which does not flow through the target.
    gradient = np.einsum("kb,bi->ki", error / 3, x_hat[:3])[..., None]
    np.testing.assert_allclose(new.critic.opt.mu["Dense_0"]["kernel"], 0.5 * gradient, rtol=1e-3)
    statistics = new.critic_statistics["BatchRenorm_0"]
    np.testing.assert_allclose(statistics["mean"], [0.1 * x.mean(0)] * 2, rtol=1e-4)
    assert_same(new.actor_statistics, agent.actor_statistics)


def test_the_actor_moves_its_own_statistics_and_sees_the_critics_running_ones(built):
    algorithm, agent, config = built
    new, _ = algorithm.update.actor(agent, BATCH, config)
    statistics = new.actor_statistics["BatchRenorm_0"]
    np.testing.assert_allclose(statistics["mean"], [0.1 * 4.0 / 3.0], rtol=1e-5)
    assert_same(new.critic_statistics, agent.critic_statistics)
    assert differ(new.actor.opt, agent.actor.opt)


def test_a_policy_acts_by_the_running_statistics(built):
    algorithm, agent, _ = built
    moved = agent.replace(
        actor_statistics={"BatchRenorm_0": {"mean": jnp.ones(1), "var": jnp.full(1, 4.0)}}
    )
    moved.actor_statistics["BatchRenorm_0"]["updates"] = jnp.zeros(())
    obs = Obs(jnp.array([5.0]), jnp.array([5.0]))
    action, _ = algorithm.act(algorithm.keeps(moved), (), obs, KEY, True)
    head = agent.actor.params["Dense_0"]
    mean = ((5.0 - 1.0) / np.sqrt(4.001) * head["kernel"] + head["bias"])[0, 0]
    np.testing.assert_allclose(action, [np.tanh(mean)], rtol=1e-5)
