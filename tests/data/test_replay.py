"""The ring and its windows against plain loops over the history that was written."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from probes import assert_same

from jaxrl.data import replay
from jaxrl.ops import goals, windows
from jaxrl.types import Transition

T, N, L = 8, 2, 4  # capacity, environments, window
EVERY_AGE, EVERY_ENV = (x.ravel() for x in np.mgrid[:T, :N])  # a start at every row

laws = settings(max_examples=30, deadline=None, derandomize=True)
gammas = st.sampled_from([0.0, 0.5, 0.9, 1.0])
# What happens at every step of 2 T rows: goes on (0 to 2), terminates, truncates, breaks.
histories = arrays(np.int8, (2 * T, N), elements=st.integers(0, 5))

insert = jax.jit(replay.insert)
window = jax.jit(replay.window, static_argnums=3)
stretch = jax.jit(replay.stretch, static_argnums=3)
n_step = jax.jit(windows.n_step)
sequence = jax.jit(windows.sequence)
episode_end = jax.jit(replay.episode_end, static_argnums=3)
hindsight_ages = jax.jit(goals.hindsight_ages)


def history(kind) -> Transition:
    """[S, N]: every number tells its row and column; a step that broke is not a number."""
    rows, num_envs = kind.shape
    number = np.arange(rows * num_envs, dtype=np.float32).reshape(rows, num_envs)
    broken = kind == 5
    return Transition(
        obs={"obs": number[..., None] + [0.0, 0.25], "pixel": number.astype(np.uint8)},
        action=number[..., None] + np.float32(0.5),
        reward=np.where(broken, np.nan, np.sin(number)).astype(np.float32),
        next_obs={"obs": -number[..., None] - [0.0, 0.25], "pixel": number.astype(np.uint8) + 99},
        terminated=kind == 3,
        truncated=(kind == 4) | broken,
        valid=~broken,
    )


def single(steps: Transition) -> Transition:
    steps = jax.tree.map(jnp.asarray, steps)
    return jax.tree.map(lambda x: x[0, 0], steps)


def filled(steps: Transition, rows: int, count: int = 1) -> replay.Replay:
    """A ring that got the first `rows` of `steps`, `count` at a time."""
    ring = replay.empty(single(steps), T, N)
    for first in range(0, rows, count):
        ring = insert(ring, at(steps, slice(first, first + count)))
    return ring


def held(steps: Transition, rows: int) -> Transition:
    """What a ring that got `rows` rows still has, oldest first."""
    return jax.tree.map(lambda x: x[max(0, rows - T) : rows], steps)


def at(steps: Transition, *index) -> Transition:
    return jax.tree.map(lambda x: np.asarray(x)[index], steps)


def lives(steps: Transition, age: int, env: int, length: int) -> list[int]:
    """The ages that a window may use: a plain walk until something ends it."""
    ages = []
    for a in range(age, min(age + length, len(steps.reward))):
        if not steps.valid[a, env]:
            break
        ages.append(a)
        if steps.terminated[a, env] or steps.truncated[a, env]:
            break
    return ages


def every_window(kind, rows, length=L):
    """The windows from every row of a ring, filled or not, and what the ring holds."""
    steps = history(kind)
    return window(filled(steps, rows), EVERY_AGE, EVERY_ENV, length), held(steps, rows)


# --- The ring ---


@laws
@given(histories, st.sampled_from([1, 2, 4, 8]), st.integers(0, 2 * T))
def test_a_ring_holds_the_newest_rows_in_order(kind, count, rows):
    rows -= rows % count
    steps = history(kind)
    ring = filled(steps, rows, count)
    kept = held(steps, rows)
    assert ring.size == len(kept.reward) and ring.position == rows % T
    ages = jnp.arange(len(kept.reward))
    assert_same(at(ring.steps, replay.physical_row(ring, ages)), kept)


@pytest.mark.parametrize("count", [3, 5, 16])
def test_rows_that_do_not_divide_the_capacity_are_refused(count):
    steps = history(np.zeros((2 * T, N)))
    ring = filled(steps, 0)
    with pytest.raises(ValueError, match=f"^{count} rows do not divide the replay's capacity of 8"):
        replay.insert(ring, at(steps, slice(count)))


def test_a_donated_ring_is_written_in_place():
    steps = jax.tree.map(jnp.asarray, history(np.zeros((4, N))))
    ring = replay.empty(single(steps), 4096, N)
    compiled = jax.jit(replay.insert, donate_argnums=0).lower(ring, steps).compile()
    memory, size = compiled.memory_analysis(), replay.num_bytes(single(steps), 4096, N)
    assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 100


def test_num_bytes_is_what_an_empty_ring_takes():
    example = single(history(np.zeros((1, N))))
    ring = replay.empty(example, 6, 5)
    assert replay.num_bytes(example, 6, 5) == sum(x.nbytes for x in jax.tree.leaves(ring.steps))
    assert (ring.num_envs, ring.capacity, int(ring.size)) == (5, 6, 0)
    assert ring.steps.obs["pixel"].dtype == np.uint8


@laws
@given(histories)
def test_recorded_steps_are_a_full_ring(kind):
    steps = at(history(kind), slice(T))
    ring = replay.full(steps)
    assert ring.size == ring.capacity == T
    assert_same(
        window(ring, EVERY_AGE, EVERY_ENV, L), window(filled(steps, T), EVERY_AGE, EVERY_ENV, L)
    )


# --- Windows ---


@laws
@given(histories, st.integers(0, 2 * T), st.sampled_from([1, 3, T + 1]))
def test_a_window_lives_until_its_episode_the_ring_or_the_numbers_end(kind, rows, length):
    w, kept = every_window(kind, rows, length)
    for b, (age, env) in enumerate(zip(EVERY_AGE, EVERY_ENV, strict=True)):
        alive = lives(kept, age, env, length)
        assert w.alive[:, b].tolist() == [i < len(alive) for i in range(length)]
        assert_same(at(w.steps, slice(len(alive)), b), at(kept, alive, env))


@laws
@given(histories, st.integers(0, 2 * T), gammas)
def test_n_step_sums_what_was_earned_and_bootstraps_from_where_it_led(kind, rows, gamma):
    w, kept = every_window(kind, rows)
    batch = n_step(w, gamma)
    for b, (age, env) in enumerate(zip(EVERY_AGE, EVERY_ENV, strict=True)):
        alive = lives(kept, age, env, L)
        assert batch.weight[b] == (len(alive) > 0)
        if not alive:
            assert batch.reward[b] == 0.0  # a NaN here would spread to every loss
            continue
        total, discount = 0.0, 1.0
        for a in alive:
            total += discount * float(kept.reward[a, env])
            discount *= gamma
        last = alive[-1]
        np.testing.assert_allclose(batch.reward[b], total, rtol=1e-5, atol=1e-6)
        expected = 0.0 if kept.terminated[last, env] else discount
        np.testing.assert_allclose(batch.discount[b], expected, rtol=1e-6)
        assert_same(at(batch.next_obs, b), at(kept.next_obs, last, env))
        assert_same(at(batch.obs, b), at(kept.obs, age, env))
        assert_same(at(batch.action, b), at(kept.action, age, env))


@laws
@given(histories, st.integers(0, 2 * T), gammas)
def test_a_stretch_crosses_the_ends_of_episodes_and_a_sequence_has_each_step(kind, rows, gamma):
    steps = history(kind)
    w, kept = stretch(filled(steps, rows), EVERY_AGE, EVERY_ENV, L), held(steps, rows)
    batch, begins = sequence(w, gamma), np.asarray(w.begins)
    assert not begins[0].any()
    for b, (age, env) in enumerate(zip(EVERY_AGE, EVERY_ENV, strict=True)):
        for t, a in enumerate(range(age, age + L)):
            there = a < len(kept.reward) and bool(kept.valid[a, env])
            assert bool(w.alive[t, b]) == there
            assert batch.reward[b, t] == (kept.reward[a, env] if there else 0.0)
            if not there:
                continue
            assert_same(at(batch.obs, b, t), at(kept.obs, a, env))
            assert_same(at(batch.next_obs, b, t), at(kept.next_obs, a, env))
            assert batch.discount[b, t] == (0.0 if kept.terminated[a, env] else np.float32(gamma))
            if t:
                ended = kept.terminated[a - 1, env] | kept.truncated[a - 1, env]
                assert begins[t, b] == ended


def test_n_step_sums_signals_like_the_reward_and_keeps_the_teacher_of_the_first_step():
    kind = np.array([0, 0, 0, 3, 0, 0, 4, 5])[:, None]
    steps = history(kind)
    late = (np.arange(T) > 2)[:, None]
    signals = {"cost": steps.reward, "both": np.stack([steps.reward] * 2, -1), "late": late}
    steps = steps.replace(signals=signals | {"teacher": steps.action})
    batch = n_step(window(replay.full(steps), np.arange(T), np.zeros(T, int), 3), 0.5)
    np.testing.assert_array_equal(batch.signals["cost"], batch.reward)
    np.testing.assert_array_equal(batch.signals["both"], np.stack([batch.reward] * 2, -1))
    expected = [0.0, 0.25, 0.75 - 0.25, 1.0, 1.75, 1.5, 1.0, 0.0]  # step 3 ends, 6 ends, 7 broke
    np.testing.assert_array_equal(batch.signals["late"], expected)
    np.testing.assert_array_equal(batch.signals["teacher"], steps.action[:, 0])


@laws
@given(arrays(np.int8, (T, N), elements=st.integers(0, 3)), gammas, st.sampled_from([1, 3, L]))
def test_n_step_targets_are_those_of_rlax(kind, gamma, n):
    """It knows of terminations only, and cuts windows where the recording ends, too."""
    steps = history(kind)
    batch = n_step(window(replay.full(steps), EVERY_AGE, EVERY_ENV, n), gamma)
    value = lambda obs: np.cos(obs["obs"][..., 0])
    ours = (batch.reward + batch.discount * value(batch.next_obs)).reshape(T, N)
    discount = gamma * (1.0 - steps.terminated)
    for env in range(N):
        column = (x[:, env] for x in (steps.reward, discount, value(steps.next_obs)))
        theirs = rlax.n_step_bootstrapped_returns(*map(jnp.float32, column), n)
        np.testing.assert_allclose(ours[:, env], theirs, rtol=1e-5, atol=1e-5)


@laws
@given(histories, st.integers(1, 2 * T), gammas)
def test_a_chunk_is_its_n_step_batch_with_the_actions_that_were_taken(kind, rows, gamma):
    w, kept = every_window(kind, rows)
    batch, taken = windows.chunk(w, gamma)
    assert batch.action.shape == (T * N, L, 1)
    for b, (age, env) in enumerate(zip(EVERY_AGE, EVERY_ENV, strict=True)):
        alive = lives(kept, age, env, L)
        assert taken[b].tolist() == [i < len(alive) for i in range(L)]
        assert_same(at(batch.action, b, slice(len(alive))), at(kept.action, alive, env))
    plain = windows.n_step(w, gamma)
    assert_same(batch.replace(action=plain.action), plain)


# --- Hindsight goals ---


@laws
@given(histories, st.integers(1, 2 * T), st.sampled_from([1, 3, T]))
def test_the_end_of_an_episode_is_its_last_recorded_row_within_the_horizon(kind, rows, horizon):
    kept = held(history(kind), rows)
    size = len(kept.reward)
    starts = EVERY_AGE < size
    ends = episode_end(filled(history(kind), rows), EVERY_AGE, EVERY_ENV, horizon)
    for age, env, found in zip(*(x[starts] for x in (EVERY_AGE, EVERY_ENV, ends)), strict=True):
        end = age
        while end < size - 1 and not (kept.terminated | kept.truncated)[end, env]:
            end += 1
        assert found == min(end, age + horizon - 1)


@laws
@given(st.integers(0, 2**31), st.none() | gammas | st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_hindsight_goal_is_of_the_same_episode_and_not_of_the_past(seed, gamma, final):
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 100, 64)
    end = age + rng.integers(0, 100, 64)
    keys = jax.random.split(jax.random.key(seed), 64)
    chosen = hindsight_ages(keys, age, end, gamma, final)
    assert ((age <= chosen) & (chosen <= end)).all()


DRAWS = 20_000


@pytest.mark.parametrize(
    ("gamma", "final", "expected"),
    [
        (0.0, 0.0, [1, 0, 0, 0]),
        (0.7, 0.0, [0.3, 0.21, 0.147, 0.343]),
        (0.7, 0.4, [0.18, 0.126, 0.0882, 0.6058]),
        (0.7, 1.0, [0, 0, 0, 1]),
        (1.0, 0.0, [0, 0, 0, 1]),
        (None, 0.0, [0.25, 0.25, 0.25, 0.25]),
        (None, 0.4, [0.15, 0.15, 0.15, 0.55]),
    ],
)
def test_the_distance_of_hindsight_goals_is_uniform_or_geometric_and_cut(gamma, final, expected):
    age = np.full(DRAWS, 5)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    chosen = np.asarray(hindsight_ages(keys, age, age + 3, gamma, final))
    share = np.bincount(chosen - 5, minlength=4) / DRAWS
    np.testing.assert_allclose(share, expected, atol=5 * 0.5 / np.sqrt(DRAWS))


def episodes_of_three(broken=()) -> replay.Replay:
    """Two environments of three-step episodes. Row t of column e reached the place 100 t + 10 e;
    rows `broken` were not finite."""
    t = np.arange(T)
    place = (10.0 * np.arange(2) + 100.0 * t[:, None])[..., None].astype(np.float32)
    place[list(broken)] = np.nan
    steps = history(np.zeros((T, 2)))
    return replay.full(
        steps.replace(
            next_obs=place,
            terminated=np.repeat(t[:, None] % 3 == 2, 2, 1),
            valid=np.isfinite(place[..., 0]),
        )
    )


draw_goals = jax.jit(
    partial(replay.hindsight_goals, achieved_goal=lambda obs: obs, horizon=T, gamma=0.5)
)


@pytest.mark.parametrize(("final", "random"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.5)])
def test_hindsight_goals_are_of_the_rows_that_their_shares_say(final, random):
    ring = episodes_of_three()
    age, env = np.full(DRAWS, 3), np.ones(DRAWS, int)
    keys = jax.random.split(jax.random.key(1), DRAWS)
    goal = np.asarray(draw_goals(ring, keys, age, env, final=final, random=random))[:, 0]
    own = np.array([0.5, 0.25, 0.25]) if not final else np.array([0.0, 0.0, 1.0])
    expected = np.zeros((T, 2))
    expected[:, 1] = random / T
    expected[3:6, 1] += (1.0 - random) * own
    place = 10.0 * np.arange(2) + 100.0 * np.arange(T)[:, None]
    shares = np.array([(goal == x).mean() for x in place.ravel()])
    assert shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(shares, expected.ravel(), atol=5 * 0.5 / np.sqrt(DRAWS))


def test_a_hindsight_goal_depends_on_its_own_key_alone():
    """So samples are the same however devices share them."""
    ring = episodes_of_three()
    keys = jax.random.split(jax.random.key(2), 16)
    age, env = np.arange(16) % T, np.arange(16) % 2
    options = dict(final=0.3, random=0.3)
    whole = draw_goals(ring, keys, age, env, **options)
    parts = slice(8), slice(8, None)
    halves = [draw_goals(ring, keys[i], age[i], env[i], **options) for i in parts]
    assert_same(whole, jnp.concatenate(halves))


def test_a_row_that_was_not_finite_is_no_goal():
    ring = episodes_of_three(broken=[5])
    keys = jax.random.split(jax.random.key(3), 64)
    goal = draw_goals(ring, keys, np.full(64, 3), np.zeros(64, int), final=1.0)
    assert (np.asarray(goal) == 300.0).all()


def reached(achieved, goal):
    return jnp.abs(achieved - goal)[..., 0] < 0.5


relabel = jax.jit(
    partial(
        goals.relabel,
        achieved_goal=lambda obs: obs["obs"][..., :1],
        goal_reward=lambda achieved, goal: reached(achieved, goal) * 2.0 - 1.0,
        goal_terminates=reached,
    )
)


@laws
@given(
    histories,
    arrays(np.int8, (2 * T, N), elements=st.integers(0, 3)),
    arrays(np.int8, (T * N,), elements=st.integers(0, 3)),
    arrays(bool, (T * N,)),
    st.integers(0, 2 * T),
)
def test_relabelled_windows_are_those_of_the_new_goal(kind, positions, goals, chosen, rows):
    """Positions and goals are on a line of 4 cells, so that goals are often reached."""
    asked = np.full((2 * T, N, 1), 7, np.float32)
    where = positions[..., None].astype(np.float32)
    steps = history(kind).replace(
        obs={"obs": where + 10, "goal": asked}, next_obs={"obs": where, "goal": asked}
    )
    kept = held(steps, rows)
    w = window(filled(steps, rows), EVERY_AGE, EVERY_ENV, L)
    new = relabel(w, goals[:, None].astype(np.float32), chosen)
    assert_same(at(new, slice(None), ~chosen), at(w, slice(None), ~chosen))
    for b in np.flatnonzero(chosen):
        alive = []
        for i, age in enumerate(lives(kept, EVERY_AGE[b], EVERY_ENV[b], L)):
            alive.append(i)
            there = bool(positions[max(0, rows - T) + age, EVERY_ENV[b]] == goals[b])
            ended = kept.terminated[age, EVERY_ENV[b]] or kept.truncated[age, EVERY_ENV[b]]
            step = at(new.steps, i, b)
            assert step.obs["goal"] == step.next_obs["goal"] == goals[b]
            assert step.reward == (1.0 if there else -1.0)
            assert (step.terminated, step.truncated) == (there, ended and not there)
            assert step.action == kept.action[age, EVERY_ENV[b]]
            if there:
                break
        assert new.alive[:, b].tolist() == [i in alive for i in range(L)]


# --- Sampling ---


def assert_alike(counts) -> None:
    """Counts of equally likely things: all within five standard deviations."""
    mean = counts.sum() / counts.size
    assert (np.abs(counts - mean) < 5 * np.sqrt(mean)).all(), counts


@pytest.mark.parametrize("rows", [1, 5, T, T + 3])
def test_uniform_draws_every_recorded_row_and_column_of_its_block_alike(rows):
    ring = filled(history(np.zeros((2 * T, N))), rows)
    keys = jax.random.split(jax.random.key(rows), 4000)
    first_env = np.repeat([0, 3], 2000)
    age, env = jax.jit(replay.uniform, static_argnums=3)(ring, keys, first_env, 3)
    counts = np.zeros((min(rows, T), 6))
    np.add.at(counts, (age, env), 1)  # an age beyond the newest raises
    assert np.asarray(age).min() >= 0 and (np.asarray(env) // 3 == first_env // 3).all()
    assert_alike(counts)


@laws
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=5, max_size=5))
def test_weighted_draws_episodes_by_their_probability_and_their_steps_alike(episodes):
    """(length, mass) of five episodes; those of mass 0 are never drawn."""
    length, mass = np.array(episodes).T
    if mass.sum() == 0:
        mass[2] = 1
    start = np.cumsum(length) - length
    cdf = jnp.asarray(np.cumsum(mass / mass.sum()), jnp.float32)
    table = replay.Trajectories(jnp.asarray(start), jnp.asarray(length), cdf)
    drawn = np.asarray(jax.jit(replay.weighted)(table, jax.random.split(jax.random.key(0), 4000)))
    expected = 4000 * np.repeat(mass / mass.sum() / length, length)
    counts = np.bincount(drawn, minlength=len(expected))
    assert (counts[expected == 0] == 0).all()
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()
