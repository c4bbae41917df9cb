"""SimbaV2: its layers, the scale of its rewards and its categorical target, by hand in NumPy."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import Probe

from jaxrl.config import check
from jaxrl.learners.off_policy import simbav2
from jaxrl.loops.algorithm import Collected
from jaxrl.nn import hypersphere
from jaxrl.ops.moments import Moments

KEY = jax.random.key(0)
SMALL = simbav2.Config(actor_hidden=(4,), critic_hidden=(6, 6), num_atoms=5, max_return=2.0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def weights(params, name):
    return np.asarray(params[name]["kernel"], np.float64)


def test_an_encoder_is_the_papers():
    x = np.array([[1.0, -2.0], [0.5, 0.0]])
    module = hypersphere.Encoder(6, 1)
    params = module.init(KEY, jnp.asarray(x, jnp.float32))["params"]
    shifted = unit(np.concatenate([x, np.full((2, 1), 3.0)], -1))  # c_shift
    h = unit(np.sqrt(2 / 6) * shifted @ weights(params, "Directions_0"))
    block = params["Block_0"]
    wide = np.sqrt(2 / 6 / 4) * h @ weights(block, "Directions_0")  # the width times 4
    y = unit((np.maximum(wide, 0) + 1e-8) @ weights(block, "Directions_1"))
    expected = unit(h + 0.5 * (y - h))  # one block: a share of 1 / (1 + 1)
    found = module.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert block["Directions_0"]["kernel"].shape == (6, 24)
    np.testing.assert_allclose(block["Scaler_1"]["scaler"], 1 / np.sqrt(6), rtol=1e-6)  # stored


def test_every_unit_has_a_weight_of_length_1_at_the_start_and_after_an_update(built):
    algorithm, agent, config = built
    new, _ = algorithm.update.critic(agent, BATCH, config)
    new, _ = algorithm.update.actor(new, BATCH, config)
    for before, after in ((agent.actor, new.actor), (agent.critic, new.critic)):
        for net in (before, after):
            for path, x in jax.tree_util.tree_leaves_with_path(net.params):
                if path[-1].key == "kernel":
                    np.testing.assert_allclose((x**2).sum(-2), 1.0, rtol=1e-5)
    kernel = lambda a: a.critic.params["params"]["Encoder_0"]["Directions_0"]["kernel"]
    assert not np.allclose(kernel(agent), kernel(new), atol=1e-6)


@pytest.fixture(scope="module")
def built():
    return by_hand.built(simbav2, SMALL.replace(init_alpha=0.5, critic_lr=0.01, actor_lr=0.01))


def test_statistics_are_of_discounted_returns_and_hold_the_largest(built):
    _, agent, config = built
    seen = Collected(
        jnp.array([[1.0, 2.0], [-6.0, 99.0]]), jnp.array([[True, True], [True, False]])
    )
    agent = simbav2.observe(agent, seen, config)
    spread = np.std([1.0, 2.0, -6.0])
    np.testing.assert_allclose(jnp.sqrt(agent.returns.var), spread, rtol=1e-5)
    assert agent.largest == 6.0
    # 6 / max_return is less than the spread, 100 / max_return is more.
    np.testing.assert_allclose(simbav2.reward_divisor(agent, config), spread, rtol=1e-5)
    far = agent.replace(largest=jnp.float32(100.0))
    np.testing.assert_allclose(simbav2.reward_divisor(far, config), 50.0, rtol=1e-5)


def test_returns_are_discounted_and_restart_with_every_episode():
    """Three steps of reward 1 an episode, gamma 0.5: returns 1, 1.5 and 1.75, in every iteration."""
    config = SMALL.replace(
        num_envs=2, unroll_length=2, replay_size=64, learning_starts=60, batch_size=4, gamma=0.5
    )
    learner = simbav2.make(Probe(length=3.0, pays=1.0), config)
    state, step = jax.jit(learner.init)(KEY), jax.jit(learner.step)
    for _ in range(3):  # two episodes of each environment
        state, _ = step(state)
    np.testing.assert_allclose(state.agent.returns.mean, np.mean([1.0, 1.5, 1.75]), rtol=1e-5)
    np.testing.assert_allclose(state.agent.returns.var, np.var([1.0, 1.5, 1.75]), rtol=1e-4)
    assert state.agent.returns.count == 12 and state.agent.largest == 1.75
    np.testing.assert_array_equal(state.discounted, [0.0, 0.0])


BATCH = batch_of(
    obs=[0.3, 1.0],
    action=[[0.5], [-0.5]],
    reward=[4.0, -1.0],
    next_obs=[1.0, 2.0],
    discount=[0.9, 0.0],
)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_the_critics_regress_on_the_soft_distribution_of_the_lower_target(built):
    """Cross-entropy with the projection of r / divisor + gamma (z - alpha log pi)."""
    algorithm, agent, config = built
    divided = agent.replace(returns=Moments(jnp.ones(()), jnp.zeros(()), jnp.float32(4.0)))
    _, metrics = algorithm.update.critic(divided, BATCH, config)
    np.testing.assert_allclose(metrics["reward_divisor"], 2.0, rtol=1e-5)

    actor, critic = hypersphere.Actor(4, 1, 1), hypersphere.Critic(6, 2, 5)
    keys = jax.vmap(jax.random.split)(BATCH.key)[:, 0]
    dist = actor.apply(agent.actor.params, BATCH.next_obs.actor)
    raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
    member = lambda i: jax.tree.map(lambda x: x[i], agent.critic.params)
    logits = lambda x: np.stack([critic.apply(member(i), jnp.asarray(x)) for i in range(2)])
    after = np.concatenate([BATCH.next_obs.critic, dist.squash(raw)], -1)
    now = np.concatenate([BATCH.obs.critic, BATCH.action], -1)

    grid = np.linspace(-2.0, 2.0, 5)
    probs = softmax(logits(after))
    probs = probs[(probs @ grid).argmin(0), np.arange(2)]
    reward, discount = np.array([2.0, -0.5]), np.asarray(BATCH.discount)  # divided by 2
    soft = 0.5 * np.asarray(dist.log_prob(raw))
    target = np.zeros((2, 5))
    for b in range(2):
        for p, z in zip(probs[b], grid, strict=True):
            at = np.clip(reward[b] + discount[b] * (z - soft[b]), -2.0, 2.0) + 2.0  # in steps of 1
            low = min(int(np.floor(at)), 4)
            target[b, low] += p * (1 - (at - low))
            target[b, min(low + 1, 4)] += p * (at - low)
    log_probs = np.log(softmax(logits(now)))
    expected = -(target * log_probs).sum(-1).mean(-1).sum()
    np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-4)


def test_the_spread_of_an_action_is_within_the_authors_bounds():
    actor = hypersphere.Actor(4, 1, 2)
    params = actor.init(KEY, jnp.zeros((1, 3)))
    dist = actor.apply(params, 100.0 * jax.random.normal(KEY, (64, 3)))
    assert (jnp.log(dist.std) > -10.0).all() and (jnp.log(dist.std) < 2.0).all()
    wide = jax.tree.map(lambda x: x, params)
    wide["params"]["Head_1"]["bias"] = jnp.full(2, 50.0)
    np.testing.assert_allclose(jnp.log(actor.apply(wide, jnp.zeros((1, 3))).std), 2.0, rtol=1e-5)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("num_atoms", 1, "num_atoms=1: must be at least 2"),
        ("critic_hidden", (8, 4), r"critic_hidden=\(8, 4\): must be one width, once for every"),
        ("actor_hidden", (), r"actor_hidden=\(\): must be one width"),
    ],
)
def test_a_bad_shape_is_named(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check(SMALL.replace(**{field: value}))
