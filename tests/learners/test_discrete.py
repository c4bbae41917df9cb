"""DQN and discrete SAC: their losses by hand, exploration, and a task that they solve."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import CLOCK, Probe

import envs
from envs.types import Discrete
from jaxrl.data import dataset as data
from jaxrl.learners import registry
from jaxrl.learners.off_policy import discrete_sac, dqn
from jaxrl.loops.algorithm import Obs

KEY = jax.random.key(0)
LINEAR_DQN = dqn.Config(hidden=(), learning_rate=0.0)
LINEAR_SAC = discrete_sac.Config(
    actor_hidden=(), critic_hidden=(), init_alpha=0.5, target_entropy=0.98, critic_lr=0.0
)


def linear(weights):
    """Parameters of a network without hidden layers whose outputs are `weights` times obs [1]."""
    kernel = jnp.asarray(weights, jnp.float32)[..., None, :]
    return {
        "Dense_0": {"kernel": kernel, "bias": jnp.zeros((*kernel.shape[:-2], kernel.shape[-1]))}
    }


def built(module, config):
    return by_hand.built(module, config, actions=Discrete(2))


# --- DQN ---

BATCH = batch_of([1.0, 1.0], [0, 1], [1.0, 0.0], [1.0, -1.0], [0.5, 0.0])


def with_values(agent, params, target):
    net = lambda weights: {"params": linear(weights)}
    return agent.replace(critic=agent.critic.replace(params=net(params), target=net(target)))


@pytest.mark.parametrize(
    ("double", "loss"),
    [
        # Q is (1, 2) obs, its target (3, 1) obs. The target of the first sample is 1 + 0.5 * 1, as Q
        # prefers the second action, that of the second is 0. Huber losses of 0.5 and 2.
        (True, (0.125 + 1.5) / 2),
        (False, (1.0 + 1.5) / 2),  # 1 + 0.5 * 3: an error of 1.5
    ],
)
def test_the_loss_of_dqn_by_hand(double, loss):
    algorithm, agent, config = built(dqn, LINEAR_DQN.replace(double=double))
    agent = with_values(agent, [1.0, 2.0], [3.0, 1.0])
    _, metrics = algorithm.update.update(agent, BATCH, config)
    assert float(metrics["critic_loss"]) == pytest.approx(loss)
    assert float(metrics["q"]) == pytest.approx(1.5)


def test_dueling_values_are_the_value_and_centred_advantages():
    _, values = dqn.values(LINEAR_DQN.replace(dueling=True), 2)
    q = values({"params": linear([1.0, 2.0, 4.0])}, jnp.ones((1, 1)))  # V = 1, A = 2 and 4
    np.testing.assert_allclose(q, [[0.0, 2.0]])


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_the_target_follows_every_so_many_updates(tau):
    algorithm, agent, config = built(dqn, LINEAR_DQN.replace(target_every=2, tau=tau))
    agent = with_values(agent, [1.0, 2.0], [3.0, 1.0])
    kernel = lambda agent: agent.critic.target["params"]["Dense_0"]["kernel"][0]
    agent, _ = algorithm.update.update(agent, BATCH, config)
    np.testing.assert_allclose(kernel(agent), [3.0, 1.0])
    agent, _ = algorithm.update.update(agent, BATCH, config)
    np.testing.assert_allclose(kernel(agent), [3.0 - 2.0 * tau, 1.0 + tau])


def test_epsilon_falls_linearly_over_environment_steps():
    config = dqn.Config(
        num_envs=4, unroll_length=2, updates_per_step=4, epsilon_end=0.2, epsilon_steps=100.0
    )  # an update for every 2 steps
    shares = [float(dqn.epsilon(jnp.asarray(u), config)) for u in (0, 25, 50, 10**9)]
    assert shares == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_a_share_epsilon_of_the_actions_is_random_while_collecting():
    algorithm, agent, config = built(dqn, LINEAR_DQN.replace(epsilon_start=0.6, epsilon_end=0.6))
    agent = with_values(agent, [1.0, 2.0], [0.0, 0.0])
    obs = Obs(jnp.ones(1), jnp.ones(1))
    explore = jax.vmap(lambda key: algorithm.explore(agent, (), obs, key, config)[0])
    actions = explore(jax.random.split(KEY, 4000))
    assert actions.dtype == jnp.int32
    assert actions.mean() == pytest.approx(0.4 + 0.6 / 2, abs=0.04)
    assert algorithm.act(algorithm.keeps(agent), (), obs, KEY, False)[0] == 1


# --- Discrete SAC ---

PI = np.array([0.25, 0.75])
ENTROPY = -(PI * np.log(PI)).sum()


def soft_agent(agent):
    """At obs = 1: the policy is `PI`, the critics say (0, 1) and (0, 2), their targets (1, 3) and
    (2, 1)."""
    critics = lambda weights: {"params": {"VmapMLP_0": linear(weights)}}
    critic = agent.critic.replace(
        params=critics([[0.0, 1.0], [0.0, 2.0]]), target=critics([[1.0, 3.0], [2.0, 1.0]])
    )
    actor = agent.actor.replace(params={"params": linear([0.0, np.log(3.0)])})
    return agent.replace(actor=actor, critic=critic)


SOFT = batch_of([1.0], [1], [1.0], [1.0], [0.5])


def test_the_critic_loss_of_discrete_sac_by_hand():
    """The lower target is 1 for both actions, so the soft value is 1 + alpha H."""
    algorithm, agent, config = built(discrete_sac, LINEAR_SAC)
    _, metrics = algorithm.update.critic(soft_agent(agent), SOFT, config)
    target = 1.0 + 0.5 * (1.0 + 0.5 * ENTROPY)
    loss = 0.5 * np.mean([(1.0 - target) ** 2, (2.0 - target) ** 2])
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["q"]) == pytest.approx(1.5)


def test_the_actor_loss_of_discrete_sac_by_hand_and_its_temperature():
    """The lower value is 0 and 1. The entropy is below 0.98 log 2, so the temperature rises."""
    algorithm, agent, config = built(discrete_sac, LINEAR_SAC)
    new, metrics = algorithm.update.actor(soft_agent(agent), SOFT, config)
    assert float(metrics["actor_loss"]) == pytest.approx(-0.5 * ENTROPY - 0.75, rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(ENTROPY, rel=1e-5)
    gradient = 0.5 * (ENTROPY - 0.98 * np.log(2))
    assert float(new.log_alpha.opt.mu) == pytest.approx(0.1 * gradient, rel=1e-3)
    assert new.log_alpha.params > np.log(0.5)


# --- Both on tasks ---

# At its last step an episode pays 1 for the action that the cue asks for and -3 for the other.
TASK = Probe(length=2.0, pays=1.0, pays_goal=1.0, goal_cue=1.0, sees_cue=1.0, discrete=True)
TASK = TASK.replace(sees_clock=1.0)
SHAPES = dict(
    num_envs=16,
    unroll_length=2,
    updates_per_step=8,
    batch_size=64,
    replay_size=16 * 64,
    learning_starts=64,
    gamma=0.9,
    activation="tanh",
)
DQN = dqn.Config(**SHAPES, hidden=(16,), learning_rate=3e-3, target_every=16, epsilon_steps=1e3)
SAC = discrete_sac.Config(
    **SHAPES, actor_hidden=(16,), critic_hidden=(16,), actor_lr=3e-3, critic_lr=3e-3, tau=0.1
).replace(init_alpha=0.01, alpha_lr=0.0)


def seen(cue, clock):
    return jnp.append(jnp.asarray(cue), jax.nn.one_hot(clock, CLOCK))


def trained(module, config, iterations=120):
    learner = module.make(TASK, config)

    @jax.jit
    def run(key):
        step = lambda _, state: learner.step(state)[0]
        return jax.lax.fori_loop(0, iterations, step, learner.init(key))

    return learner, run(KEY)


def chosen(learner, state):
    policy = learner.policy(state)
    return [int(policy.act((), seen(cue, 1), KEY)[0]) for cue in (-1.0, 1.0)]


@pytest.mark.parametrize("dueling", [False, True])
def test_dqn_learns_the_values_of_both_actions(dueling):
    learner, state = trained(dqn, DQN.replace(dueling=dueling))
    assert chosen(learner, state) == [0, 1]
    _, values = dqn.values(learner.config, 2)
    q = np.array([values(state.agent.critic.params, seen(1.0, t)) for t in (0, 1)])
    np.testing.assert_allclose(q, [[1.9, 1.9], [-3.0, 1.0]], atol=0.25)


def test_discrete_sac_learns_what_the_cue_asks_for():
    learner, state = trained(discrete_sac, SAC)
    assert chosen(learner, state) == [0, 1]


@pytest.mark.parametrize("name", ["dqn", "discrete_sac"])
def test_they_are_learners_of_cartpole_and_refuse_continuous_actions(name):
    module = registry.module(name)
    config = module.Config(num_envs=4, learning_starts=8, updates_per_step=1, replay_size=64)
    learner = module.make(envs.make("gymnax/CartPole-v1"), config)
    state = jax.eval_shape(learner.init, KEY)
    assert state.replay.steps.action.dtype == jnp.int32
    assert state.replay.steps.action.shape == (16, 4)
    assert "critic_loss" in jax.eval_shape(learner.step, state)[1]
    with pytest.raises(ValueError, match="^action_space: has 1 real entries, must be Discrete$"):
        module.make(Probe(), config)


def test_recorded_integers_are_mixed_into_the_batches():
    rows = 40
    obs = np.zeros((rows, 1 + CLOCK))
    action = np.arange(rows) % 2
    ends = np.arange(rows) % 2 == 1
    recorded = data.from_arrays(obs, action, action, obs, ends, ~ends & False)
    learner = dqn.make(TASK, DQN.replace(prior_ratio=0.5), recorded)
    assert learner.data[0].action.dtype == np.int32
    shapes = jax.eval_shape(learner.step, jax.eval_shape(learner.init, KEY))
    assert "critic_loss" in shapes[1]
