"""EXPO: candidates, edits and targets by hand; the base without edits; a probe."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import Probe, assert_same

from jaxrl.learners.off_policy import expo
from jaxrl.loops.algorithm import Obs

KEY = jax.random.key(0)
LINEAR = expo.Config(
    actor_hidden=(),
    critic_hidden=(),
    base_hidden=(),
    num_critics=2,
    num_samples=3,
    denoise_steps=2,
    edit_scale=0.4,
    actor_out_scale=1.0,
)
BATCH = batch_of([1.0, -1.0], [[0.9], [-0.5]], [1.0, 2.0], [2.0, 3.0], [0.5, 0.0])


def critic(*weights):
    """Two critics: `weights` . (obs, action), and the same plus 1."""
    kernel = jnp.tile(jnp.asarray(weights, jnp.float32)[None, :, None], (2, 1, 1))
    bias = jnp.array([[0.0], [1.0]])
    return {"params": {"VmapMLP_0": {"Dense_0": {"kernel": kernel, "bias": bias}}}}


def built(config=LINEAR):
    """The critics are obs + 4 a, in the targets 2 a."""
    algorithm, agent, traced = by_hand.built(expo, config)
    return (
        algorithm,
        agent.replace(
            critic=agent.critic.replace(params=critic(1.0, 4.0), target=critic(0.0, 2.0))
        ),
        traced,
    )


def candidates(agent, config, x, key):
    """The actions of the base and their edits, one by one. [2, num_samples]"""
    keys = [jax.random.split(k, config.num_samples) for k in jax.random.split(key)]
    sample = lambda key: expo.base_of(config, 1).sample(
        agent.base.target, jnp.full((1, 1), x), key, True
    )
    normal = lambda key: jax.random.normal(key, (1,))
    draw = jax.jit(lambda one, two: (jax.vmap(sample)(one), jax.vmap(normal)(two)))
    base, noise = (np.asarray(x).ravel() for x in draw(*keys))
    layer = agent.actor.params["params"]["Dense_0"]
    found = np.zeros((2, config.num_samples))
    for i in range(config.num_samples):
        inputs = np.array([x, base[i]])
        mean, spread = inputs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        edit = np.tanh(mean + (np.log1p(np.exp(spread + 0.5413)) + 1e-3) * noise[i])
        found[:, i] = base[i], np.clip(base[i] + float(config.edit_scale) * edit, -1, 1)
    return found


def acted(algorithm, agent, obs):
    act = lambda kept, obs: algorithm.act(kept, (), obs, KEY, True)
    return jax.jit(act)(algorithm.keeps(agent), obs)


def test_the_target_takes_the_best_of_actions_and_edits():
    algorithm, agent, traced = built()
    _, metrics = jax.jit(algorithm.update.critic)(agent, BATCH, traced)
    best = candidates(agent, LINEAR, 2.0, BATCH.key_pair[0][0]).max()
    target = np.array([1.0 + 0.5 * 2.0 * best, 2.0])  # the least of the two: without the 1
    q = np.array([1 + 3.6, -1 - 2.0]) + np.array([[0.0], [1.0]])
    loss = 0.5 * ((q - target) ** 2).mean()
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_acting_takes_the_best_and_stays_within_the_bounds(sign):
    config = LINEAR.replace(edit_scale=1.0)
    algorithm, agent, traced = built(config)
    agent = agent.replace(
        critic=agent.critic.replace(target=critic(0.0, sign)), edit_scale=traced.edit_scale
    )
    obs = Obs(jnp.full(1, 2.0), jnp.full(1, 2.0))
    action, _ = acted(algorithm, agent, obs)
    found = candidates(agent, config, 2.0, jax.random.split(KEY)[1])
    assert float(action[0]) == pytest.approx(found.ravel()[(sign * found).argmax()], abs=1e-5)
    assert np.abs(found).max() <= 1.0


def test_one_sample_without_edits_is_the_base():
    config = LINEAR.replace(edit_scale=0.0, num_samples=1)
    algorithm, agent, _ = built(config)
    obs = Obs(jnp.full(1, 2.0), jnp.full(1, 2.0))
    action, _ = acted(algorithm, agent, obs)
    base = candidates(agent, config, 2.0, jax.random.split(KEY)[1])
    np.testing.assert_allclose(action[0], base[0, 0], rtol=1e-5)
    np.testing.assert_array_equal(base[0], base[1])


def test_the_edits_loss_is_by_hand_and_edits_are_clipped():
    algorithm, agent, traced = built(LINEAR.replace(init_alpha=0.3))
    _, metrics = jax.jit(algorithm.update.actor)(agent, BATCH, traced)
    k_edit = jax.vmap(jax.random.split, out_axes=1)(BATCH.key_pair[1])[1]
    layer = agent.actor.params["params"]["Dense_0"]
    obs, action = np.array([1.0, -1.0]), np.array([0.9, -0.5])
    outputs = np.stack([obs, action], 1) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    mean, std = outputs[:, 0], np.log1p(np.exp(outputs[:, 1] + 0.5413)) + 1e-3
    noise = np.asarray(jax.vmap(lambda k: jax.random.normal(k, (1,)))(k_edit))[:, 0]
    raw = mean + std * noise
    log_prob = -0.5 * (noise**2 + np.log(2 * np.pi)) - np.log(std) - np.log(1 - np.tanh(raw) ** 2)
    edited = np.clip(action + 0.4 * np.tanh(raw), -1, 1)
    loss = (0.3 * log_prob - (obs + 4.0 * edited + 0.5)).mean()
    assert float(metrics["actor_loss"]) == pytest.approx(loss, rel=1e-4)


def test_no_value_reaches_the_base():
    algorithm, agent, traced = built()
    other = agent.replace(critic=agent.critic.replace(params=critic(-5.0, 7.0)))
    bases = [jax.jit(algorithm.update.actor)(a, BATCH, traced)[0].base for a in (agent, other)]
    assert_same(*bases)


def test_it_finds_an_action_that_its_base_does_not_know():
    """Prior data are missing: the base imitates what was carried out, and edits lead it on."""
    config = expo.Config(
        num_envs=16,
        unroll_length=2,
        updates_per_step=8,
        policy_delay=4,
        batch_size=64,
        replay_size=16 * 64,
        learning_starts=256,
        num_samples=4,
        denoise_steps=2,
        edit_scale=0.3,
        num_critics=2,
        actor_hidden=(16,),
        critic_hidden=(32,),
        base_hidden=(16,),
        actor_lr=3e-3,
        critic_lr=3e-3,
        base_lr=3e-3,
        base_rate=0.1,
        tau=0.1,
        init_alpha=1e-3,
        alpha_lr=0.0,
    )
    learner = expo.make(Probe(pays_goal=1.0, goal=0.5), config)
    run = lambda state: jax.lax.fori_loop(0, 60, lambda _, s: learner.step(s)[0], state)
    state = jax.jit(run)(learner.init(KEY))
    policy, obs = learner.policy(state), jnp.zeros(7)
    act = jax.vmap(lambda key: policy.act((), obs, key)[0][0])
    error = jnp.abs(act(jax.random.split(KEY, 64)) - 0.5)
    assert float(error.mean()) < 0.15  # of random actions: 0.56
