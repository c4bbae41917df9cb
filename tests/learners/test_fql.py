"""FQL: its target and losses by hand, what no gradient reaches, and that it finds the better action."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import CLOCK, Probe, assert_same

from jaxrl.data.dataset import from_arrays
from jaxrl.learners.offline import fql
from jaxrl.nn import heads

KEY = jax.random.key(0)
LINEAR = fql.Config(
    actor_hidden=(), critic_hidden=(), num_critics=2, denoise_steps=2, normalize_obs=False
)


def critic(*weights):
    """Two critics: the first is `weights` . (obs, action), the second three times it."""
    kernel = jnp.asarray(weights, jnp.float32)[None, :, None] * jnp.array([1.0, 3.0])[:, None, None]
    return {"params": {"VmapMLP_0": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros((2, 1))}}}}


def actor(obs, noise, bias):
    kernel = jnp.array([[obs], [noise]])
    return {"params": {"Dense_0": {"kernel": kernel, "bias": jnp.array([bias])}}}


def built(config=LINEAR):
    """The policy is 0.1 obs + 0.2 noise + 0.3. The critics are obs + 2 a; 2 a in the targets."""
    algorithm, agent, traced = by_hand.built(fql, config)
    agent = agent.replace(
        actor=agent.actor.replace(params=actor(0.1, 0.2, 0.3)),
        critic=agent.critic.replace(params=critic(1.0, 2.0), target=critic(0.0, 2.0)),
    )
    return algorithm, agent, traced


BATCH = batch_of([1.0, -1.0], [[0.5], [-0.5]], [1.0, 2.0], [2.0, 3.0], [0.5, 0.0])


def noise_of(keys):
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, (1,)))(keys))[:, 0]


@pytest.mark.parametrize(("pool", "factor"), [("mean", 2.0), ("min", None)])
def test_the_target_asks_the_policy_of_one_step(pool, factor):
    algorithm, agent, traced = built(LINEAR.replace(critic_q=pool))
    _, metrics = jax.jit(algorithm.update.critic)(agent, BATCH, traced)
    action = np.clip(0.1 * np.array([2.0, 3.0]) + 0.2 * noise_of(BATCH.key_pair[0]) + 0.3, -1, 1)
    both = 2.0 * action * np.array([[1.0], [3.0]])
    target = np.array([1.0, 2.0]) + np.array([0.5, 0.0]) * getattr(both, pool)(0)
    q = np.array([1 + 1.0, -1 - 1.0]) * np.array([[1.0], [3.0]])
    assert float(metrics["critic_loss"]) == pytest.approx(((q - target) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_policys_loss_is_by_hand_with_the_same_noise_as_the_flow(normalize):
    config = LINEAR.replace(distill_coef=5.0, normalize_q=normalize)
    algorithm, agent, traced = built(config)
    _, metrics = jax.jit(algorithm.update.actor)(agent, BATCH, traced)
    k_noise = jax.vmap(jax.random.split, out_axes=1)(BATCH.key_pair[1])[1]
    noise, obs = noise_of(k_noise), np.array([1.0, -1.0])
    action = 0.1 * obs + 0.2 * noise + 0.3
    head = fql.flow_of(config, 1)
    each = jax.jit(jax.vmap(head.from_noise, (None, 0, 0)))
    flow = each(agent.flow.params, obs[:, None, None], noise[:, None, None])
    distance = ((action - np.asarray(flow)[:, 0, 0]) ** 2).mean()
    q = (obs + 2 * np.clip(action, -1, 1)) * 2.0  # the mean of one and three times it
    size = np.abs(q).mean() if normalize else 1.0
    assert float(metrics["distill_loss"]) == pytest.approx(distance, rel=1e-4)
    expected = 5.0 * distance - q.mean() / size
    assert float(metrics["actor_loss"]) == pytest.approx(expected, rel=1e-4)


def test_neither_values_nor_the_policy_reach_the_flow():
    algorithm, agent, traced = built()
    other = agent.replace(
        critic=agent.critic.replace(params=critic(-5.0, 7.0)),
        actor=agent.actor.replace(params=actor(0.0, 0.0, -0.7)),
    )
    flows = [jax.jit(algorithm.update.actor)(a, BATCH, traced)[0].flow for a in (agent, other)]
    assert_same(*flows)
    assert float(jnp.abs(flows[0].params["params"]["MLP_0"]["Dense_0"]["kernel"]).max()) > 0


@pytest.mark.parametrize("process", [heads.FLOW, heads.DIFFUSION])
def test_a_sample_is_the_map_of_its_noise(process):
    head = heads.denoising(process, heads.FlatTrunk((), 1), 2, 1, 3, False)
    params, obs = head.init(KEY, jnp.ones((1, 1))), jnp.ones((1, 1))
    noise = jax.random.normal(jax.random.key(5), (2, 1))
    same = jax.jit(head.from_noise)(params, obs, noise)
    drawn = jax.jit(head.sample)(params, obs, jax.random.key(5), True)
    np.testing.assert_allclose(drawn, same, rtol=1e-6)
    chunk, refine = noise, jax.jit(head.refine)
    for i in range(3):
        level = jnp.full(2, i / 3)
        chunk = refine(params, obs, chunk, level, level + 1 / 3)
    np.testing.assert_allclose(same, jnp.clip(chunk, -1, 1), atol=1e-5)


def test_it_finds_the_best_of_the_actions_in_the_data():
    """Actions are uniform, and an action of 0.5 is paid the most."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (400, 1))
    obs, ends = np.zeros((400, 1 + CLOCK)), np.ones(400, bool)
    dataset = from_arrays(obs, action, -((action[:, 0] - 0.5) ** 2), obs, ends, ~ends)
    config = fql.Config(
        actor_lr=3e-3,
        critic_lr=3e-3,
        distill_coef=0.03,
        denoise_steps=4,
        batch_size=64,
        updates_per_step=300,
        actor_hidden=(32,),
        critic_hidden=(32,),
        normalize_obs=False,
    )
    learner = fql.make(Probe(), config, dataset)
    state, step = learner.init(KEY), jax.jit(learner.step)
    for _ in range(4):
        state, _ = step(state)
    policy = learner.policy(state)
    act = jax.vmap(lambda key: policy.act((), jnp.zeros(1 + CLOCK), key)[0][0])
    error = jnp.abs(act(jax.random.split(KEY, 64)) - 0.5)
    assert float(error.mean()) < 0.2  # of the data: 0.56
