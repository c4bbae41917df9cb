"""Cal-QL: the gap and its bound by hand, returns to go, its target, CQL on a bandit."""

import dataclasses

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import Probe
from scipy.special import logsumexp

from jaxrl.compose.returns_to_go import SIGNAL, to_go, with_returns
from jaxrl.data.dataset import from_arrays
from jaxrl.learners.off_policy import sac
from jaxrl.learners.offline import cal_ql
from jaxrl.loops import off_policy
from jaxrl.ops import conservative
from jaxrl.types import Transition

KEY = jax.random.key(0)
LINEAR = cal_ql.Config(
    actor_hidden=(), critic_hidden=(), num_critics=2, num_actions=2, gamma=0.5, normalize_obs=False
)


# --- The gap ---


def test_the_gap_is_by_hand_and_a_value_below_its_bound_is_not_pushed_down():
    sampled = jnp.array([[[2.0]], [[-1.0]], [[0.5]]])  # [K, C, B]
    log_density = jnp.log(jnp.array([[0.5], [0.25], [1.0]]))
    bound = jnp.array([[-jnp.inf], [1.0], [0.0]])
    data = jnp.array([[0.3]])
    expected = np.log(np.exp(2.0) / 0.5 + np.exp(1.0) / 0.25 + np.exp(0.5)) - 0.3
    found = conservative.gap(sampled, log_density, bound, data)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)
    total = lambda x: conservative.gap(x, log_density, bound, data).sum()
    pushed = np.asarray(jax.grad(total)(sampled)).ravel()
    share = np.exp(np.array([2.0, 1.0, 0.5])) / np.array([0.5, 0.25, 1.0])
    np.testing.assert_allclose(pushed, share / share.sum() * [1, 0, 1], rtol=1e-5)


# --- Returns to go ---

REWARD = np.array([1.0, 2.0, 4.0, 1.0, 3.0, 2.0])


def recorded():
    """Two steps and a termination, two and the clock, two and the end of the recording."""
    flags = np.zeros((6, 1), bool)
    terminated, truncated = flags.copy(), flags.copy()
    terminated[1], truncated[3], truncated[5] = True, True, True
    x = np.zeros((6, 1, 1), np.float32)
    reward = REWARD[:, None].astype(np.float32)
    return Transition(x, x, reward, x, terminated, truncated, ~flags)


@pytest.mark.parametrize(
    ("unfinished", "expected"),
    [
        # gamma = 1/2; 1 + 2/2 and 2; 4 + 1/2 (+ the same forever: 1 becomes 2), and so on.
        ("zero", [2.0, 2.0, 4.5, 1.0, 4.0, 2.0]),
        ("forever", [2.0, 2.0, 5.0, 2.0, 5.0, 4.0]),
        ("unknown", [2.0, 2.0, -np.inf, -np.inf, -np.inf, -np.inf]),
    ],
)
def test_returns_to_go_end_with_the_episode(unfinished, expected):
    found = to_go(recorded(), LINEAR, unfinished).signals[SIGNAL]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_returns_to_go_are_of_scaled_rewards_and_equal_a_plain_loop():
    config = LINEAR.replace(gamma=0.9, reward_scale=2.0, reward_shift=-1.0)
    rng = np.random.default_rng(0)
    ends = rng.random((50, 1)) < 0.2
    steps = recorded().replace(
        reward=rng.normal(size=(50, 1)), terminated=ends, truncated=np.zeros_like(ends)
    )
    found = to_go(steps, config, "zero").signals[SIGNAL]
    total, expected = 0.0, []
    for reward, end in zip(steps.reward[::-1, 0], ends[::-1, 0], strict=True):
        total = 2.0 * reward - 1.0 + (0.0 if end else 0.9 * total)
        expected.append(total)
    np.testing.assert_allclose(found[:, 0], expected[::-1], rtol=1e-4)


def test_a_batch_holds_the_return_of_its_step_and_minus_infinity_for_collected_ones():
    def watched(config, actions):
        """A method that learns nothing and reports its batch."""

        def update(agent, draw, key, config, learn_actor):
            batch = draw(key)
            return agent, {"bound": batch.signals[SIGNAL], "action": batch.action[:, 0]}

        return dataclasses.replace(cal_ql.algorithm(config, actions), update=update)

    rows, x, action = recorded(), np.zeros((6, 7), np.float32), np.linspace(-1, 1, 6)
    ends = rows.terminated[:, 0], rows.truncated[:, 0]
    dataset = from_arrays(x, action[:, None], REWARD, x, *ends)
    config = cal_ql.Online(
        actor_hidden=(),
        critic_hidden=(),
        num_envs=2,
        batch_size=16,
        learning_starts=0,
        replay_size=8,
        updates_per_step=1,
        prior_ratio=0.5,
        gamma=0.5,
        normalize_obs=False,
    )
    learner = with_returns(off_policy.online(Probe(), config, watched, dataset), "zero")
    metrics = jax.jit(lambda key: learner.step(learner.init(key))[1])(KEY)
    bound, taken = np.asarray(metrics["bound"]), np.asarray(metrics["action"])
    assert (bound[:8] == -np.inf).all()
    row = np.abs(taken[8:, None] - action).argmin(1)
    np.testing.assert_allclose(bound[8:], np.array([2.0, 2.0, 4.5, 1.0, 4.0, 2.0])[row])


