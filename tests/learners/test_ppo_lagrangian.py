"""PPO-Lagrangian: combined advantages and the multiplier by hand, and a limit that PPO breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import CLOCK, Probe

from jaxrl.learners.on_policy import ppo
from jaxrl.learners.registry import module
from jaxrl.learners.safe import ppo_lagrangian
from jaxrl.loops.unroll import Unroll
from jaxrl.types import Metrics

SHAPES = dict(
    learning_rate=1e-2,
    num_envs=32,
    unroll_length=4,
    num_minibatches=2,
    actor_hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
    normalize_obs=False,
    distribution="normal",
    init_log_std=-1.0,
)
TINY = ppo_lagrangian.Config(**SHAPES, cost_limit=0.2, multiplier_rate=0.5)
# The best action is 0.5 after halving, which costs 0.5.
COSTLY = Probe(pays_goal=1.0, goal=0.5, signals=True)


def test_the_advantage_is_that_of_the_reward_less_the_cost():
    """Two steps of one episode; values, returns and costs by hand."""
    config = TINY.replace(gamma=0.5, gae_lambda=1.0, cost_gamma=1.0, cost_gae_lambda=0.5)
    column = lambda *x: jnp.asarray(x, jnp.float32)[:, None]
    unroll = Unroll(
        obs=(), reset=None, raw=None, log_prob=None, outputs=None, final_value=None,
        value=jnp.asarray([[[1.0, 2.0]], [[3.0, 4.0]]]),
        reward=column(1, 2),
        terminated=column(0, 1) > 0,
        truncated=column(0, 0) > 0,
        valid=column(1, 1) > 0,
        discounted=None,
        signals={"cost": column(5, 6)},
    )  # fmt: skip
    next_value = jnp.asarray([[[3.0, 4.0]], [[9.0, 9.0]]])
    advantage, target = ppo_lagrangian.combined(unroll, next_value, jnp.asarray(3.0), config)
    # Reward: 2 - 3 = -1, then (1 + 0.5 * 3 - 1) + 0.5 * -1 = 1.
    # Cost: 6 - 4 = 2, then (5 + 4 - 2) + 0.5 * 2 = 8.
    np.testing.assert_allclose(advantage[:, 0], [(1 - 3 * 8) / 4, (-1 - 3 * 2) / 4])
    np.testing.assert_allclose(target[:, 0], [[2, 10], [2, 6]])


def test_the_multiplier_climbs_above_the_limit_and_stays_at_least_0():
    def after(multiplier, episodes, cost):
        metrics = Metrics(
            sums={"episodes": jnp.asarray(episodes)},
            per_episode={"episode_signal_cost": jnp.asarray(cost)},
        )
        return float(ppo_lagrangian.ascend(jnp.asarray(multiplier), None, metrics, None, TINY)[0])

    assert after(1.0, 4.0, 4 * 0.6) == pytest.approx(1.0 + 0.5 * 0.4)
    assert after(0.05, 4.0, 0.0) == 0.0  # 0.05 - 0.5 * 0.2 < 0
    assert after(1.0, 0.0, 0.0) == 1.0  # no episode ended


def test_an_environment_without_costs_is_refused():
    with pytest.raises(ValueError, match=r"^signals=\[\]: the environment must give a signal"):
        ppo_lagrangian.make(Probe(), TINY)


def trained(learner, iterations):
    """The deterministic action after training, halved as the probe does, and the metrics."""
    state = jax.jit(learner.init)(jax.random.key(0))
    run = lambda state: jax.lax.scan(lambda s, _: learner.step(s), state, None, iterations)
    state, metrics = jax.jit(run)(state)
    action, _ = learner.policy(state).act((), jnp.zeros(1 + CLOCK), jax.random.key(0))
    cost = metrics["episode_signal_cost"] / metrics["episodes"]
    return 0.5 * float(action[0]), float(cost[-20:].mean()), state


def test_the_limit_that_ppo_breaks_is_kept():
    action, cost, _ = trained(ppo.make(COSTLY, ppo.Config(**SHAPES)), 80)
    assert action == pytest.approx(0.5, abs=0.1) and cost > 0.4
    action, cost, state = trained(module("ppo_lagrangian").make(COSTLY, TINY), 150)
    assert cost == pytest.approx(0.2, abs=0.04)
    assert 0.05 < action < 0.3 and state.extra > 0
