"""Data sets against loops over their episodes; recordings against evaluation."""

import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import Probe, assert_same

import envs
from envs.transforms import time_limit
from envs.types import Box, State, first_state
from jaxrl.data import dataset as data
from jaxrl.data import describe as data_stats
from jaxrl.data import recording
from jaxrl.data.dataset import Dataset, from_arrays
from jaxrl.episodes import evaluate
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.learners.off_policy import sac
from jaxrl.learners.offline import bc, iql
from jaxrl.types import Policy

laws = settings(max_examples=30, deadline=None, derandomize=True)
# The length of every episode, and whether it terminates.
structures = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5)


def made(episodes, seed=0, **metadata) -> Dataset:
    """Random steps in episodes of this structure."""
    rng = np.random.default_rng(seed)
    length, terminates = np.array(episodes).T
    rows = length.sum()
    ends = np.zeros(rows, bool)
    ends[np.cumsum(length) - 1] = True
    terminated = ends & np.repeat(terminates, length).astype(bool)
    obs = rng.normal(size=(2, rows, 3)).astype(np.float32)
    return from_arrays(
        {"obs": obs[0], "goal": obs[0, :, :2]},
        rng.uniform(-1, 1, (rows, 2)),
        rng.normal(size=rows),
        {"obs": obs[1], "goal": obs[1, :, :2]},
        terminated,
        ends & ~terminated,
        {"success": (rng.random(rows) < 0.3).astype(np.float32)},
        metadata,
    )


def split(dataset: Dataset) -> list[list[int]]:
    """The rows of every episode, by a plain walk."""
    episodes, rows = [], []
    for t in range(len(dataset)):
        rows.append(t)
        if dataset.steps.terminated[t, 0] or dataset.steps.truncated[t, 0]:
            episodes.append(rows)
            rows = []
    assert rows == []
    return episodes


FIVE = [(3, True), (1, False), (4, False), (2, True), (1, True)]


# --- What a data set says about itself ---


@laws
@given(structures)
def test_starts_ends_lengths_and_returns_are_those_of_a_walk(structure):
    dataset = made(structure)
    episodes = split(dataset)
    assert len(dataset) == sum(length for length, _ in structure)
    assert dataset.lengths.tolist() == [length for length, _ in structure]
    assert dataset.starts.tolist() == [rows[0] for rows in episodes]
    assert dataset.ends.tolist() == [rows[-1] for rows in episodes]
    returns = [sum(float(dataset.steps.reward[t, 0]) for t in rows) for rows in episodes]
    np.testing.assert_allclose(dataset.returns, returns, rtol=1e-9, atol=1e-12)


def test_arrays_become_one_column_whose_last_step_ends_an_episode():
    rows, flags = np.arange(4.0), np.array([False, True, False, False])
    dataset = from_arrays(rows[:, None], rows[:, None], rows, rows[:, None] + 1, flags, flags)
    assert dataset.steps.obs.shape == dataset.steps.action.shape == (4, 1, 1)
    assert dataset.steps.obs.dtype == dataset.steps.reward.dtype == np.float32
    assert dataset.steps.terminated[:, 0].tolist() == [False, True, False, False]
    assert dataset.steps.truncated[:, 0].tolist() == [False, False, False, True]
    assert dataset.steps.valid.all() and not flags[3]  # the caller's array is as it was
    ended = np.array([False, False, False, True])
    steps = from_arrays(rows, rows, rows, rows, ended, ~ended).steps
    assert steps.truncated[:, 0].tolist() == [True, True, True, False]


def test_obs_moments_are_numpys():
    dataset = made(FIVE)
    moments = dataset.obs_moments()
    obs = dataset.steps.obs["obs"][:, 0].astype(np.float64)
    np.testing.assert_allclose(moments.mean["obs"], obs.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.var["obs"], obs.var(0), rtol=1e-6)
    assert moments.mean["goal"].shape == (2,) and moments.count == len(dataset)