# --- The critics ---


def batch(bound=-np.inf):
    rng = np.random.default_rng(0)
    obs, next_obs = rng.normal(size=(2, 3, 1))
    made = batch_of(obs, rng.uniform(-1, 1, (3, 1)), [1.0, 2.0, 3.0], next_obs, [0.5, 0.5, 0.0])
    return made.replace(signals={SIGNAL: jnp.full(3, bound)})


def q_of(params, obs, action):
    """Values [C, B] of the linear critics."""
    layer = params["params"]["VmapMLP_0"]["Dense_0"]
    x = np.concatenate([np.asarray(obs), np.asarray(action)], -1)
    return np.einsum("bi,ci->cb", x, np.asarray(layer["kernel"])[..., 0]) + np.asarray(
        layer["bias"]
    )


def test_with_weight_0_and_one_next_action_the_update_is_that_of_sac():
    config = LINEAR.replace(conservative_coef=0.0, max_target_backup=False)
    algorithm, agent, traced = by_hand.built(cal_ql, config)
    nets = sac.networks(config, 1)
    mine, told = jax.jit(algorithm.update.critic)(agent, batch(), traced)
    other, expected = jax.jit(sac.critic_update(nets))(agent, batch(), traced)
    assert float(told["critic_loss"]) == pytest.approx(float(expected["critic_loss"]), rel=1e-6)
    for x, y in zip(
        jax.tree.leaves(mine.critic.params), jax.tree.leaves(other.critic.params), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("bound", [-np.inf, 100.0])
def test_the_critics_loss_is_by_hand_and_uniform_actions_have_no_bound(bound):
    """Two actions of each kind, and the better of two next actions in the target."""
    algorithm, agent, traced = by_hand.built(cal_ql, LINEAR)
    made = batch(bound)
    _, metrics = jax.jit(algorithm.update.critic)(agent, made, traced)
    nets = sac.networks(LINEAR, 1)
    of = lambda i: jax.vmap(lambda k: jax.random.fold_in(k, i))(made.key)

    @jax.jit
    def drawn(obs, keys):
        many = jax.vmap(lambda k: jax.random.split(k, 2))(keys)
        return [nets.sample(agent.actor.params, obs, many[:, i]) for i in range(2)]

    q = q_of(agent.critic.params, made.obs.critic, made.action)
    following = [
        q_of(agent.critic.target, made.next_obs.critic, action).min(0)
        for action, _ in drawn(made.next_obs, made.key_pair[0])
    ]
    target = np.asarray(made.reward) + np.asarray(made.discount) * np.max(following, 0)
    uniform = jax.vmap(lambda k: jax.random.uniform(k, (2, 1), minval=-1.0))(of(1))
    terms = [
        q_of(agent.critic.params, made.obs.critic, uniform[:, i]) + np.log(2.0) for i in range(2)
    ]
    for action, log_prob in drawn(made.obs, of(2)) + drawn(made.next_obs, of(3)):
        value = q_of(agent.critic.params, made.obs.critic, action)
        terms.append(np.maximum(value, bound) - np.asarray(log_prob))
    gap = logsumexp(np.stack(terms), 0) - q
    assert float(metrics["conservative_gap"]) == pytest.approx(gap.mean(), rel=1e-4)
    loss = 0.5 * (((q - target) ** 2).mean() + 5.0 * gap.mean())
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)


def test_an_arm_that_was_never_pulled_is_worth_less_than_the_one_that_was():
    """One state; the data hold action 0.5 alone, which pays 1. Without the gap nothing is said of -0.5."""
    config = LINEAR.replace(
        critic_hidden=(16,), num_critics=1, target_critics=1, critic_lr=1e-2, calibrate=False
    )
    algorithm, agent, _ = by_hand.built(cal_ql, config)
    made = batch_of([0.0] * 8, [[0.5]] * 8, [1.0] * 8, [0.0] * 8, [0.0] * 8)
    made = made.replace(signals={SIGNAL: jnp.full(8, -jnp.inf)})

    @jax.jit
    def values(weight):
        numbers = jax.tree.map(jnp.asarray, config.replace(conservative_coef=weight))

        def one(agent, i):
            keys = jax.vmap(lambda k: jax.random.fold_in(k, i))(made.key)
            return algorithm.update.critic(agent, made.replace(key=keys), numbers)[0], None

        trained = jax.lax.scan(one, agent, jnp.arange(10, 310))[0]
        arms = jnp.array([[0.0, 0.5], [0.0, -0.5]])
        return sac.critics(config).apply(trained.critic.params, arms)[0, :, 0]

    seen, unseen = values(0.5)
    assert seen - unseen > 1.0
    seen, unseen = values(0.0)
    assert seen == pytest.approx(1.0, abs=0.05) and abs(seen - unseen) < 1.0
