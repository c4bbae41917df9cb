"""BRO: its networks, its quantile loss, its targets, its weight decay and its resets, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import LINE, batch_of

from jaxrl.config import check
from jaxrl.learners.off_policy import bro
from jaxrl.loops.algorithm import Obs
from jaxrl.nn import spaces

KEY = jax.random.key(0)
SMALL = bro.Config(
    actor_hidden=(4,),
    critic_hidden=(6, 6),
    num_quantiles=3,
    init_alpha=0.5,
    updates_per_step=1,
    reset_after=(2, 5),
)
BATCH = batch_of(
    obs=[0.3, 1.0],
    action=[[0.5], [-0.5]],
    reward=[4.0, -1.0],
    next_obs=[1.0, 2.0],
    discount=[0.9, 0.0],
)


def test_a_bronet_is_the_papers():
    """A layer, its norm and a ReLU; then x + norm(layer(relu(norm(layer(x)))))."""
    x = np.array([[1.0, -2.0], [0.5, 0.0]])
    module = bro.BroNet(6, 2)
    params = module.init(KEY, jnp.asarray(x, jnp.float32))["params"]
    assert len(params) == 2 * 5  # five layers, each with its norm

    def layer(x, i):
        y = x @ np.asarray(params[f"Dense_{i}"]["kernel"], np.float64)
        return (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)

    relu = lambda x: np.maximum(x, 0.0)
    h = relu(layer(x, 0))
    for i in (1, 3):
        h = h + layer(relu(layer(h, i)), i + 1)
    found = module.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, h, rtol=1e-4, atol=1e-5)
    for i in range(1, 5):  # orthogonal, times the square root of 2
        kernel = np.asarray(params[f"Dense_{i}"]["kernel"])
        np.testing.assert_allclose(kernel.T @ kernel, 2.0 * np.eye(6), atol=1e-5)


def test_the_quantile_loss_by_hand():
    """Levels 1/4 and 3/4. Errors -1/2, 3 of the first quantile and -5/2, 1 of the second."""
    first = (abs(0.25 - 1) * 0.125 + 0.25 * 2.5) / 2
    second = (abs(0.75 - 1) * 2.0 + 0.75 * 0.5) / 2
    found = bro.quantile_loss(jnp.array([[0.0, 2.0]]), jnp.array([[-0.5, 3.0]]))
    np.testing.assert_allclose(found, [first + second], rtol=1e-6)


def test_the_quantile_loss_is_least_at_the_quantiles():
    """Of 0, 1, ..., 99 in hundredths: 1/8, 3/8, 5/8 and 7/8 of the range."""
    target = jnp.arange(100.0)[None]
    loss = lambda q: bro.quantile_loss(q, target)[0]
    grads = jax.grad(loss)(jnp.array([[12.0, 37.0, 62.0, 87.0]]))
    np.testing.assert_allclose(grads, 0.0, atol=0.01)
    assert (jax.grad(loss)(jnp.array([[20.0, 45.0, 70.0, 95.0]])) > 0.05).all()


@pytest.fixture(scope="module")
def built():
    """One compiled `go(agent, key, config)`, which makes an update; an agent; its config."""
    algorithm = bro.algorithm(SMALL, spaces.actions(LINE))
    config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), SMALL)  # as a state has it
    one = jnp.zeros((1, 1))
    agent = jax.jit(algorithm.init)(KEY, Obs(one, one), config)
    draw = lambda key: BATCH
    return jax.jit(lambda *args: algorithm.update(args[0], draw, *args[1:], None)), agent, config


def test_the_critics_regress_on_the_mean_of_the_soft_target_critics(built):
    """r + gamma (mean of both critics' quantiles - alpha log pi), without a minimum."""
    go, agent, config = built
    _, metrics = go(agent, KEY, config)
    actor, critic = bro.Actor(4, 1, 1), bro.Critic(6, 2, 3)
    keys = jax.vmap(jax.random.split)(BATCH.key)[:, 0]
    dist = actor.apply(agent.actor.params, BATCH.next_obs.actor)
    raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
    member = lambda i: jax.tree.map(lambda x: x[i], agent.critic.params)
    of = lambda x: np.stack([critic.apply(member(i), jnp.asarray(x)) for i in range(2)])
    later = of(np.concatenate([BATCH.next_obs.critic, dist.squash(raw)], -1))  # [2, B, 3]
    q = of(np.concatenate([BATCH.obs.critic, BATCH.action], -1))
    soft = later.mean(0) - 0.5 * np.asarray(dist.log_prob(raw))[:, None]
    target = np.array([[4.0], [-1.0]]) + np.array([[0.9], [0.0]]) * soft
    levels, expected = np.array([1, 3, 5]) / 6, 0.0
    for c in range(2):
        for b in range(2):
            error = target[b][None, :] - q[c, b][:, None]
            huber = np.where(abs(error) <= 1, 0.5 * error**2, abs(error) - 0.5)
            weight = np.where(error < 0, 1 - levels[:, None], levels[:, None])
            expected += (weight * huber).mean(-1).sum() / 2
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["q"], q.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["actor", "critic"])
def test_weights_decay_by_the_rate_times_the_decay(built, name):
    """The difference that a decay of 0.5 makes to one update, without changing the other network."""
    go, agent, config = built
    config = config.replace(**{"critic_lr" if name == "actor" else "actor_lr": jnp.float32(0.0)})
    decayed = lambda x: go(agent, KEY, config.replace(weight_decay=jnp.float32(x)))[0]
    trees = [getattr(x, name).params for x in (agent, decayed(0.0), decayed(0.5))]
    for old, without, with_decay in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(without - with_decay, 3e-4 * 0.5 * old, atol=2e-7)


def test_everything_learned_starts_again_after_the_given_numbers_of_updates(built):
    """After 2 and 5 updates, of one each time: new weights, targets, moments and alpha."""
    go, agent, config = built
    agent = agent.replace(actor=agent.actor.replace(skipped=jnp.int32(7)))
    counts, kernels = [], []
    for i in range(7):
        agent, _ = go(agent, jax.random.key(i), config)
        counts.append(int(agent.critic.opt[0].count))
        kernels.append(np.asarray(agent.critic.params["params"]["BroNet_0"]["Dense_1"]["kernel"]))
        assert agent.updates == i + 1 and agent.actor.skipped == 7
        if counts[-1] == 1:  # of rate 3e-4, and its target has followed for one update
            near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3)
            jax.tree.map(near, agent.critic.target, agent.critic.params)
            near(agent.log_alpha.params, np.log(0.5))
    assert counts == [1, 2, 1, 2, 3, 1, 2]
    moved = [np.abs(a - b).max() > 0.05 for a, b in zip(kernels, kernels[1:], strict=False)]
    assert moved == [False, True, False, False, True, False]
    assert np.abs(kernels[2] - kernels[0]).max() > 0.05  # not those of the first start


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("num_quantiles", 0, "num_quantiles=0: must be a whole number, at least 1"),
        ("critic_hidden", (8, 4), r"critic_hidden=\(8, 4\): must be one width, once for every"),
        ("actor_hidden", (), r"actor_hidden=\(\): must be one width"),
        ("reset_after", (0,), r"reset_after=\(0,\): must be a tuple of whole numbers, at least 1"),
    ],
)
def test_a_bad_setting_is_named(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check(SMALL.replace(**{field: value}))
