"""Q-chunking: its targets by hand, the choice among chunks, plans that are carried out."""

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import CLOCK, Probe

from jaxrl.data import replay
from jaxrl.learners.off_policy import qc
from jaxrl.loops.algorithm import Obs, to_batch
from jaxrl.types import Transition

KEY = jax.random.key(0)
H = 2
LINEAR = qc.Config(
    horizon=H,
    num_samples=4,
    denoise_steps=2,
    num_critics=1,
    layer_norm=False,
    actor_hidden=(),
    critic_hidden=(),
    gamma=0.5,
)


def built(config=LINEAR):
    return by_hand.built(qc, config)


def critic(*weights):
    """Parameters of one critic that is linear in obs and the actions of the chunk."""
    kernel = jnp.asarray(weights, jnp.float32)[None, :, None]
    return {"params": {"VmapMLP_0": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros((1, 1))}}}}


def batch_of(algorithm, config, ages):
    """Windows of two steps of a walk through x = 1, 2, ..., 6 that pays 1 per step. The clock ends
    the episode after x = 3, the task after x = 5."""
    x = np.arange(1, 7, dtype=np.float32)[:, None]
    no = np.zeros((6, 1), bool)
    ring = replay.full(
        Transition(
            obs=x[..., None],
            action=x[..., None] / 10,
            reward=np.ones((6, 1), np.float32),
            next_obs=x[..., None] + 1,
            terminated=x == 5,
            truncated=x == 3,
            valid=~no,
        )
    )
    ages = jnp.asarray(ages)
    window = replay.window(ring, ages, jnp.zeros_like(ages), algorithm.cut.length)
    return to_batch(
        config.replace(batch_size=len(ages)),
        algorithm.cut,
        window,
        jax.random.split(KEY, len(ages)),
        KEY,
        None,
    )


@pytest.mark.parametrize(
    ("age", "loss"),
    [
        # Q(x, a) = x, its target is 2 x. From x = 1: 1 + 0.5 + 0.25 * Q'(3) = 3, two away from Q = 1.
        (0, 0.5 * 2.0**2),
        # From x = 4: terminated after two steps, so 1 + 0.5.
        (3, 0.5 * (4.0 - 1.5) ** 2),
        # From x = 5: terminated after one step, so 1, whatever the rest of the chunk.
        (4, 0.5 * (5.0 - 1.0) ** 2),
        # From x = 3: the clock cuts the chunk short, and its value is not known.
        (2, 0.0),
    ],
)
def test_the_target_is_a_return_over_the_whole_chunk_by_hand(age, loss):
    algorithm, agent, config = built()
    agent = agent.replace(
        critic=agent.critic.replace(params=critic(1, 0, 0), target=critic(2, 0, 0))
    )
    _, metrics = algorithm.update.critic(agent, batch_of(algorithm, config, [age]), config)
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-5)


def test_the_target_takes_the_chunk_that_the_critic_prefers():
    """The critic values the second action, the target critic the first action."""
    algorithm, agent, config = built()
    agent = agent.replace(
        critic=agent.critic.replace(params=critic(0, 0, 9), target=critic(0, 1, 0))
    )
    batch = batch_of(algorithm, config, [0])
    _, metrics = algorithm.update.critic(agent, batch, config)
    chunks = drawn(agent, 3.0, batch.key[0])
    value = chunks[chunks[:, 1, 0].argmax(), 0, 0]
    error = 9 * 0.2 - (1.5 + 0.25 * value)
    assert float(metrics["critic_loss"]) == pytest.approx(0.5 * error**2, rel=1e-4)