# --- Choosing and joining episodes ---


@laws
@given(structures, st.data())
def test_take_is_those_episodes_in_that_order(structure, draw):
    dataset = made(structure, task="maze")
    episodes = split(dataset)
    chosen = draw.draw(st.lists(st.integers(0, len(episodes) - 1), min_size=1, max_size=4))
    taken = dataset.take(np.array(chosen))
    rows = [t for e in chosen for t in episodes[e]]
    assert_same(taken.steps, jax.tree.map(lambda x: x[rows], dataset.steps))
    assert_same(taken.extras, {"success": dataset.extras["success"][rows]})
    assert taken.metadata == {"task": "maze"}
    with pytest.raises(ValueError, match="^data: no episodes to take$"):
        dataset.take([])
    np.testing.assert_array_equal(taken.returns, dataset.returns[chosen])


def test_take_follows_a_mask_of_episodes():
    dataset = made(FIVE)
    mask = np.array([True, False, True, False, False])
    assert_same(dataset.take(mask).steps, dataset.take([0, 2]).steps)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (np.array([True, False]), r"a mask of shape \(2,\) for 5 episodes"),
        (np.zeros(5, bool), "no episodes to take"),
        ([0, 5], r"episode 5: there are 0 .. 4"),
        ([-1], r"episode -1: there are 0 .. 4"),
    ],
)
def test_take_refuses_what_names_no_episodes(episodes, message):
    with pytest.raises(ValueError, match=f"^data: {message}$"):
        made(FIVE).take(episodes)


def test_concatenate_keeps_the_metadata_that_no_data_set_contradicts():
    a = made(FIVE, env="hopper", kind="expert", expert_return=9.0)
    b = made(FIVE, env="hopper", kind="random", expert_return=9.0, seed=3)
    expected = {"env": "hopper", "expert_return": 9.0, "seed": 3}
    b.metadata["seed"] = 3
    assert data.concatenate(a, b).metadata == expected


def narrow(dataset):
    keep = lambda obs: {"obs": obs["obs"]}
    steps = dataset.steps.replace(obs=keep(dataset.steps.obs), next_obs=keep(dataset.steps.obs))
    return Dataset(steps, dataset.extras, name="narrow.npz")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "no data sets"),
        ([made(FIVE, env="a"), made(FIVE, env="b")], "data has env='b', others have 'a'"),
        (
            [made(FIVE), made(FIVE, env_overrides={"mass": 1}), made(FIVE, env_overrides={})],
            "data has env_overrides={}, others have {'mass': 1}",
        ),
        ([made(FIVE), narrow(made(FIVE))], "narrow.npz has observations and actions of shape"),
    ],
)
def test_concatenate_refuses_data_of_different_environments(sets, message):
    with pytest.raises(ValueError, match=f"^concatenate: {message}"):
        data.concatenate(*sets)


def test_concatenate_holds_all_episodes_and_the_metrics_that_all_measured():
    a, b = made(FIVE, 1, task="a"), made(FIVE[:2], 2)
    b.extras["height"] = np.zeros(len(b), np.float32)
    both = data.concatenate(a, b)
    assert_same(both.take(np.arange(5)).steps, a.steps)
    assert_same(both.take(np.arange(5, 7)).steps, b.steps)
    assert list(both.extras) == ["success"] and both.metadata == {"task": "a"}
    success = np.append(a.extras["success"], b.extras["success"])
    np.testing.assert_array_equal(both.extras["success"], success)


def test_weights_of_steps_grow_with_the_exponential_of_the_scaled_score():
    dataset = made(FIVE)
    for baseline in (None, np.arange(5.0)):
        table = dataset.weighted(0.5, baseline).trajectories
        score = dataset.returns - (0 if baseline is None else baseline)
        expected = np.exp((score - score.min()) / (score.max() - score.min()) / 0.5)
        per_step = np.diff(table.cdf, prepend=0.0) / dataset.lengths
        np.testing.assert_allclose(per_step / per_step.sum(), expected / expected.sum(), rtol=1e-4)
        np.testing.assert_array_equal(table.start, dataset.starts)
        np.testing.assert_array_equal(table.length, dataset.lengths)
        assert table.cdf[-1] == pytest.approx(1.0)


