"""Recurrent SAC: what a memory sees, where gradients stop, and a task that needs a memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, assert_same

from jaxrl.data import replay
from jaxrl.episodes import evaluate
from jaxrl.learners.off_policy import recurrent_sac, sac
from jaxrl.loops.algorithm import Columns, Obs, across, to_batch
from jaxrl.types import Transition

KEY = jax.random.key(0)
SMALL = dict(
    num_envs=16,
    unroll_length=2,
    updates_per_step=4,
    replay_size=16 * 128,
    learning_starts=64,
    gamma=0.9,
    tau=0.1,
    actor_lr=3e-3,
    critic_lr=3e-3,
    init_alpha=1e-3,
    alpha_lr=0.0,
    actor_hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
)
GRU = recurrent_sac.Config(**SMALL, batch_size=16, burn_in=2, trained=4, memory_width=8)
TRANSFORMER = GRU.replace(memory="transformer", context=3)
BOTH = pytest.mark.parametrize("config", [GRU, TRANSFORMER], ids=["gru", "transformer"])
B, L, F = 2, 6, 2  # windows of six steps, of which the first two fill the memory
RNG = np.random.default_rng(0)
X, AFTER = (RNG.normal(size=(B, L, 3)).astype(np.float32) for _ in range(2))
BEGINS = np.zeros((B, L), bool)
BEGINS[0, 3] = True  # window 0 has the first step of an episode at 3


@functools.cache
def memory_of(config):
    memory = recurrent_sac.memory_of(config)
    x, no = jnp.zeros((1, 1, 3)), jnp.zeros((1, 1), bool)
    return memory, memory.init(KEY, memory.start(1), x, no)


def known(config, x, after=None, begins=BEGINS, params=None):
    """What is known at the samples. [B, trained, ...]"""
    memory, start = memory_of(config)
    obs = lambda x: None if x is None else Obs(x, x)
    windows = recurrent_sac.Windows(obs(x), begins, obs(after), F)
    params = start if params is None else params
    out = recurrent_sac.remembered(memory, params, windows, "actor")
    return out.reshape(B, L - F, -1)


def step_by_step(config, x, after):
    """The same by one step after the other, with an empty memory wherever an episode begins."""
    memory, params = memory_of(config)
    no, found = np.zeros((1,), bool), np.zeros((B, L - F, 3 + config.memory_width))
    one = jax.jit(lambda carry, x: memory.apply(params, carry, x[None], no))
    for b in range(B):
        carry = memory.start()
        for t in range(L):
            carry = memory.start() if BEGINS[b, t] else carry
            carry, out = one(carry, x[b, t])
            if after is not None:
                out = one(carry, after[b, t])[1]
            if t >= F:
                found[b, t - F] = [*(x if after is None else after)[b, t], *out[0]]
    return found


@pytest.mark.parametrize("after", [None, AFTER], ids=["at the step", "after the step"])
@BOTH
def test_samples_are_known_by_the_steps_of_their_episode_one_by_one(config, after):
    """`after` is no observation of the window, as where a clock ended an episode."""
    expected = step_by_step(config, X, after)
    np.testing.assert_allclose(known(config, X, after), expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_no_memory_crosses_the_start_of_an_episode(config):
    other = X.copy()
    other[:, :3] += 1.0
    one, two = known(config, X), known(config, other)
    np.testing.assert_array_equal(one[0, 1:], two[0, 1:])  # steps 3 .. 5 of window 0
    assert (one[1, 1] != two[1, 1]).any()  # window 1 remembers


@BOTH
def test_burn_in_fills_the_memory_and_gets_no_gradient(config):
    memory, params = memory_of(config)
    none = np.zeros((B, L), bool)
    loss = lambda params, x: (known(config, x, begins=none, params=params)[..., 3:] ** 2).sum()
    of_params, of_x = jax.jit(jax.grad(loss, (0, 1)))(params, X)
    np.testing.assert_array_equal(of_x[:, :F], 0.0)
    assert (of_x[:, F:] != 0).any()
    time_major = lambda x: jnp.moveaxis(x, 1, 0)
    x, none = time_major(X), time_major(none)
    carry, _ = memory.apply(params, memory.start(B), x[:F], none[:F])  # now a constant
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(carry))
    from_there = lambda params: (memory.apply(params, carry, x[F:], none[F:])[1] ** 2).sum()
    assert_same(of_params, jax.jit(jax.grad(from_there))(params), rtol=1e-4, atol=1e-5)


def test_a_batch_of_windows_by_hand():
    """A walk through x = 1 .. 8. The clock ends an episode at 3, the task at 5; 7 is not finite."""
    x = np.arange(1, 9, dtype=np.float32)[:, None]
    ring = replay.full(
        Transition(
            obs=x[..., None],
            action=x[..., None] / 10,
            reward=x,
            next_obs=10 * x[..., None],
            terminated=x == 5,
            truncated=(x == 3) | (x == 7),
            valid=x != 7,
        )
    )
    config = GRU.replace(batch_size=200, gamma=0.5, reward_scale=2.0)
    algorithm = recurrent_sac.algorithm(config, recurrent_sac.spaces.actions(Probe().action_space))
    keys = jax.random.split(KEY, 200)
    columns = Columns(jnp.zeros(200, jnp.int32), 1)
    window = across(ring, keys, columns, algorithm.cut.length)
    batch = to_batch(config, algorithm.cut, window, keys, KEY, None)
    first = np.asarray(batch.obs.actor[:, 0, 0])
    assert set(first) == set(range(1, 9))  # any step starts a window
    for b in range(200):
        steps = np.arange(first[b], first[b] + 6)
        held = steps <= 8
        np.testing.assert_array_equal(batch.taken[b], held & (steps != 7))
        seen = lambda x: np.asarray(x)[b][held].squeeze()  # noqa: B023
        steps = steps[held]
        np.testing.assert_array_equal(seen(batch.obs.actor), steps)
        np.testing.assert_array_equal(seen(batch.next_obs.critic), 10 * steps)
        np.testing.assert_allclose(seen(batch.action), steps / 10, rtol=1e-6)
        np.testing.assert_array_equal(seen(batch.reward), np.where(steps == 7, 0, 2 * steps))
        np.testing.assert_array_equal(seen(batch.discount), np.where(steps == 5, 0.0, 0.5))
        after_an_end = np.isin(steps, [4, 6, 8]) & (np.arange(len(steps)) > 0)
        np.testing.assert_array_equal(seen(batch.begins), after_an_end)


def test_an_update_sees_every_trained_step_as_a_sample():
    config = jax.tree.map(jnp.asarray, GRU.replace(batch_size=B, burn_in=F, trained=L - F))
    seen = []

    def update(agent, batch, config):
        seen.append(batch)
        return agent, {}

    number = jnp.arange(B * L, dtype=jnp.float32).reshape(B, L)
    obs = Obs(X, X)
    batch = recurrent_sac.Batch(
        obs, number[..., None], number, obs, number, jnp.ones(B, bool), number != 3, {},
        jax.random.split(KEY, B), KEY, BEGINS,
    )  # fmt: skip
    recurrent_sac.on_samples(update)(None, batch, config)
    (samples,) = seen
    expected = np.array([2, 3, 4, 5, 8, 9, 10, 11])
    np.testing.assert_array_equal(samples.reward, expected)
    np.testing.assert_array_equal(samples.action[:, 0], expected)
    np.testing.assert_array_equal(samples.valid, expected != 3)
    assert float(samples.mean(samples.reward)) == (expected.sum() - 3) / 8
    keys = jax.random.key_data(samples.key)
    assert len(np.unique(keys, axis=0)) == 8
    assert samples.next_obs.after is obs and samples.obs.after is None


# --- A task that needs a memory ---

# The cue is seen at the first step, and the last of three steps pays for showing it.
RECALL = Probe(length=3.0, sees_cue_at_first=1.0, sees_clock=1.0, pays_goal=1.0, goal_cue=0.8)


def learned_return(module, config, iterations):
    learner = module.make(RECALL, config)

    @jax.jit
    def run(key):
        return jax.lax.fori_loop(
            0, iterations, lambda _, state: learner.step(state)[0], learner.init(key)
        )

    @jax.jit
    def score(state, keys):
        return evaluate(RECALL, learner.policy(state), keys, max_steps=5)["return"].mean()

    return float(score(run(KEY), jax.random.split(jax.random.key(1), 64)))


def test_only_a_memory_recalls_the_first_observation():
    assert learned_return(recurrent_sac, GRU, 150) > -0.1
    assert learned_return(sac, sac.Config(**SMALL, batch_size=64), 50) < -0.5  # -0.64 by showing 0


# --- Settings ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_step": 3}, "^n_step=3: must be 1"),
        ({"prior_ratio": 0.5}, "^prior_ratio=0.5: must be 0"),
        ({"memory": "transformer", "attention_heads": 3}, "^memory_width=8: .*attention_heads=3"),
        ({"burn_in": 100, "trained": 29}, "^replay_size=2048: .*129"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recurrent_sac.make(RECALL, GRU.replace(**changes))