def drawn(agent, x, key):
    """The chunks of the flow among which the critic chooses. [4, H, 1]"""
    head = qc.flow(LINEAR, 1)
    sample = lambda key: head.sample(agent.actor.params, jnp.full((1, 1), x), key, False)
    return np.asarray(jax.vmap(sample)(jax.random.split(key, 4)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_acting_takes_the_best_of_the_chunks(sign):
    algorithm, agent, config = built()
    params = algorithm.keeps(agent) | {"critic": critic(0, 0, sign)}
    obs = Obs(jnp.full(1, 3.0), jnp.full(1, 3.0))
    _, plan = algorithm.act(params, algorithm.memory(KEY, config), obs, KEY, True)
    chunks = drawn(agent, 3.0, KEY)
    np.testing.assert_allclose(plan.actions, chunks[(sign * chunks[:, 1, 0]).argmax()], rtol=1e-5)


def test_a_plan_is_carried_out_to_its_end_and_then_renewed():
    algorithm, agent, config = built()
    params, plan = algorithm.keeps(agent), algorithm.memory(KEY, config)
    act = jax.jit(lambda plan, x, key: algorithm.act(params, plan, Obs(x, x), key, True))
    plans, actions = [], []
    for i in range(4):
        action, plan = act(plan, jnp.full(1, float(i)), jax.random.key(i))
        actions.append(action)
        plans.append(plan)
    np.testing.assert_array_equal(actions[:2], plans[0].actions)
    np.testing.assert_array_equal(plans[1].actions, plans[0].actions)
    np.testing.assert_array_equal(actions[2:], plans[2].actions)
    assert (plans[2].actions != plans[0].actions).all()
    assert [int(p.age) for p in plans] == [1, 2, 1, 2]


def test_the_flow_imitates_only_the_actions_that_were_taken():
    """From x = 3 one action was taken, so what follows it has no gradient."""
    algorithm, agent, config = built()
    batch = batch_of(algorithm, config, [2])
    assert batch.taken.tolist() == [[True, False]]
    other = batch.replace(action=batch.action.at[:, 1].set(0.9))
    losses = [
        float(algorithm.update.actor(agent, b, config)[1]["actor_loss"])
        for b in (batch, other, batch.replace(action=batch.action.at[:, 0].set(0.9)))
    ]
    assert losses[0] != losses[2]
    head = qc.flow(LINEAR, 1)
    key = jax.random.fold_in(batch.key[0], 1)
    loss = head.loss(agent.actor.params, batch.obs.actor, batch.action[0], batch.taken[0], key)
    assert losses[0] == pytest.approx(float(loss), rel=1e-5)


# --- On a task: the second of two actions is paid -(action - cue)^2 ---

TASK = Probe(length=2.0, pays_goal=1.0, goal_cue=1.0, sees_cue=1.0, sees_clock=1.0)
CONFIG = LINEAR.replace(
    num_envs=16,
    unroll_length=2,
    updates_per_step=8,
    batch_size=64,
    replay_size=16 * 64,
    learning_starts=512,
    num_samples=16,
    num_critics=2,
    actor_hidden=(16,),
    critic_hidden=(32,),
    actor_lr=3e-3,
    critic_lr=3e-3,
    tau=0.1,
    activation="tanh",
)


def test_it_solves_a_task_of_two_steps_and_starts_every_episode_with_a_new_plan():
    learner = qc.make(TASK, CONFIG)

    @jax.jit
    def run(key):
        step = lambda _, state: learner.step(state)[0]
        return jax.lax.fori_loop(0, 100, step, learner.init(key))

    state = run(KEY)
    assert (state.memory.age == H).all()  # every episode has just ended
    policy = learner.policy(state)

    @jax.jit
    def second_action(cue, key):
        obs = lambda t: jnp.append(cue, jax.nn.one_hot(t, CLOCK))
        _, carry = policy.act(policy.init_carry(), obs(0), key)
        return policy.act(carry, obs(1), key)[0][0]

    cues = jnp.tile(jnp.array([-1.0, 1.0]), 32)
    actions = jax.vmap(second_action)(cues, jax.random.split(KEY, 64))
    assert float(((actions - cues) ** 2).mean()) < 0.2  # random actions: 1.33


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="^n_step=3: must be 1, as horizon=2 is it$"):
        qc.make(TASK, CONFIG.replace(n_step=3))
    with pytest.raises(ValueError, match="must be continuous"):
        qc.make(TASK.replace(discrete=True), CONFIG)