def test_weights_are_uniform_over_steps_where_all_episodes_score_alike():
    dataset = made(FIVE)
    table = dataset.weighted(0.1, dataset.returns).trajectories
    np.testing.assert_allclose(table.cdf, np.cumsum(dataset.lengths) / len(dataset), rtol=1e-6)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="^temperature=0: "):
        made(FIVE).weighted(0)


@pytest.mark.parametrize("baseline", [np.zeros((5, 1)), np.zeros(4), 0.0, [0, 0, np.nan, 0, 0]])
def test_a_baseline_that_is_not_one_number_per_episode_is_refused(baseline):
    """[E, 1] would make [E, E] scores of E."""
    with pytest.raises(ValueError, match="^baseline "):
        made(FIVE).weighted(0.1, baseline)


# --- Arrays that do not fit ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_obs": np.zeros((5, 2))}, r"'next_obs' has shape \(5, 2\), but there are 6 rows"),
        ({"action": np.zeros(())}, r"'action' has shape \(\), but there are 6 rows"),
        ({"reward": np.zeros((6, 1))}, r"'reward' has shape \(6, 1\), allowed is \(6,\)"),
        ({"terminated": np.zeros((6, 1), bool)}, r"'terminated' has shape \(6, 1\), allowed"),
        ({"truncated": np.zeros(7, bool)}, r"'truncated' has shape \(7,\), but there are 6 rows"),
        ({"reward": np.where(np.arange(6) == 3, np.nan, 0.0)}, "'reward' row 3 is not finite"),
        (
            {name: {"at": np.full((6, 2), np.inf)} for name in ("obs", "next_obs")},
            "'next_obs/at' row 0 is not finite|'obs/at' row 0 is not finite",
        ),
        ({"action": np.array([["a"]] * 6)}, "'action' holds <U1, not numbers"),
        ({"next_obs": np.zeros((6, 3))}, r"obs have shape \(2,\), next_obs \(3,\)"),
        ({"extras": {"success": np.zeros(5)}}, r"'extras/success' has shape \(5,\), not \(6,\)"),
        ({"terminated": np.zeros(0, bool)}, "no steps"),
    ],
)
def test_an_array_that_does_not_fit_is_named_with_the_row(changes, message):
    flags = np.zeros(6, bool)
    arrays = {"obs": np.zeros((6, 2)), "action": np.zeros((6, 1)), "reward": np.zeros(6)}
    arrays |= {"next_obs": np.zeros((6, 2)), "terminated": flags, "truncated": flags}
    from_arrays(**arrays)
    with pytest.raises(ValueError, match=f"^data: .*{message}"):
        from_arrays(**(arrays | changes))


# --- Fitting an environment ---


@struct.dataclass
class Shaped:
    """Spaces of any kind; it is never stepped."""

    observation_space: dict | Box = struct.field(pytree_node=False)
    action_space: Box = struct.field(pytree_node=False)

    def reset(self, key: jax.Array) -> State:
        is_box = lambda x: isinstance(x, Box)
        zeros = jax.tree.map(lambda b: jnp.zeros(b.shape), self.observation_space, is_leaf=is_box)
        return first_state(jnp.zeros(()), zeros)

    def step(self, state: State, action: jax.Array) -> State:
        return state


MAZE_OBS = {"obs": Box((3,)), "goal": Box((2,))}
FITS = Shaped(MAZE_OBS, Box((2,), (-2.0, 0.0), (4.0, 1.0)))


def with_actions(actions) -> Dataset:
    dataset = made([(len(actions), True)])
    actions = np.asarray(actions, np.float32)[:, None]
    return Dataset(dataset.steps.replace(action=actions))


