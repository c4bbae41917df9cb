"""PA-RL: refined actions, targets and imitated actions by hand, its phases, a probe."""

import functools

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import Probe, assert_same, differ
from scipy.special import logsumexp

from jaxrl.compose.returns_to_go import SIGNAL
from jaxrl.data.dataset import from_arrays
from jaxrl.learners.off_policy import pa_rl
from jaxrl.loops.algorithm import Obs
from jaxrl.nn import heads, spaces

KEY = jax.random.key(0)
LINEAR = pa_rl.Config(
    actor_hidden=(),
    critic_hidden=(),
    num_critics=2,
    num_samples=4,
    num_kept=2,
    ascent_steps=3,
    ascent_rate=0.05,
    denoise_steps=2,
    num_actions=1,
    conservative_coef=0.5,
)
KINDS = ("flow", "diffusion", "gaussian")


def critic(*weights):
    """Two critics: `weights` . (obs, action), and three times it."""
    kernel = jnp.asarray(weights, jnp.float32)[None, :, None] * jnp.array([1.0, 3.0])[:, None, None]
    return {"params": {"VmapMLP_0": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros((2, 1))}}}}


def batch(bound=-np.inf):
    made = batch_of([1.0, -1.0], [[0.9], [-0.5]], [1.0, 2.0], [2.0, 3.0], [0.5, 0.0])
    return made.replace(signals={SIGNAL: jnp.full(2, bound)})


def built(config=LINEAR):
    """The critics are on average obs + a, in the targets 2 a."""
    algorithm, agent, traced = by_hand.built(pa_rl, config)
    agent = agent.replace(
        critic=agent.critic.replace(params=critic(0.5, 0.5), target=critic(0.0, 1.0))
    )
    return algorithm, agent, traced


@functools.cache  # the same functions compile once
def of_kind(kind):
    return heads.of_kind(kind, heads.FlatTrunk((), 1), 1, 1, LINEAR.denoise_steps)


def head_of(config):
    return of_kind(config.policy)


def refined(agent, config, x, key, recorded=None):
    """T(s): the gradient of the mean value is 1, so the ascent adds three times the rate."""
    seen, head = jnp.full((1, 1), x, jnp.float32), head_of(config)
    drawn = _drawn(head, agent.actor.params, seen, jax.random.split(key, config.num_samples))
    kept = np.sort(np.asarray(drawn).ravel())[::-1][: config.num_kept]
    kept = kept if recorded is None else np.array([*kept[:-1], recorded])
    return np.clip(kept + 3 * float(config.ascent_rate), -1, 1)


@functools.partial(jax.jit, static_argnums=0)
def _drawn(head, params, seen, keys):
    return jax.vmap(lambda key: head.sample(params, seen, key, False))(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_refined_actions_are_by_hand_for_every_kind_of_policy(kind):
    config = LINEAR.replace(policy=kind)
    algorithm, agent, _ = built(config)
    own = pa_rl.parts(config, spaces.actions(by_hand.LINE))
    obs = Obs(jnp.full(1, 2.0), jnp.full(1, 2.0))
    params = algorithm.keeps(agent)
    expected = refined(agent, config, 2.0, KEY)
    run = jax.jit(lambda recorded: own.refined(params, obs, KEY, recorded))
    np.testing.assert_allclose(run(None)[:, 0], expected, atol=1e-5)
    with_data = run(jnp.array([0.7]))
    np.testing.assert_allclose(with_data[:, 0], refined(agent, config, 2.0, KEY, 0.7), atol=1e-5)
    action, _ = jax.jit(lambda params: algorithm.act(params, (), obs, KEY, True))(params)
    np.testing.assert_allclose(action[0], expected.max(), atol=1e-5)


@pytest.mark.parametrize("bound", [-np.inf, 50.0])
def test_the_critics_loss_is_by_hand(bound):
    algorithm, agent, traced = built()
    made = batch(bound)
    _, metrics = jax.jit(algorithm.update.critic)(agent, made, traced)
    of = lambda i: jax.vmap(lambda k: jax.random.fold_in(k, i))(made.key)
    obs, action = np.array([1.0, -1.0]), np.array([0.9, -0.5])
    factor = np.array([[1.0], [3.0]])
    ahead = np.stack(
        [refined(agent, LINEAR, x, k) for x, k in zip((2, 3), made.key_pair[0], strict=True)]
    )
    here = np.stack([refined(agent, LINEAR, x, k) for x, k in zip(obs, of(1), strict=True)])
    target = np.array([1.0, 2.0]) + np.array([0.5, 0.0]) * (factor * ahead.max(1)).min(0)
    q = 0.5 * factor * (obs + action)
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (1, 1), minval=-1.0))(of(2))[:, 0, 0]
    terms = [0.5 * factor * (obs + np.asarray(uniform))]
    for found in (here, ahead):
        terms += [np.maximum(0.5 * factor * (obs + found[:, i]), bound) for i in range(2)]
    gap = logsumexp(np.stack([*terms, q]), 0) - np.log(6.0) - q
    loss = 0.5 * (((q - target) ** 2).mean() + 0.5 * gap.mean())
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_imitates_the_best_refined_action(kind):
    """At temperature 0. The recorded action takes the place of the least one that was kept."""
    config = LINEAR.replace(policy=kind, temperature=0.0)
    algorithm, agent, traced = built(config)
    made = batch()
    _, metrics = jax.jit(algorithm.update.actor)(agent, made, traced)
    keys = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(made.key_pair[1])
    losses = []
    for i, (x, recorded) in enumerate(((1.0, 0.9), (-1.0, -0.5))):
        best = refined(agent, config, x, keys[0][i], recorded).max()
        chunk, ones = jnp.full((1, 1), best, jnp.float32), jnp.ones(1)
        obs = jnp.full((1, 1), x)
        loss = jax.jit(head_of(config).loss)(agent.actor.params, obs, chunk, ones, keys[2][i])
        losses.append(float(loss))
    assert float(metrics["actor_loss"]) == pytest.approx(np.mean(losses), rel=1e-4)


