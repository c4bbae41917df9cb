"""Evaluation counts every episode once, exactly, and nothing after its end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from envs.transforms import residual, time_limit
from envs.types import Box, State, first_state
from jaxrl.data import describe, recording
from jaxrl.data.recording import record
from jaxrl.episodes import evaluate, film, summarize
from jaxrl.types import Policy

N = 12
KEYS = jax.random.split(jax.random.key(0), N)


@struct.dataclass
class Walk:
    """x grows by 1 + action at each step and pays itself; an episode ends above `edge`.

    Where `breaks` it is NaN from the first x above `breaks` on. Nothing is finite after
    the end: a step from beyond the edge gives NaN.
    """

    edge: float = 6.0
    breaks: float = np.inf
    terminates: bool = struct.field(pytree_node=False, default=True)

    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        x = jax.random.uniform(key, (), minval=0.0, maxval=4.0)
        return first_state(x, x[None], {"reward_x": jnp.zeros(()), "x": x})

    def step(self, state: State, action: jax.Array) -> State:
        x = jnp.where(state.data > self.edge, jnp.nan, state.data + 1.0 + action[0])
        x = jnp.where(x > self.breaks, jnp.nan, x)
        ended = x > self.edge
        return state.replace(
            data=x,
            obs=x[None],
            reward=x,
            terminated=ended & self.terminates,
            truncated=ended & (not self.terminates),
            metrics={"reward_x": x, "x": x},
        )


def scripted() -> Policy:
    """Adds 0.1 times the number of steps so far, and noise unless deterministic."""

    def act(scale: Any, carry, obs, key, deterministic):
        noise = 0.0 if deterministic else 0.05 * jax.random.normal(key)
        return jnp.array([scale * carry + noise]), carry + 1

    return Policy(jnp.float32(0.1), lambda: jnp.zeros((), jnp.int32), act)


POLICY = scripted()


jitted = jax.jit(evaluate, static_argnames=("deterministic", "max_steps"))


def evaluated(env, keys=KEYS, deterministic=True, max_steps=10):
    return jitted(env, POLICY, keys, deterministic, max_steps)


def by_hand(env, key, max_steps=10):
    """One episode in a plain loop: return, length, terminated, nonfinite, sums, last x."""
    state = env.reset(key)
    x, total, length = np.float32(state.data), 0.0, 0
    for t in range(max_steps):
        new = np.float32(x + 1.0 + np.float32(0.1) * t)
        if new > env.breaks:
            return total, length, False, True, x
        x, total, length = new, total + new, length + 1
        if x > env.edge:
            return total, length, env.terminates, False, x
    return total, length, False, False, x


@pytest.mark.parametrize("env", [Walk(), Walk(breaks=4.0), Walk(edge=1e9)])
def test_episodes_are_those_of_a_plain_loop(env):
    episodes = evaluated(env)
    rows = [by_hand(env, key) for key in KEYS]
    for name, column in zip(
        ("return", "length", "terminated", "nonfinite"), list(zip(*rows, strict=True)), strict=False
    ):
        column = np.array(column)
        if name == "return":  # that of an episode that broke is undefined
            column = np.where(episodes["nonfinite"], np.nan, column)
        np.testing.assert_allclose(episodes[name], column, rtol=1e-5, err_msg=name)


def test_lengths_differ_and_nothing_after_an_end_is_counted_or_leaks():
    """Every step after an end is NaN here."""
    episodes = evaluated(Walk())
    assert len(set(np.asarray(episodes["length"]))) > 1
    assert episodes["terminated"].all() and not episodes["nonfinite"].any()
    assert all(np.isfinite(x).all() for x in episodes.values())


def test_reward_metrics_are_summed_and_others_are_those_of_the_last_step():
    env = Walk()
    episodes = evaluated(env)
    np.testing.assert_allclose(episodes["reward_x"], episodes["return"], rtol=1e-6)
    last = np.array([by_hand(env, key)[-1] for key in KEYS])
    np.testing.assert_allclose(episodes["x"], last, rtol=1e-5)


def test_metrics_of_an_episode_that_broke_are_undefined():
    episodes = evaluated(Walk(breaks=5.5))
    broke = np.asarray(episodes["nonfinite"])
    assert broke.any()
    for name in ("return", "reward_x", "x"):
        np.testing.assert_array_equal(np.isnan(episodes[name]), broke)


@struct.dataclass
class Costly(Walk):
    """Gives x as `cost`, [x, 1] as `objectives`, and the action as `executed`."""

    def reset(self, key: jax.Array) -> State:
        zeros = {"cost": jnp.zeros(()), "objectives": jnp.zeros(2), "executed": jnp.zeros(1)}
        return super().reset(key).replace(signals=zeros)

    def step(self, state: State, action: jax.Array) -> State:
        new = super().step(state, action)
        objectives = jnp.stack([new.data, jnp.ones(())])
        signals = {"cost": new.data, "objectives": objectives, "executed": action}
        return new.replace(signals=signals)


@pytest.mark.parametrize("breaks", [np.inf, 5.5])
def test_signals_are_summed_over_the_episode(breaks):
    episodes = evaluated(Costly(breaks=breaks))
    assert episodes["nonfinite"].any() == np.isfinite(breaks)
    for name in ("signal_cost", "signal_objectives_0"):
        np.testing.assert_allclose(episodes[name], episodes["return"], rtol=1e-6)
    whole = ~np.asarray(episodes["nonfinite"])
    steps = np.where(whole, episodes["length"], np.nan)
    np.testing.assert_array_equal(episodes["signal_objectives_1"], steps)
    assert not any("executed" in name for name in episodes)


@struct.dataclass
class Pass(Walk):
    """Succeeds between 5 and 6: on the way to the edge, or where `edge` ends the episode."""

    def reset(self, key: jax.Array) -> State:
        state = super().reset(key)
        return state.replace(metrics={"success": jnp.zeros(())})

    def step(self, state: State, action: jax.Array) -> State:
        new = super().step(state, action)
        return new.replace(
            metrics={"success": ((new.data > 5) & (new.data < 6)).astype(jnp.float32)}
        )


def test_success_is_that_of_any_step_and_success_at_end_that_of_the_last():
    """A data set of the same episodes counts both alike, whether or not success ends the episode."""
    policy = Policy(
        (), lambda: (), lambda params, carry, obs, key, deterministic: (jnp.zeros(1), ())
    )
    for env in (time_limit(Pass(edge=8.0), 20), time_limit(Pass(edge=5.0), 20)):
        episodes = jitted(env, policy, KEYS, True, None)
        assert (episodes["success"] == 1).all()
        ends = env.env.edge == 5.0  # one step beyond 5 is the end
        assert (episodes["success_at_end"] == ends).all()
        keys = lambda n: jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), jnp.arange(n))
        dataset = recording.record(policy, env, 6, jax.random.key(2))
        measured = jitted(env, policy, keys(6), True, None)
        np.testing.assert_array_equal(dataset.success, measured["success"] > 0)
        stats = describe.statistics(dataset)
        assert stats["success"] == measured["success"].mean()
        assert stats["success_at_end"] == measured["success_at_end"].mean()


def test_a_truncated_episode_is_not_terminated():
    episodes = evaluated(Walk(terminates=False))
    assert not episodes["terminated"].any() and (episodes["length"] < 10).all()


def test_an_episode_depends_on_its_own_key_only():
    together = evaluated(Walk(), deterministic=False)
    alone = evaluated(Walk(), KEYS[3:4], deterministic=False)
    for name, x in alone.items():
        np.testing.assert_allclose(x[0], together[name][3], rtol=1e-6, err_msg=name)


def test_noise_is_drawn_only_if_asked_for_and_anew_at_every_step():
    quiet, noisy = (evaluated(Walk(), deterministic=d)["return"] for d in (True, False))
    assert (quiet != noisy).all()
    endless = Walk(edge=1e9)
    drift = evaluated(endless, deterministic=False, max_steps=400)["x"]
    drift -= evaluated(endless, max_steps=400)["x"]
    assert 0.4 < np.std(drift) < 2.0  # 0.05 sqrt(400) = 1; 20 if one draw served all steps


def test_max_steps_is_the_time_limit_of_the_environment_unless_given():
    endless = time_limit(Walk(edge=1e9), 7)
    assert (evaluated(endless, max_steps=None)["length"] == 7).all()
    assert (evaluated(endless, max_steps=3)["length"] == 3).all()


def test_summaries_are_means_over_episodes_and_the_spread_of_the_return():
    episodes = evaluated(Walk())
    summary = summarize({k: jnp.stack([v, v]) for k, v in episodes.items()})
    assert summary["return"].shape == (2,)
    for name in episodes:
        mean = np.mean(np.asarray(episodes[name], np.float32))
        np.testing.assert_allclose(summary[name], [mean] * 2, rtol=1e-5)
    np.testing.assert_allclose(summary["return_std"], np.std(episodes["return"]), rtol=1e-5)


def test_a_policy_that_sees_the_state_acts_on_it_everywhere():
    """The action is -x / 10 of the state's x: the next x is 1 + 0.9 x."""

    def act(params, carry, state, key, deterministic):
        return jnp.array([-0.1 * state.data]), carry

    env = Walk(edge=1e9)
    policy = Policy((), lambda: (), act, sees_state=True)
    x = [np.array([env.reset(key).data for key in KEYS])]
    for _ in range(3):
        x.append(1.0 + 0.9 * x[-1])
    measured = evaluate(env, policy, KEYS, max_steps=3)
    np.testing.assert_allclose(measured["return"], sum(x[1:]), rtol=1e-5)
    states, length = film(env, policy, KEYS[0], max_steps=3)
    np.testing.assert_allclose(states.data[: length + 1], [row[0] for row in x], rtol=1e-5)
    rows = record(policy, time_limit(env, 3), 2, jax.random.key(0)).steps
    np.testing.assert_allclose(rows.reward, 1.0 + 0.9 * rows.obs[..., 0], rtol=1e-5)
    under = residual(env, policy, 0.5)
    still = Policy((), lambda: (), lambda *args: (jnp.zeros(1), ()))
    corrected = evaluate(under, still, KEYS, max_steps=3)
    np.testing.assert_allclose(corrected["return"], measured["return"], rtol=1e-5)


def test_the_film_of_an_episode_ends_at_its_last_step():
    env = Walk()
    for key in KEYS[:3]:
        states, length = film(env, POLICY, key, max_steps=10)
        total, expected, *_ = by_hand(env, key)
        assert length == expected
        np.testing.assert_allclose(states.reward[1 : length + 1].sum(), total, rtol=1e-5)
        assert np.isfinite(states.data).all()
