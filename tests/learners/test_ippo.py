"""Independent PPO: whose reward moves whose parameters, masks, memory, and a probe of two agents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from probes import Pair, Probe, assert_same, differ

from jaxrl.episodes import evaluate
from jaxrl.learners.multi_agent import ippo
from jaxrl.learners.registry import module
from jaxrl.ops.moments import Moments

TINY = ippo.Config(
    learning_rate=1e-2,
    num_envs=32,
    unroll_length=4,
    num_minibatches=2,
    actor_hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
    normalize_obs=False,
)
SEPARATE = TINY.replace(shared=False)
PAIR = Pair()
KEY = jax.random.key(0)


@struct.dataclass
class Bribed(Pair):
    """Agent 1 is paid `bribe` more for choosing 1."""

    bribe: float = 0.0

    def step(self, state, action):
        new = super().step(state, action)
        return new.replace(reward=new.reward.at[1].add(self.bribe * action[1]))


@pytest.mark.parametrize("config", [TINY, SEPARATE], ids=["shared", "separate"])
def test_only_shared_parameters_mix_the_rewards_of_agents(config):
    """Updates without clipping of gradients: what is agent 1's reward to agent 0?"""
    config = config.replace(max_grad_norm=float("inf"), num_minibatches=1, num_epochs=2)

    @jax.jit
    def updated(env):
        learner = ippo.make(env, config)
        state = learner.init(KEY)
        return state.params, learner.step(state)[0].params

    (before, honest), (same, bribed) = updated(Bribed()), updated(Bribed(bribe=3.0))
    assert_same(before, same)
    if config.shared:
        assert differ(honest, bribed)
        return
    agent = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
    assert_same(agent(honest, 0), agent(bribed, 0))
    assert differ(agent(honest, 1), agent(bribed, 1))
    assert differ(agent(honest, 0), agent(before, 0))


def test_a_masked_action_has_no_probability():
    network, actor = ippo.networks(PAIR, TINY)
    obs = {"obs": jnp.ones((1, 3, 2, 1)), "mask": jnp.ones((1, 3, 2, 2), bool)}
    obs["mask"] = obs["mask"].at[:, :, 0, 1].set(False)  # agent 0 may not choose 1
    reset = jnp.zeros((1, 3), bool)
    params = network.init(KEY, obs, reset)
    obs = Moments.zeros(jax.tree.map(lambda x: x[0, 0], obs)).update(obs, ~reset).normalize(obs)
    _, logits, _ = network.apply(params, (), obs, reset)
    chances = np.asarray(jax.nn.softmax(logits[0]))
    np.testing.assert_array_equal(chances[:, 0], [[1.0, 0.0]] * 3)
    assert (chances[:, 1] > 0).all()
    log_prob, entropy = actor.evaluate(
        params, logits, jnp.zeros((1, 3, 2), int), jax.random.split(KEY, 3)
    )
    assert log_prob.shape == entropy.shape == (1, 3, 2)
    np.testing.assert_array_equal(log_prob[..., 0], 0.0)
    np.testing.assert_array_equal(entropy[..., 0], 0.0)


@pytest.mark.parametrize("shared", [True, False])
def test_recurrent_agents_keep_a_carry_each(shared):
    """Evaluated over time at once, a network gives what it gave step by step."""
    network, _ = ippo.networks(PAIR, TINY.replace(shared=shared, gru_width=5))
    apply = jax.jit(network.apply)
    random = np.random.default_rng(0)
    obs = {"obs": jnp.asarray(random.normal(size=(3, 4, 2, 1)), jnp.float32)}
    reset = jnp.asarray(random.uniform(size=(3, 4)) < 0.3)
    params = jax.jit(network.init)(KEY, jax.tree.map(lambda x: x[:1, :1], obs), reset[:1, :1])
    carry = network.init_carry(4)
    assert {x.shape for x in jax.tree.leaves(carry)} == {(4, 2, 5)}
    last, outputs, value = apply(params, carry, obs, reset)
    assert outputs.shape == (3, 4, 2, 2) and value.shape == (3, 4, 2)
    for t in range(3):
        now = jax.tree.map(lambda x, t=t: x[t : t + 1], obs)
        carry, out, one = apply(params, carry, now, reset[t : t + 1])
        np.testing.assert_allclose(out[0], outputs[t], atol=1e-6)
        np.testing.assert_allclose(one[0], value[t], atol=1e-6)
    assert_same(carry, last, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, SEPARATE], ids=["shared", "separate"])
def test_each_agent_learns_to_follow_its_cue(config):
    env = Pair(length=2.0, pays_own=1.0, pays_team=0.5)
    learner = module("ippo").make(env, config)

    @jax.jit
    def trained(key):
        return jax.lax.scan(lambda s, _: learner.step(s), learner.init(key), None, 60)

    state, metrics = trained(KEY)
    assert float(metrics["first_ratio_error"].max()) < 1e-5
    keys = jax.random.split(KEY, 64)
    cues = np.asarray(jax.vmap(env.reset)(keys).obs["state"])
    best = 2 * (1.0 + 0.5 * (cues[:, 0] == cues[:, 1]))
    returns = jax.jit(lambda state: evaluate(env, learner.policy(state), keys)["return"])(state)
    np.testing.assert_allclose(returns, best)


def test_an_environment_of_one_agent_is_refused():
    with pytest.raises(ValueError, match="^num_agents=None: the environment must have an agent"):
        ippo.make(Probe(), TINY)
