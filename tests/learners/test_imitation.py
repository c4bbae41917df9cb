"""The imitation learner: its examples, its scales, what it refuses, and that it imitates."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import assert_same

import envs
from envs.transforms import residual
from jaxrl.cli import runs
from jaxrl.config import check
from jaxrl.data import dataset as data
from jaxrl.data import recording
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.policies.scripted import scripted
from jaxrl.run.train import train
from jaxrl.types import Policy

SMALL = imitation.Config(hidden=(16,), batch_size=16, updates_per_step=10, horizon=4, execute=2)


def made_up(lengths, size=2, success=None):
    """Episodes whose observation is the row number, and whose action is a hundredth of it."""
    rows = np.arange(sum(lengths))
    ends = np.isin(rows, np.cumsum(lengths) - 1)
    extras = {} if success is None else {"success": np.full(len(rows), success, np.float32)}
    return data.from_arrays(
        np.repeat(rows[:, None], 1, 1).astype(np.float32),
        np.repeat(rows[:, None], size, 1) / 100.0,
        np.zeros(len(rows)),
        rows[:, None] + 1.0,
        np.zeros(len(rows), bool),
        ends,
        extras,
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 10_000),
)
def test_examples_stay_within_their_episode(lengths, history, horizon, seed):
    dataset = made_up(lengths)
    spread = lambda x: np.repeat(x, dataset.lengths).astype(np.int32)
    episodes = imitation.Episodes(dataset.steps, spread(dataset.starts), spread(dataset.ends), None)
    rows = np.random.default_rng(seed).integers(0, len(dataset), 8)
    obs, action, mask = imitation.examples(episodes, rows, history, horizon)
    for i, row in enumerate(rows):
        start, end = episodes.start[row], episodes.end[row]
        for j in range(history):
            assert obs[i, j, 0] == max(row - history + 1 + j, start)
        for j in range(horizon):
            assert mask[i, j] == (row + j <= end)
            assert action[i, j, 0] == np.float32(min(row + j, end) / 100.0)


def test_actions_are_scaled_to_their_range_and_back():
    actions = np.random.default_rng(0).uniform([-0.2, 0.5], [0.6, 0.5], (50, 2)).astype(np.float32)
    scale = imitation.action_scale(actions)
    scaled = scale.normalize(actions)
    np.testing.assert_allclose(scaled[:, 0].min(), -1.0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, 0].max(), 1.0, atol=1e-5)
    assert np.abs(scaled[:, 1]).max() < 1e-3  # hardly varies: not blown up
    np.testing.assert_allclose(scale.restore(scaled), actions, atol=1e-6)


def test_demonstrations_without_a_success_are_refused():
    env = envs.make("point_maze")
    dataset = recording.record(scripted(env), env, 2, jax.random.key(0))
    dataset.extras["success"] = np.zeros(len(dataset), np.float32)
    with pytest.raises(ValueError, match="success rate 0 in 2 episodes"):
        imitation.make(env, SMALL, dataset)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"head": "vae"}, "head='vae': allowed are 'gaussian', 'flow', 'diffusion'"),
        ({"mode": "closed"}, "mode='closed': allowed are"),
        ({"execute": 5}, "execute=5: must be at most horizon=4"),
        ({"horizon": 0}, "horizon=0: must be a whole number"),
        ({"ema_decay": 1.5}, "ema_decay=1.5: must be between 0 and 1"),
        ({"mode": "streaming", "head": "gaussian"}, "mode='streaming': needs head="),
        ({"width": 30}, "width=30: must be a multiple"),
    ],
)
def test_bad_settings_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        check(SMALL.replace(**wrong))


@pytest.mark.parametrize(
    ("mode", "places"), [("open_loop", "4 .. 5"), ("ensemble", "4 .. 6"), ("streaming", "4 .. 6")]
)
def test_places_of_a_plan_that_no_demonstration_reaches_are_named(mode, places, capsys):
    config = SMALL.replace(horizon=6, execute=5, mode=mode)
    imitation.warn_of_unreached(config, made_up([3, 2]))
    field, value = ("execute", 5) if mode == "open_loop" else ("horizon", 6)
    assert capsys.readouterr().out == (
        f"data: the longest demonstration has 3 steps, so no data say what actions {places} of a"
        f" plan are ({field}={value}); choose {field}=3 or less\n"
    )


def test_a_plan_as_long_as_a_demonstration_gives_no_warning(capsys):
    imitation.warn_of_unreached(SMALL.replace(horizon=9, execute=3), made_up([3, 2]))
    assert capsys.readouterr().out == ""


@functools.cache
def demonstrations():
    env = envs.make("point_maze_open")
    return recording.record(scripted(env, noise=0.2), env, 30, jax.random.key(0))


@pytest.mark.parametrize(
    "head, trunk, mode",
    [
        ("flow", "mlp", "open_loop"),
        ("diffusion", "transformer", "streaming"),
        ("gaussian", "mlp", "ensemble"),
    ],
)
def test_it_imitates(head, trunk, mode, optimised):
    """The demonstrator always arrives; from 30 episodes most goals are reached (random: 0.1)."""
    config = imitation.Config(
        head=head,
        trunk=trunk,
        mode=mode,
        hidden=(64, 64),
        width=32,
        layers=1,
        horizon=8,
        execute=4,
        batch_size=64,
        learning_rate=4e-3,
    )
    learner = imitation.make(envs.make("point_maze_open"), config, demonstrations())
    result = train(learner, 800, num_evals=1, eval_episodes=64, quiet=True)
    assert result.evals[0]["success"][0] < 0.4 < 0.75 < result.evals[-1]["success"][0]


def test_a_run_resumes_bit_for_bit_and_acts_without_its_data(tmp_path):
    env = envs.make("point_maze_open")
    learner = imitation.make(env, SMALL, demonstrations())
    options = dict(seeds=2, num_evals=2, eval_episodes=2, quiet=True, tensorboard=False)
    description = runs.describe(
        "imitation", "point_maze_open", {}, SMALL, {"seeds": 2, "total_steps": 40}
    )
    runs.write_config(tmp_path, description)
    whole = train(learner, 40, run_dir=tmp_path, **options)
    shutil.rmtree(tmp_path / "checkpoints" / f"{40:012d}")
    resumed = train(learner, 40, run_dir=tmp_path, resume=True, **options)
    assert_same(resumed.state, whole.state)
    loaded = runs.load(tmp_path).policy(1)
    one = learner.policy(jax.tree.map(lambda x: x[1], whole.state))
    obs = env.reset(jax.random.key(1)).obs
    acts = [p.act(p.init_carry(), obs, jax.random.key(2))[0] for p in (loaded, one)]
    np.testing.assert_array_equal(*acts)


def test_the_acting_weights_are_an_average():
    learner = imitation.make(envs.make("point_maze_open"), SMALL, demonstrations())
    state = learner.init(jax.random.key(0))
    after, _ = jax.jit(learner.step)(state)
    drift = lambda a, b: float(
        sum(abs(x - y).sum() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    )
    assert 0 < drift(after.ema, state.params) < drift(after.params, state.params)


def still(params, carry, obs, key, deterministic):
    return jnp.zeros(1), carry


def test_recorded_episodes_are_shown_as_a_residual_would_have_shown_them():
    """The base is asked along each episode, its plan following it, past the last step too."""
    env = envs.make("point_maze_open")
    dataset = demonstrations().take(range(6))
    learner = imitation.make(env, SMALL, dataset)
    base = learner.policy(learner.init(jax.random.key(0)))
    wrapped = residual(env, base, 0.5)
    shown = recording.through_base(dataset, wrapped, jax.random.key(1), num_envs=4)
    now, after = (x["base_action"][:, 0] for x in (shown.steps.obs, shown.steps.next_obs))
    np.testing.assert_allclose(
        now + 0.5 * shown.steps.action[:, 0], dataset.steps.action[:, 0], atol=1e-6
    )
    assert shown.steps_for(wrapped).action.max() > 1.0  # beyond the residual's reach, kept
    foreign = residual(envs.make("pendulum_swingup"), Policy((), lambda: (), still), 0.5)
    with pytest.raises(ValueError, match="actions have shape"):
        recording.through_base(dataset, foreign, jax.random.key(1))
    act = jax.jit(lambda carry, obs, key: base.act(carry, obs, key))
    key = jax.random.fold_in(jax.random.key(1), 5)
    start, end = dataset.starts[5], dataset.ends[5]
    carry = base.init_carry()
    for t in range(end - start + 2):
        seen = dataset.steps.obs if t <= end - start else dataset.steps.next_obs
        obs = jax.tree.map(lambda x, row=min(start + t, end): x[row, 0], seen)
        action, carry = act(carry, obs, jax.random.fold_in(key, t))
        if t <= end - start:
            np.testing.assert_allclose(now[start + t], action, atol=1e-5)
        if t > 0:
            np.testing.assert_allclose(after[start + t - 1], action, atol=1e-5)


def leans(params, carry, obs, key, deterministic):
    return 0.8 * jnp.tanh(obs["goal"] - obs["obs"][:2]), carry


def corrects(params, carry, obs, key, deterministic):
    return jax.random.uniform(key, obs["base_action"].shape, minval=-1.5, maxval=1.5), carry


def test_a_refined_policy_is_recorded_as_what_it_carried_out_in_the_plain_task():
    """The plain task steps through the recorded observations by the recorded actions."""
    env = envs.make("point_maze_open", time_limit=6)
    once = residual(env, Policy((), lambda: (), leans), 0.5)
    refined = residual(once, Policy((), lambda: (), corrects), 0.4)
    seen = recording.record(Policy((), lambda: (), corrects), refined, 3, jax.random.key(2))
    plain, task = recording.plain_task(seen, refined)
    assert task is env and set(plain.steps.obs) == {"obs", "goal"}
    steps = plain.steps_for(env)
    assert np.abs(steps.action).max() <= 1.0
    state = jax.vmap(env.reset)(
        jax.vmap(lambda i: jax.random.fold_in(jax.random.key(2), i))(jnp.arange(3))
    )
    for t in range(6):
        rows = plain.starts + t
        now = jax.tree.map(lambda x, rows=rows: x[rows, 0], plain.steps)
        assert_same(state.obs, now.obs, atol=1e-5)
        state = jax.vmap(env.step)(state, now.action)
        assert_same(state.obs, now.next_obs, atol=1e-5)
    assert recording.plain_task(plain, env)[0] is plain