def test_steps_for_scales_the_bounds_of_actions_to_1_and_leaves_the_rest():
    dataset = with_actions([[-2, 0], [4, 1], [1, 0.5], [2.5, 0.25], [4.0005, -0.0005]])
    steps = dataset.steps_for(FITS)
    scaled = [[-1, -1], [1, 1], [0, 0], [0.5, -0.5], [1, -1]]
    np.testing.assert_array_equal(steps.action[:, 0], np.float32(scaled))
    assert_same(steps.replace(action=()), dataset.steps.replace(action=()))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Shaped(MAZE_OBS, Box((3,), -1.0, 1.0)), r"actions have shape \(2,\), not \(3,\)"),
        (Shaped(MAZE_OBS, envs.types.Discrete(3)), r"actions have shape \(2,\), not \(\)"),
        (Shaped(MAZE_OBS, Box((2,), -0.5, 0.5)), r"actions\[1\]\[0\]=0.7 is outside -0.5 .. 0.5"),
        (Shaped(Box((3,)), FITS.action_space), "observations have shape"),
        (Shaped({"obs": Box((3,))}, FITS.action_space), "observations have shape"),
        (Shaped(MAZE_OBS | {"goal": Box((3,))}, FITS.action_space), "observations have shape"),
    ],
)
def test_steps_for_refuses_what_does_not_fit_the_environment(env, message):
    dataset = with_actions([[0.1, 0.5], [0.7, 0.5], [0.9, 0.5]])
    dataset.steps_for(FITS)
    with pytest.raises(ValueError, match=message) as error:
        dataset.steps_for(env)
    assert "\n" not in str(error.value)


def test_discrete_actions_are_the_integers_of_their_space():
    dataset = with_actions([0.0, 2.0, 1.0])
    dataset = dataclasses.replace(dataset, name="d.npz")
    steps = dataset.steps_for(Shaped(MAZE_OBS, envs.types.Discrete(3)))
    assert steps.action.dtype == np.int32 and steps.action[:, 0].tolist() == [0, 2, 1]
    for actions, n, wrong in (([0, 2, 1], 2, r"\[1\]=2"), ([0, 1, 0.5], 2, r"\[2\]=0.5")):
        with pytest.raises(ValueError, match=rf"^data: actions{wrong} must be a whole number, 0"):
            with_actions(actions).steps_for(Shaped(MAZE_OBS, envs.types.Discrete(n)))


@pytest.mark.parametrize(
    ("bound", "action", "refused"),
    [
        (0.002, 0.0020001, False),
        (0.002, 0.0028, True),  # an absolute tolerance of 1e-3 would let it pass
        (500.0, 500.4, False),
        (500.0, 502.0, True),
    ],
)
def test_actions_may_be_beyond_their_bounds_by_a_share_of_their_range(
    bound, action, refused, capsys
):
    env = Shaped(MAZE_OBS, Box((2,), -bound, bound))
    dataset = with_actions([[0.0, 0.0], [0.0, action], [0.0, 0.0]])
    if refused:
        with pytest.raises(ValueError, match=r"^data: actions\[1\]\[1\]=.* is outside"):
            dataset.steps_for(env)
        return
    assert dataset.steps_for(env).action.max() == 1.0
    assert "data: actions of 1 of 3 steps are up to" in capsys.readouterr().out


def test_actions_at_their_bounds_but_for_rounding_are_clipped_without_a_word(capsys):
    env = Shaped(MAZE_OBS, Box((2,), -1.0, 1.0))
    with_actions([[1.0000001, -1.0000001]]).steps_for(env)
    assert capsys.readouterr().out == ""


def test_errors_name_the_file_and_the_environment_that_the_data_are_of():
    dataset = made(FIVE, env="hopper")
    named = dataclasses.replace(dataset, name="data/hopper.npz")
    env = Shaped(MAZE_OBS, Box((3,), -1.0, 1.0))
    message = r"^data/hopper.npz: actions have shape \(2,\) \(metadata: env='hopper'\), not"
    with pytest.raises(ValueError, match=message):
        named.take([0, 1]).steps_for(env)


