"""Minari data sets come back equal; a damaged one is one line that names the episode."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from probes import assert_same
from test_data_files import T, assert_equal, made

import envs
from envs.adapters.gymnasium import to_gymnasium_space
from envs.types import Box
from jaxrl.data.dataset import from_arrays
from jaxrl.data.minari import _from_episodes, from_minari, to_minari

h5py = pytest.importorskip("h5py", reason="Minari data sets need h5py")


@pytest.mark.parametrize(
    "use", [lambda: from_minari("walk-v0"), lambda: to_minari(made(), "walk-v0", None)]
)
def test_minari_that_is_missing_is_named_with_how_to_get_it(monkeypatch, use):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match="need minari: pip install"):
        use()


SPACES = {False: Box((3,)), True: {"obs": Box((3,)), "goal": Box((2,))}}


class Spaces:
    """What an export needs of an environment."""

    action_space = Box((2,), -1.0, 1.0)

    def __init__(self, dict_obs):
        self.observation_space = SPACES[dict_obs]


@pytest.fixture
def minari(tmp_path, monkeypatch):
    module = pytest.importorskip("minari", reason="Minari data sets need minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")  # it wants an author, a link, ...
@pytest.mark.parametrize("dict_obs", [False, True])
def test_a_minari_data_set_comes_back_equal(minari, dict_obs):
    dataset = made(dict_obs)
    to_minari(dataset, "test/walk-v0", Spaces(dict_obs), description="three episodes")
    again = from_minari("test/walk-v0")
    assert_equal(again, dataset)
    assert again.metadata == dataset.metadata | {"minari": "test/walk-v0"}
    theirs = minari.load_dataset("test/walk-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (3, T)
    assert theirs.storage.metadata["description"] == "three episodes"


def with_signals():
    dataset = made()
    rows = np.arange(T, dtype=np.float32)[:, None]
    signals = {"cost": rows, "force": np.stack([rows, -rows], -1), "intervened": 1.0 * (rows > 4)}
    steps = dataset.steps.replace(signals=signals)
    return dataclasses.replace(dataset, steps=steps)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_signals_go_to_minari_and_come_back(minari):
    dataset = with_signals()
    to_minari(dataset, "walk-v0", Spaces(False))
    again = from_minari("walk-v0")
    assert_same(again.steps.signals, dataset.steps.signals)
    assert again.extras.keys() == dataset.extras.keys()
    (first, *_) = minari.load_dataset("walk-v0").iterate_episodes()
    assert first.infos["signals"]["cost"].tolist() == [0, 0, 1, 2, 3]  # the reset, then the steps


@pytest.mark.parametrize(
    "cost, message",
    [
        (np.zeros(7), r"episode 0: infos/signals/cost is float64\[7\], not numbers for 2 actions"),
        (np.array(["a", "b"]), r"episode 0: infos/signals/cost is <U1\[2\], not numbers for 2"),
    ],
)
def test_signals_that_do_not_fit_are_named(cost, message):
    episode = SimpleNamespace(
        observations=np.zeros((3, 3)),
        actions=np.zeros((2, 2)),
        rewards=np.zeros(2),
        terminations=np.zeros(2, bool),
        truncations=np.zeros(2, bool),
        infos={"signals": {"cost": cost}},
    )
    with pytest.raises(ValueError, match=f"^{message}"):
        _from_episodes([episode], {})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_minari_data_set_fits_the_environment_that_it_is_of(minari):
    env = envs.make("point_maze_open")
    obs = {"obs": np.zeros((4, 4)), "goal": np.ones((4, 2))}
    done = np.array([False, True, False, True])
    dataset = from_arrays(obs, np.full((4, 2), 0.5), np.ones(4), obs, done, ~done & False)
    theirs = to_minari(dataset, "maze-v0", env)
    episode = next(iter(theirs.iterate_episodes()))
    assert theirs.observation_space.contains({k: v[0] for k, v in episode.observations.items()})
    assert theirs.action_space.contains(episode.actions[0])
    from_minari("maze-v0").steps_for(env)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reset_info", [True, False])
def test_metrics_of_others_are_those_of_the_steps(minari, reset_info):
    """A reset has infos too, where they were recorded; texts are no metrics."""
    from minari.data_collector import EpisodeBuffer

    first = [-1.0] if reset_info else []
    buffers = [
        EpisodeBuffer(
            observations=np.zeros((n + 1, 3), np.float32),
            actions=np.zeros((n, 2), np.float32),
            rewards=[1.0] * n,
            terminations=[False] * n,
            truncations=[False] * n,  # an episode ends all the same
            infos={
                "speed": np.array([*first, *range(n)]),
                "name": ["a"] * (n + len(first)),
                "qpos": np.zeros((n + 1, 2)),
            },
        )
        for n in (2, 3)
    ]
    minari.create_dataset_from_buffers(
        "others-v0",
        buffers,
        observation_space=to_gymnasium_space(SPACES[False]),
        action_space=to_gymnasium_space(Spaces.action_space),
    )
    dataset = from_minari("others-v0")
    assert_same(dataset.extras, {"speed": np.array([0, 1, 0, 1, 2], np.float32)})
    assert dataset.lengths.tolist() == [2, 3] and dataset.steps.truncated[[1, 4]].all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_existing_minari_data_set_is_not_overwritten(minari):
    old = made()
    to_minari(old, "walk-v0", Spaces(False))
    with pytest.raises(ValueError, match="walk-v0"):
        to_minari(made(), "walk-v0", Spaces(False))
    assert_equal(from_minari("walk-v0"), old)


def test_a_minari_data_set_that_is_not_here_is_one_line(minari):
    with pytest.raises(ValueError, match="^no Minari data set 'walk-v0' on this machine$"):
        from_minari("walk-v0")


def test_a_minari_data_set_cannot_hold_steps_that_lead_elsewhere(minari):
    dataset = made()
    dataset.steps.next_obs[4] += 1.0
    with pytest.raises(ValueError, match=r"^data: next_obs\[4\] is not obs\[5\], as Minari wants"):
        to_minari(dataset, "walk-v0", Spaces(False))
    with pytest.raises(ValueError, match="^no Minari data set"):
        from_minari("walk-v0")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"action_space": Box((3,), -1.0, 1.0)}, r"actions have shape \(2,\), not \(3,\)"),
        ({"action_space": Box((2,), -0.1, 0.1)}, "outside -0.1 .. 0.1"),
        ({"observation_space": Box((4,))}, r"observations have shape \(3,\), the environment's"),
    ],
)
def test_a_minari_data_set_is_not_written_with_the_spaces_of_another_environment(
    minari, space, message
):
    env = Spaces(False)
    for name, value in space.items():
        setattr(env, name, value)
    with pytest.raises(ValueError, match=f"^data: .*{message}"):
        to_minari(made(), "walk-v0", env)


def test_a_minari_data_set_needs_every_last_observation(minari):
    dataset = made()
    dataset.steps.valid[5] = False
    with pytest.raises(ValueError, match="^data: where step 5 led was not recorded"):
        to_minari(dataset, "walk-v0", Spaces(False))


def episode(steps, count=None, width=3, **changes):
    """As Minari gives it; by default with one observation more than steps."""
    count = steps + 1 if count is None else count
    arrays = {
        "observations": np.zeros((count, width)),
        "actions": np.zeros((steps, 2)),
        "rewards": np.zeros(steps),
        "terminations": np.zeros(steps, bool),
        "truncations": np.zeros(steps, bool),
        "infos": None,
    }
    return SimpleNamespace(**(arrays | changes))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        # A missing and a surplus observation have the right sum: all rows between would be shifted.
        ([episode(5, 5), episode(4, 6)], "episode 1: 5 observations for 5 actions, not 6"),
        ([episode(4, rewards=np.zeros(3))], "episode 1: 3 rewards for 4 actions"),
        ([episode(4), episode(3, truncations=[])], "episode 2: 0 truncations for 3 actions"),
        ([episode(0)], "episode 1: no steps"),
        (
            [episode(4, width=4)],
            r"episode 1: observations and actions are \(\(4,\), \(2,\)\), not \(\(3,\), \(2,\)\)",
        ),
        (
            [episode(4, observations={"obs": np.zeros((5, 3)), "goal": np.zeros((4, 2))})],
            "episode 1: 4 observations/goal for 4 actions, not 5",
        ),
    ],
)
def test_an_episode_whose_arrays_do_not_fit_each_other_is_named(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        _from_episodes(iter([episode(5), *wrong]), {})


def without_rewards(folder):
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_1"]["rewards"]


def linked(folder):
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_1"]["rewards"]
        file["episode_1"]["rewards"] = h5py.ExternalLink("/etc/secret.hdf5", "/rewards")


def with_nan(folder):
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_1"]["observations"][1] = np.nan


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:90])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "damage, why",
    [
        (cut("main_data.hdf5"), ""),
        (cut("metadata.json"), ""),
        (without_rewards, "rewards"),
        (linked, "'episode_1/rewards' is an external link, which is not followed"),
        (with_nan, "data: array 'next_obs' row 4 is not finite"),
    ],
)
def test_a_damaged_minari_data_set_is_one_line(minari, tmp_path, damage, why):
    to_minari(made(), "walk-v0", Spaces(False))
    damage(tmp_path / "walk-v0" / "data")
    with pytest.raises(ValueError) as error:
        from_minari("walk-v0")
    message = str(error.value)
    assert message.startswith("Minari data set 'walk-v0' cannot be read (") and why in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nested_observations_of_minari_are_refused(minari):
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    x = np.zeros((3, 2), np.float32)
    no = [False, False]
    buffer = EpisodeBuffer(
        observations={"hand": {"touch": x}},
        actions=x[:2],
        rewards=[0.0, 0.0],
        terminations=no,
        truncations=no,
    )
    space = spaces.Box(-np.inf, np.inf, (2,))
    minari.create_dataset_from_buffers(
        "hand-v0",
        [buffer],
        observation_space=spaces.Dict({"hand": spaces.Dict({"touch": space})}),
        action_space=to_gymnasium_space(Spaces.action_space),
    )
    with pytest.raises(
        ValueError, match=r"'hand-v0' cannot be read \(observations hold a dict, not only arrays"
    ):
        from_minari("hand-v0")