def test_refined_actions_do_not_depend_on_the_size_of_the_batch():
    """The gradient is that of a sum over the batch, not of a mean."""
    own = pa_rl.parts(LINEAR, spaces.actions(by_hand.LINE))
    algorithm, agent, _ = built()
    params, keys = algorithm.keeps(agent), jax.random.split(KEY, 4)
    obs = Obs(jnp.ones((4, 1)), jnp.ones((4, 1)))
    run = jax.jit(jax.vmap(own.refined, (None, 0, 0)))
    half = jax.tree.map(lambda x: x[:2], obs)
    few, many = run(params, half, keys[:2]), run(params, obs, keys)
    np.testing.assert_allclose(many[:2], few, rtol=1e-6)


def test_each_phase_changes_its_own_networks():
    rng = np.random.default_rng(0)
    obs, ends = rng.normal(size=(20, 7)), np.arange(20) % 5 == 4
    dataset = from_arrays(obs, rng.uniform(-1, 1, (20, 1)), obs[:, 0], obs, ends, ~ends & False)
    config = LINEAR.replace(batch_size=4, updates_per_step=1)
    for make, policy, critics in ((pa_rl.cloning, True, False), (pa_rl.pretraining, False, True)):
        learner = make(Probe(), config, dataset)
        start = learner.init(KEY)
        state, _ = jax.jit(learner.step)(start)
        assert differ(state.agent.actor.params, start.agent.actor.params) == policy
        assert differ(state.agent.critic.params, start.agent.critic.params) == critics
        assert_same(
            jax.tree.map(jnp.shape, state.agent), jax.tree.map(jnp.shape, learner.init(KEY).agent)
        )


def test_a_setting_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^num_kept=5: must be at most num_samples=4"):
        pa_rl.make(Probe(), LINEAR.replace(num_kept=5))
    with pytest.raises(ValueError, match="^num_samples=0: must be a whole number"):
        pa_rl.make(Probe(), LINEAR.replace(num_samples=0))


def test_a_gaussian_policy_learns_from_refined_actions():
    config = pa_rl.Config(
        policy="gaussian",
        num_envs=16,
        unroll_length=2,
        updates_per_step=8,
        batch_size=64,
        replay_size=16 * 64,
        learning_starts=256,
        num_samples=4,
        num_kept=2,
        ascent_steps=2,
        ascent_rate=0.1,
        temperature=0.0,
        num_actions=2,
        num_critics=2,
        actor_hidden=(16,),
        critic_hidden=(32,),
        actor_lr=3e-3,
        critic_lr=3e-3,
        tau=0.1,
    )
    learner = pa_rl.make(Probe(pays_goal=1.0, goal=0.5), config)
    run = lambda state: jax.lax.fori_loop(0, 60, lambda _, s: learner.step(s)[0], state)
    state = jax.jit(run)(learner.init(KEY))
    own = pa_rl.parts(config, spaces.actions(by_hand.LINE))
    obs = Obs(jnp.zeros(7), jnp.zeros(7))
    action, _ = own.sample(pa_rl.keeps(state.agent), (), obs, KEY, True)
    assert float(action[0]) == pytest.approx(0.5, abs=0.2)  # of the policy alone