# --- Steps whose next observation is not known ---


def unfollowed(rows) -> Dataset:
    dataset = with_actions(np.zeros((4, 2)))
    dataset.steps.valid[rows] = False
    return dataset


def test_cloning_keeps_steps_without_a_next_observation_and_bootstrapping_leaves_them_out():
    dataset = unfollowed([3])
    for learner, kept in ((bc, [True] * 4), (iql, [True] * 3 + [False])):
        made_of = learner.make(FITS, learner.Config(), dataset).data[0]
        assert made_of.valid[:, 0].tolist() == kept
    rows = imitation.make(FITS, imitation.Config(horizon=2, execute=2), dataset).data
    assert rows.end.tolist() == [3] * 4  # the last action is one that a plan learns


def test_bootstrapping_says_that_no_reward_is_left(capsys):
    dataset = unfollowed([3])
    dataset.steps.reward[:] = 0.0
    dataset.steps.reward[3] = 1.0
    dataset.for_cloning().source_for(FITS)
    assert capsys.readouterr().out == ""
    dataset.source_for(FITS)
    assert capsys.readouterr().out.startswith("data: all reward is at steps without a next obs")


def test_an_episode_beyond_the_time_limit_is_named_with_its_rows(capsys):
    dataset = with_actions(np.zeros((6, 2)))
    dataset.steps.truncated[1] = True  # episodes of 2 and 4 steps
    dataset.steps_for(time_limit(FITS, 4))
    assert capsys.readouterr().out == ""
    dataset.steps_for(time_limit(FITS, 3))
    expected = "data: episode 1 (rows 2 .. 5) has 4 steps, the environment's limit is 3"
    assert capsys.readouterr().out.startswith(expected)


def test_data_without_any_next_observation_are_for_cloning_alone():
    dataset = unfollowed([0, 1, 2, 3])
    bc.make(FITS, bc.Config(), dataset)
    with pytest.raises(ValueError, match="^data: no step has a next observation, only cloning"):
        iql.make(FITS, iql.Config(), dataset)


# --- Recording ---


