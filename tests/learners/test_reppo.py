"""REPPO: soft targets, the loss of actor and multipliers by hand, its critic, and a probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import CLOCK, Probe, assert_same, differ
from scipy.stats import norm

from jaxrl.learners.on_policy import reppo
from jaxrl.learners.registry import module
from jaxrl.loops.unroll import Sample, Unroll
from jaxrl.nn.layers import MLP
from jaxrl.nn.pathwise import LatentCritic, Value, actor_and_critic

TINY = reppo.Config(
    learning_rate=3e-3,
    num_envs=32,
    unroll_length=4,
    num_minibatches=4,
    actor_hidden=(16,),
    critic_hidden=(16, 16),
    num_atoms=21,
    min_return=-5.0,
    max_return=5.0,
    normalize_obs=False,
)
ENV = Probe(pays_goal=1.0, goal_cue=0.5, sees_cue=1.0)
OBS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1 + CLOCK)), jnp.float32)
KEY = jax.random.key(0)


def columns(*rows):
    return jnp.asarray(rows, jnp.float32)


def test_targets_are_soft_td_lambda_returns():
    """gamma = lambda = 1/2. alpha log pi is 0, 1, 2 in the left column, whose Q is 0, 2, 6.

    Left, no episode ends and V after the last step is 8: G_2 = 4 + 8/2 = 8, then
    G_1 = 2 + 1/2 (V_2 / 2 + (G_2 - 2) / 2) = 2 + 1/2 (2 + 3) and
    G_0 = 1 + 1/2 (V_1 / 2 + (G_1 - 1) / 2) = 1 + 1/2 (1/2 + 7/4).
    Right, the first step is terminal and the second is the last before a time limit.
    """
    q, soft = columns((0, 3), (2, 3), (6, 3)), columns((0, 5), (1, 5), (4, 5))
    terminated = columns((0, 1), (0, 0), (0, 0)) > 0
    unroll = Unroll(
        obs=(), reset=None, raw=None, log_prob=None, outputs=None, final_value=None,
        value=Value(q, soft, jnp.zeros((3, 2, 1))),
        reward=columns((1, 1), (2, 2), (4, 4)),
        terminated=terminated,
        truncated=columns((0, 0), (0, 1), (0, 0)) > 0,
        valid=jnp.ones((3, 2), bool),
        discounted=None,
        signals={},
    )  # fmt: skip
    latent = jnp.arange(6.0).reshape(3, 2, 1)
    following = Value(q, columns((1, 99), (4, 10), (8, 8)), latent)
    config = TINY.replace(gamma=0.5, gae_lambda=0.5)
    advantage, (returns, after) = reppo.targets(unroll, following, (), config)
    np.testing.assert_allclose(returns, [[2.125, 1.0], [4.5, 7.0], [8.0, 8.0]])
    np.testing.assert_allclose(advantage, returns - q)
    np.testing.assert_allclose(after[..., 0], latent[..., 0])
    np.testing.assert_allclose(after[..., 1], unroll.reward)


LOG = {"alpha": jnp.log(0.5), "kl": jnp.log(3.0)}
NEAR, FAR = 0.05, 0.3  # KLs, where the bound is 0.1


def loss(kl, log=LOG, q=2.0, entropy=1.0):
    arrays = (jnp.asarray(x, jnp.float32) for x in (q, entropy, kl))
    return reppo.objective(log, *arrays, target_entropy=-1.0, kl_bound=0.1)


def test_the_loss_is_that_of_the_action_s_value_within_the_bound_and_of_the_kl_beyond():
    duals = lambda kl: 0.5 * (1.0 + 1.0) - 3.0 * (kl - 0.1)
    np.testing.assert_allclose(loss(NEAR), -0.5 * 1.0 - 2.0 + duals(NEAR), rtol=1e-6)
    np.testing.assert_allclose(loss(FAR), 3.0 * 0.3 + duals(FAR), rtol=1e-6)
    np.testing.assert_allclose(loss(0.1), 3.0 * 0.1 + duals(0.1), rtol=1e-6)


def test_the_policy_follows_value_and_entropy_within_the_bound_and_returns_beyond():
    slope = jax.grad(lambda q, entropy, kl: loss(kl, q=q, entropy=entropy), (0, 1, 2))
    np.testing.assert_allclose(slope(2.0, 1.0, NEAR), [-1.0, -0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(slope(2.0, 1.0, FAR), [0.0, 0.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("kl, entropy", [(NEAR, 1.0), (NEAR, -3.0), (FAR, 1.0), (FAR, -3.0)])
def test_alpha_falls_above_the_target_entropy_and_the_multiplier_rises_above_the_bound(kl, entropy):
    """By gradients with respect to their logarithms. The target entropy is -1."""
    slope = jax.grad(lambda log: loss(kl, log, entropy=entropy))(LOG)
    np.testing.assert_allclose(slope["alpha"], 0.5 * (entropy + 1.0), rtol=1e-6)
    np.testing.assert_allclose(slope["kl"], -3.0 * (kl - 0.1), rtol=1e-5)


@pytest.fixture(scope="module")
def parts():
    critic = LatentCritic((6, 4), 5, -2.0, 2.0)
    policy = MLP((8,), 2, "swish", 1.0, True)
    network, judge = actor_and_critic(policy, critic, {"alpha": 0.5}, (), ())
    return network, judge, critic, network.init(KEY, OBS[None, :1], jnp.zeros((1, 1), bool))


def test_a_critic_is_an_encoder_with_two_heads_by_hand(parts):
    _, judge, critic, params = parts
    action = jnp.array([[0.3], [-0.9], [0.0]])
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params["critic"]["params"])
    swish = lambda x: x / (1.0 + np.exp(-x))

    def mlp(x, layers):
        x = x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return swish(x) @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]

    latent = mlp(np.concatenate([OBS, action], -1), tree["encoder"])
    edges = norm.cdf((np.arange(-2.5, 3.0)) / 0.75)
    start = 40.0 * np.diff(edges) / (edges[-1] - edges[0])
    expected = (
        mlp(swish(latent), tree["returns"]) + start,
        latent,
        mlp(swish(latent), tree["predictor"]),
    )
    found = judge(params, OBS, action)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert [x.shape for x in found] == [(3, 5), (3, 4), (3, 5)]
    probs = np.exp(expected[0]) / np.exp(expected[0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(critic.mean(found[0]), probs @ [-2, -1, 0, 1, 2], atol=1e-4)
    assert (np.abs(critic.mean(found[0])) < 0.1).all()  # returns start near 0


def test_a_soft_value_is_q_less_alpha_times_the_log_probability(parts):
    network, judge, critic, params = parts
    raw, log_prob = jnp.array([[0.3], [-2.0], [0.0]]), jnp.array([-1.0, 2.0, 0.5])
    value = network.critic(params, OBS, raw, log_prob)
    logits, latent, _ = judge(params, OBS, jnp.tanh(raw))
    assert_same((value.q, value.latent), (critic.mean(logits), latent))
    np.testing.assert_allclose(value.soft, value.q - 0.5 * log_prob, rtol=1e-6)


@pytest.fixture
def losses(monkeypatch):
    """A function from a config to the network and both losses that the engine gets."""

    def given(config):
        monkeypatch.setattr(reppo.on_policy, "make", lambda *seams, **_: seams)
        _, _, network, _, climb, regress, _ = reppo.make(ENV, config)
        return network, climb, regress

    return given


def sample_of(network, params, raw, old, target, terminated):
    """A minibatch of one step of three environments."""
    outputs = network.apply(params, (), OBS[None], jnp.zeros((1, 3), bool))[1]
    unroll = Unroll(
        obs=OBS[None], reset=None, raw=raw[None], log_prob=None, outputs=outputs + old, value=None,
        final_value=None, reward=None, terminated=terminated[None], truncated=None,
        valid=jnp.ones((1, 3), bool), discounted=None, signals={},
    )  # fmt: skip
    return Sample(
        params=params, unroll=unroll, advantage=None, target=target, value=(), outputs=outputs,
        log_prob=None, ratio=None, entropy=None, progress=None, extra=(),
        keys=jax.random.split(KEY, 3),
    )  # fmt: skip


def test_the_critic_s_loss_is_by_hand(losses):
    """Cross-entropy with the histogram of the return, and the squared error of the prediction."""
    network, _, regress = losses(TINY)
    params = network.init(KEY, OBS[None, :1], jnp.zeros((1, 1), bool))
    raw, returns = jnp.array([[0.3], [-2.0], [0.0]]), jnp.array([[1.2, -0.4, 9.0]])
    after = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3, 17)), jnp.float32)
    terminated = jnp.array([False, False, True])
    sample = sample_of(network, params, raw, 0.0, (returns, after), terminated)
    found, told = regress(sample, TINY.replace(prediction_coef=3.0))
    critic = LatentCritic((16, 16), 21, -5.0, 5.0)
    logits, _, prediction = critic.apply(
        params["critic"], jnp.concatenate([OBS, jnp.tanh(raw)], -1)
    )
    logits, prediction = np.asarray(logits, np.float64), np.asarray(prediction)
    for i, value in enumerate([1.2, -0.4, 5.0]):  # 9 is beyond the grid
        below = norm.cdf((np.linspace(-5.25, 5.25, 22) - value) / (0.75 * 0.5))
        probs = np.diff(below) / (below[-1] - below[0])
        entropy = -(probs * (logits[i] - np.log(np.exp(logits[i]).sum()))).sum()
        error = 0.0 if i == 2 else ((prediction[i] - after[0, i]) ** 2).mean()
        np.testing.assert_allclose(told["prediction_loss"][0, i], error, rtol=1e-4)
        np.testing.assert_allclose(found[0, i], entropy + 3.0 * error, rtol=1e-4)


def test_the_actor_s_loss_is_by_hand_and_moves_no_critic(losses):
    """The old policy's mean is 2 further in the second environment: its KL is beyond the bound."""
    network, climb, _ = losses(TINY.replace(init_alpha=0.5, init_multiplier=3.0))
    params = network.init(KEY, OBS[None, :1], jnp.zeros((1, 1), bool))
    old = jnp.zeros((1, 3, 2)).at[0, 1, 0].set(2.0)
    sample = sample_of(network, params, jnp.zeros((3, 1)), old, None, jnp.zeros(3, bool))
    found, told = climb(sample, TINY)
    mean, spread = np.asarray(sample.outputs[0], np.float64).T
    std = np.log1p(np.exp(spread + 0.5413)) + 1e-3
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (1,)))(sample.keys))[:, 0]
    raw = mean + std * noise
    log_prob = norm(mean, std).logpdf(raw) - np.log(1 - np.tanh(raw) ** 2)
    drawn = jnp.asarray(raw, jnp.float32)[:, None]
    q = network.critic(params, OBS, drawn, jnp.zeros(3)).q
    kl = np.array([0.0, 2.0 / std[1] ** 2, 0.0])  # 2^2 / (2 std^2)
    loss = np.where(kl < 0.1, 0.5 * log_prob - q, 3.0 * kl)
    loss += 0.5 * (-log_prob + 0.5) - 3.0 * (kl - 0.1)  # the target entropy is -0.5
    np.testing.assert_allclose(found[0], loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(told["kl_held"][0], [False, True, False])
    np.testing.assert_allclose(
        (told["alpha"][0, 0], told["multiplier"][0, 0]), (0.5, 3.0), rtol=1e-6
    )
    slope = jax.grad(lambda p: climb(sample.replace(params=p), TINY)[0].sum())(params)
    assert not differ(slope["critic"], jax.tree.map(jnp.zeros_like, slope["critic"]))


def test_the_policy_gradient_goes_through_the_drawn_action(losses):
    """With a little noise it is minus the slope of Q times that of the action."""
    network, climb, _ = losses(TINY)
    params = network.init(KEY, OBS[None, :1], jnp.zeros((1, 1), bool))
    params["critic"]["params"]["start"] = jnp.zeros(21)  # otherwise Q is 0 everywhere at first
    sample = sample_of(network, params, jnp.zeros((3, 1)), 0.0, None, jnp.zeros(3, bool))
    narrow = sample.outputs.at[..., 1].set(-20.0)  # a deviation of 1e-3

    def loss(shift):  # [3], of the means
        moved = narrow.at[..., 0].add(shift)
        near = sample.replace(outputs=moved, unroll=sample.unroll.replace(outputs=moved))
        silent = jax.tree.map(lambda x: x - 50.0, params["actor"]["log"])  # no multipliers
        muted = params | {"actor": params["actor"] | {"log": silent}}
        return climb(near.replace(params=muted), TINY)[0].sum()

    value = lambda raw: network.critic(params, OBS, raw[:, None], jnp.zeros(3)).q.sum()
    found, expected = jax.grad(loss)(jnp.zeros(3)), -jax.grad(value)(sample.outputs[0, :, 0])
    assert (jnp.abs(expected) > 1e-2).all()
    np.testing.assert_allclose(found, expected, rtol=5e-2, atol=1e-4)


def test_the_policy_learns_the_action_of_each_observation_and_the_critic_its_value(optimised):
    """The reward is -(action - cue / 2)^2 and an episode has one step."""
    learner = module("reppo").make(ENV, TINY)
    state = jax.jit(learner.init)(KEY)
    run = lambda state: jax.lax.scan(lambda s, _: learner.step(s), state, None, 150)
    state, metrics = jax.jit(run)(state)
    assert float(metrics["first_ratio_error"].max()) < 1e-4
    policy = learner.policy(state)
    for cue in (-1.0, 1.0):
        obs = jnp.zeros(1 + CLOCK).at[0].set(cue)
        action, _ = policy.act((), obs, KEY)
        np.testing.assert_allclose(action, 0.5 * cue, atol=0.1)
    np.testing.assert_allclose(
        metrics["value"][-20:].mean(), metrics["reward"][-20:].mean(), atol=0.1
    )
    # With little to gain from them, entropy and KL are kept where they are to be.
    assert float(metrics["kl"][-20:].mean()) < 2.0 * TINY.kl_bound
    np.testing.assert_allclose(metrics["entropy"][-20:].mean(), TINY.target_entropy, atol=0.3)


@pytest.mark.parametrize(
    "env, config, message",
    [
        (ENV, TINY.replace(init_alpha=0.0), "init_alpha=0.0: must be above 0"),
        (ENV, TINY.replace(min_return=5.0), "min_return=5.0: must be below max_return=5.0"),
        (ENV, TINY.replace(num_atoms=1), "num_atoms=1: must be at least 2"),
        (ENV, TINY.replace(critic_hidden=()), r"critic_hidden=\(\): must have at least one width"),
        (Probe(discrete=True), TINY, r"action_space=Discrete\(2\): must be continuous"),
        (Probe(bound=jnp.inf), TINY, "action_space has no bounds"),
    ],
)
def test_what_it_cannot_do_is_refused(env, config, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        reppo.make(env, config)
