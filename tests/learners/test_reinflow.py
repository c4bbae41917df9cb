"""ReinFlow: the likelihood of a chain by hand, the flow inside, and a probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import CLOCK, Probe
from scipy.stats import norm

from jaxrl.learners.on_policy import reinflow
from jaxrl.learners.registry import module
from jaxrl.nn import heads

TINY = reinflow.Config(
    learning_rate=3e-3,
    num_envs=32,
    unroll_length=4,
    num_minibatches=2,
    num_steps=2,
    flow_hidden=(16,),
    noise_hidden=(8,),
    critic_hidden=(16,),
    normalize_obs=False,
)
ENV = Probe(pays_goal=1.0, goal=0.5)
OBS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1 + CLOCK)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), 3)


@pytest.fixture(scope="module")
def parts():
    network, actor = reinflow.networks(ENV, TINY)
    return network.init(jax.random.key(0), OBS[None, :1], jnp.zeros((1, 1), bool)), actor


def test_the_log_probability_is_that_of_the_chain_by_hand(parts):
    """K = 2, every layer written out, against scipy."""
    params, actor = parts
    chain, _ = actor.sample(params, OBS, KEYS)
    assert chain.shape == (3, 3, 1)
    gelu = lambda x: np.asarray(jax.nn.gelu(x))
    weights = lambda tree: [(np.asarray(x["kernel"]), np.asarray(x["bias"])) for x in tree]
    flow = params["flow"]["params"]["MLP_0"]
    (w0, b0), (w1, b1) = weights([flow["Dense_0"], flow["Dense_1"]])
    noise = params["noise"]["params"]
    (u0, c0), (u1, c1) = weights([noise["Dense_0"], noise["Dense_1"]])
    expected, entropy = np.zeros(3), np.zeros(3)
    for i, obs in enumerate(np.asarray(OBS)):
        for k in range(2):
            angle = k / 2 * np.pi * np.array([1, 2, 4, 8])
            waves = np.concatenate([np.sin(angle), np.cos(angle)])
            x = np.concatenate([obs, chain[i, k], waves])
            mean = chain[i, k] + (gelu(x @ w0 + b0) @ w1 + b1) / 2
            spread = np.tanh(np.tanh(np.concatenate([obs, waves]) @ u0 + c0) @ u1 + c1)
            std = 0.08 * (0.2 / 0.08) ** ((spread + 1) / 2)
            expected[i] += norm(mean, std).logpdf(np.asarray(chain[i, k + 1])).sum()
            entropy[i] += norm(mean, std).entropy().sum()
    log_prob, ent = actor.evaluate(params, OBS[None], chain[None], KEYS)
    np.testing.assert_allclose(log_prob[0], expected, rtol=1e-4)
    np.testing.assert_allclose(ent[0], entropy, rtol=1e-4)


def test_the_log_probability_of_a_drawn_chain_is_the_one_summed_while_drawing(parts):
    params, actor = parts
    chain, log_prob = actor.sample(params, OBS, KEYS)
    again, _ = actor.evaluate(params, OBS[None], chain[None], KEYS)
    np.testing.assert_allclose(again[0], log_prob, atol=1e-6)


def test_without_noise_the_chain_is_that_of_the_flow_it_began_with(parts):
    head = heads.denoising(heads.FLOW, heads.FlatTrunk((16,), 1), 1, 1, 2, streaming=False)
    flow = head.init(jax.random.key(5), OBS[:1])
    network, actor = reinflow.networks(ENV, TINY, flow)
    params = network.init(jax.random.key(0), OBS[None, :1], jnp.zeros((1, 1), bool))
    chain = actor.mode(params, OBS, KEYS)
    for i in range(3):
        action = chain[i, :1]
        for k in range(2):
            level = jnp.full(1, k / 2)
            action = head.refine(flow, OBS[i : i + 1], action, level, level + 0.5)
        np.testing.assert_allclose(chain[i, -1:], action, atol=1e-6)
    np.testing.assert_allclose(actor.to_env(chain), np.clip(chain[:, -1], -1, 1))


def test_the_flow_learns_the_better_action():
    learner = module("reinflow").make(ENV, TINY)
    state = jax.jit(learner.init)(jax.random.key(0))
    run = lambda state: jax.lax.scan(lambda s, _: learner.step(s), state, None, 100)
    state, metrics = jax.jit(run)(state)
    assert float(metrics["first_ratio_error"].max()) < 1e-4
    policy, obs = learner.policy(state), jnp.zeros(1 + CLOCK)
    act = jax.vmap(lambda key: policy.act((), obs, key)[0])
    actions = act(jax.random.split(jax.random.key(2), 32))
    assert float(jnp.abs(actions - 0.5).mean()) < 0.2


@pytest.mark.parametrize(
    "env, config, message",
    [
        (ENV, TINY.replace(min_std=0.0), "min_std=0.0: must be above 0"),
        (ENV, TINY.replace(min_std=0.3), "min_std=0.3: must be at most max_std=0.2"),
        (Probe(discrete=True), TINY, r"action_space=Discrete\(2\): must be continuous"),
    ],
)
def test_what_it_cannot_do_is_refused(env, config, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        reinflow.make(env, config)