@struct.dataclass
class Walk:
    """x grows by 1 + action and pays itself; ends above `edge`, is NaN above `breaks`."""

    edge: float = 6.0
    breaks: float = np.inf
    start: float = 4.0
    terminates: bool = struct.field(pytree_node=False, default=True)

    observation_space = Box((2,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        x = jax.random.uniform(key, (), maxval=self.start)
        return first_state(x, jnp.stack([x, 0.5 * x]), {"success": jnp.zeros(()), "x": x})

    def step(self, state: State, action: jax.Array) -> State:
        x = state.data + 1.0 + action[0]
        x = jnp.where(x > self.breaks, jnp.nan, x)
        ended = x > self.edge
        return state.replace(
            data=x,
            obs=jnp.stack([x, 0.5 * x]),
            reward=x,
            terminated=ended & self.terminates,
            truncated=ended & (not self.terminates),
            metrics={"success": (x > 5.0).astype(jnp.float32), "x": x},
        )


def act(scale, steps, obs, key, deterministic):
    noise = 0.0 if deterministic else 0.3 * jax.random.normal(key)
    return jnp.array([scale * steps + noise]), steps + 1


POLICY = Policy(jnp.float32(0.05), lambda: jnp.zeros((), jnp.int32), act)
WALK = time_limit(Walk(), 5)
KEY = jax.random.key(1)
record = partial(recording.record, POLICY, key=KEY)
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}  # programs for other batch sizes round otherwise


@pytest.fixture(scope="module")
def seven() -> Dataset:
    """Seven episodes of a noisy policy, some cut by the clock."""
    return record(WALK, 7, metadata={"task": "walk"})


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_recording_has_the_episodes_asked_for_however_many_run_at_once(seven, num_envs):
    again = record(WALK, 7, num_envs=num_envs)
    assert len(split(again)) == len(again.lengths) == 7
    assert_same(again.steps, seven.steps, **ROUNDING)
    assert_same(again.extras, seven.extras, **ROUNDING)
    assert seven.metadata == {"task": "walk"}


def test_a_longer_recording_begins_with_the_shorter_one(seven):
    assert_same(record(WALK, 4).steps, seven.take(np.arange(4)).steps, **ROUNDING)


def test_recorded_steps_chain_within_an_episode_and_are_what_the_environment_does(seven):
    steps = jax.tree.map(lambda x: x[:, 0], seven.steps)
    inside = np.setdiff1d(np.arange(len(seven)), seven.ends)
    assert len(inside) > 10
    np.testing.assert_array_equal(steps.next_obs[inside], steps.obs[inside + 1])
    moved = steps.next_obs[:, 0] - steps.obs[:, 0]
    np.testing.assert_allclose(moved, 1 + steps.action[:, 0], atol=1e-5)
    np.testing.assert_array_equal(steps.reward, steps.next_obs[:, 0])
    np.testing.assert_array_equal(seven.extras["x"], steps.next_obs[:, 0])
    np.testing.assert_array_equal(steps.terminated, steps.reward > 6.0)
    ended = steps.terminated[seven.ends]
    assert ended.any() and not ended.all()  # the others by the clock
    np.testing.assert_array_equal(steps.truncated[seven.ends], ~ended)
    assert (seven.lengths[~ended] == 5).all()


@pytest.mark.parametrize(
    ("env", "deterministic"), [(WALK, True), (time_limit(Walk(breaks=4.5, start=3.0), 5), False)]
)
def test_a_recording_has_the_episodes_that_evaluate_measures(env, deterministic):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(9))
    measured = jax.jit(partial(evaluate, env, deterministic=deterministic))(POLICY, keys)
    recorded = record(env, 9, deterministic=deterministic, num_envs=4)
    np.testing.assert_array_equal(recorded.lengths, measured["length"])
    whole = ~np.asarray(measured["nonfinite"])  # the return of a broken episode is undefined
    assert np.isnan(measured["return"][~whole]).all()
    np.testing.assert_allclose(recorded.returns[whole], measured["return"][whole], rtol=1e-5)
    last = recorded.steps.terminated[recorded.ends, 0]
    np.testing.assert_array_equal(last, measured["terminated"])
    assert measured["nonfinite"].any() == (env is not WALK)


def test_a_recording_is_cut_before_a_step_that_is_not_finite():
    recorded = record(time_limit(Walk(breaks=4.5), 5), 6)
    assert np.isfinite(recorded.steps.next_obs).all() and np.isfinite(recorded.steps.reward).all()
    assert recorded.steps.truncated[recorded.ends].all() and (recorded.lengths < 5).all()


def test_a_recording_has_the_action_carried_out_and_the_signals():
    env = Probe(length=3.0, signals=True)
    policy = Policy((), lambda: (), lambda *_: (jnp.full(1, 0.8), ()))
    dataset = recording.record(policy, env, 2, KEY)
    assert (dataset.steps.action == np.float32(0.4)).all() and len(dataset) == 6
    assert set(dataset.steps.signals) == {"cost"}
    np.testing.assert_array_equal(dataset.steps.signals["cost"], np.full((6, 1), 0.4, np.float32))
    both = data.concatenate(dataset, recording.record(policy, Probe(length=3.0), 1, KEY))
    assert both.steps.signals == {} and len(both) == 9


def test_an_environment_that_breaks_at_once_or_no_episode_at_all_is_an_error():
    with pytest.raises(RuntimeError, match="^episode 0: "):
        record(time_limit(Walk(breaks=0.0), 5), 2)
    with pytest.raises(ValueError, match="^num_episodes=0: "):
        record(WALK, 0)


def test_a_recording_of_dict_observations_fits_its_environment():
    env = envs.make("point_maze_open", time_limit=4)
    right = Policy((), lambda: (), lambda p, carry, obs, key, d: (jnp.array([1.0, 0.5]), carry))
    recorded = recording.record(right, env, 3, KEY)
    assert recorded.steps.obs["goal"].shape == (len(recorded), 1, 2)
    assert {"success", "distance"} <= set(recorded.extras)
    np.testing.assert_array_equal(recorded.steps_for(env).action[0, 0], [1.0, 0.5])


# --- From an online learner's replay ---

BREAKS = time_limit(Walk(breaks=4.5), 3)


@pytest.fixture(scope="module")
def snapshots():
    """Two runs of SAC whose replays of 6 rows get 2 at a time: states, and all that was written.

    After 2 steps (4 rows) and after 5 (10 rows).
    """
    config = sac.Config(
        num_envs=2,
        unroll_length=2,
        updates_per_step=1,
        batch_size=2,
        replay_size=12,
        learning_starts=1000,
        actor_hidden=(4,),
        critic_hidden=(4,),
    )
    learner = sac.make(BREAKS, config)
    state = jax.jit(jax.vmap(learner.init))(jax.random.split(jax.random.key(3), 2))
    step = jax.jit(jax.vmap(learner.step))
    written, found = [], {}
    for i in range(1, 6):
        state, _ = step(state)
        newest = (jnp.arange(-2, 0) + state.replay.position[0]) % 6
        written.append(jax.tree.map(lambda x, r=newest: x[:, r], state.replay.steps))
        found[i] = state, jax.tree.map(lambda *x: np.concatenate(x, 1), *written)
    return found


@pytest.mark.parametrize(("steps", "rows"), [(2, 4), (5, 6)])
@pytest.mark.parametrize("index", [0, 1])
def test_a_data_set_from_a_replay_is_its_whole_episodes_without_broken_steps(
    snapshots, steps, rows, index
):
    state, written = snapshots[steps]
    kept = jax.tree.map(lambda x: x[index, -rows:], written)  # [rows, 2]
    episodes, whole = [[]], []  # (row, environment); whether it began and ended within
    for env in range(2):
        begun = rows < 6  # nothing was overwritten
        for t in range(rows):
            episodes[-1].append((t, env))
            if (ends := kept.terminated[t, env] or kept.truncated[t, env]) or t == rows - 1:
                whole.append(begun and bool(ends))
                episodes.append([])
                begun = True
    assert any(whole) and not all(whole)
    expected = []  # obs, next_obs, action, reward, terminated, truncated
    for episode in [e for e, w in zip(episodes, whole, strict=False) if w]:
        for t, env in episode:
            if not kept.valid[t, env]:
                continue
            cut = t == rows - 1 or not kept.valid[t + 1, env]
            terminated = kept.terminated[t, env]
            truncated = (kept.truncated[t, env] or cut) and not terminated
            step = [kept.obs, kept.next_obs, kept.action, kept.reward]
            expected.append([*(x[t, env] for x in step), terminated, truncated])
    assert not kept.valid.all()  # else nothing was dropped
    s = recording.from_replay(state, index, BREAKS, {"from": "sac"}).steps
    found = [s.obs, s.next_obs, s.action, s.reward, s.terminated, s.truncated]
    for x, column in zip(found, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(x[:, 0], np.stack(column), rtol=1e-6)


def test_a_data_set_from_a_replay_has_actions_in_the_environments_units(snapshots):
    state, _ = snapshots[5]
    wide = BREAKS.replace(env=Wide())
    narrow, scaled = (recording.from_replay(state, 0, env) for env in (BREAKS, wide))
    np.testing.assert_allclose(scaled.steps.action, 1 + 2 * narrow.steps.action, rtol=1e-6)
    np.testing.assert_allclose(
        scaled.steps_for(wide).action, narrow.steps_for(BREAKS).action, atol=1e-6
    )


class Wide(Walk):
    action_space = Box((1,), -1.0, 3.0)


def test_a_state_without_a_replay_is_refused():
    with pytest.raises(ValueError, match="no replay"):
        recording.from_replay(object(), 0, BREAKS)


# --- Statistics ---


def test_statistics_by_hand():
    obs = np.array([[0.0], [0.1], [5.5], [10.0]])
    done = np.array([False, True, False, False])
    dataset = from_arrays(
        obs,
        np.zeros((4, 1)),
        np.array([1.0, 2.0, 3.0, 4.0]),
        obs,
        done,
        ~done & False,
        {"success": np.array([0.0, 0.0, 1.0, 0.0])},
    )
    expected = {
        "episodes": 2,
        "steps": 4,
        "return_mean": 5,
        "return_std": 2,
        "return_min": 3,
        "return_max": 7,
        "length_mean": 2,
        "terminated": 0.5,
        "success": 0.5,
        "success_at_end": 0.0,
        "coverage": 0.3,  # of ten cells; the first two steps share one
    }
    assert data_stats.statistics(dataset) == pytest.approx(expected)
    dataset.metadata.update(random_return=1.0, expert_return=9.0)
    assert data_stats.statistics(dataset) == pytest.approx(expected | {"quality": 0.5})
    dataset.metadata.update(expert_return=1.0)  # no scale
    assert data_stats.statistics(dataset) == pytest.approx(expected)


def spread(width, rows=2000, seed=0, center=0.0) -> Dataset:
    """Uniform points of that width in the two first of 20 entries; the others follow them."""
    rng = np.random.default_rng(seed)
    x = center + width * rng.uniform(-1, 1, (rows, 2))
    obs = np.c_[x, x @ rng.normal(size=(2, 17))]
    return from_arrays(obs, x[:, :1], x[:, 0], obs, np.zeros(rows, bool), np.ones(rows, bool))


def test_coverage_by_a_reference_is_less_for_narrow_data_and_counts_what_lies_beyond():
    wide, narrow = spread(1.0), spread(0.2, seed=0)
    assert data_stats.coverage(wide, wide) == 1.0
    assert 0.02 < data_stats.coverage(narrow, wide) < 0.15  # 0.2 squared, and borders
    assert data_stats.coverage(narrow) == pytest.approx(
        data_stats.coverage(wide), abs=0.02
    )  # own range
    assert data_stats.coverage(spread(1.0, center=1.0), wide) > 0.8
    assert data_stats.statistics(narrow, wide)["coverage"] == data_stats.coverage(narrow, wide)


def test_coverage_of_data_that_do_not_vary_is_of_one_cell():
    point = spread(0.0)
    assert data_stats.coverage(point) == 1.0
    assert data_stats.coverage(point, spread(1.0)) < 0.02


def test_statistics_of_images_take_seconds():
    rng = np.random.default_rng(0)
    obs = rng.random((200, 64, 64, 3), np.float32)  # all 12,288 entries took minutes
    end = np.ones(200, bool)
    dataset = from_arrays(obs, np.zeros((200, 1)), np.zeros(200), obs, end, ~end)
    begin = time.perf_counter()
    assert 0 < data_stats.coverage(dataset) <= 1
    assert time.perf_counter() - begin < 20


def test_success_is_counted_once_per_episode_and_left_out_where_it_is_not_measured():
    dataset = made(FIVE)
    ever = [dataset.extras["success"][rows].any() for rows in split(dataset)]
    assert data_stats.statistics(dataset)["success"] == np.mean(ever)
    assert "success" not in data_stats.statistics(Dataset(dataset.steps))


def test_normalized_is_0_for_random_and_1_for_the_expert():
    scores = data_stats.normalized(np.array([20.0, 120.0, 70.0, 220.0]), 20.0, 120.0)
    np.testing.assert_allclose(scores, [0.0, 1.0, 0.5, 2.0])
