"""Files come back bit for bit; a hostile one is one line that names it."""

import dataclasses
import json
import pickle
import re
import sys
import zipfile

import jax
import numpy as np
import pytest
from probes import assert_same

import envs
from envs.adapters.gymnasium import to_gymnasium_space
from envs.types import Box
from jaxrl.data import files as data_files
from jaxrl.data.dataset import Dataset, from_arrays

try:
    import h5py
except ImportError:
    h5py = None

needs_h5py = pytest.mark.skipif(h5py is None, reason="HDF5 files need h5py")
FORMATS = [".npz", *(pytest.param(suffix, marks=needs_h5py) for suffix in (".hdf5", ".h5"))]
T = 9
RNG = np.random.default_rng(0)


def made(dict_obs=False) -> Dataset:
    """Three episodes, of which the second was cut short; observations chain."""
    flags = np.zeros((2, T), bool)
    flags[0, [3, 8]] = flags[1, 5] = True
    obs = RNG.normal(size=(T, 3)).astype(np.float32)
    next_obs = np.roll(obs, -1, 0)
    next_obs[flags.any(0)] = 9.0
    tree = lambda x: {"obs": x, "goal": x[:, :2] + 1} if dict_obs else x
    return from_arrays(
        tree(obs),
        RNG.uniform(-1, 1, (T, 2)),
        RNG.normal(size=T),
        tree(next_obs),
        *flags,
        {"success": np.arange(T, dtype=np.float32), "speed": np.full(T, np.nan, np.float32)},
        {"task": "maze", "seeds": [1, 2], "noise": {"obs": 0.5}},
    )


def assert_equal(a: Dataset, b: Dataset) -> None:
    assert_same(a.steps, b.steps)
    assert_same(a.extras, b.extras)
    dtypes = lambda dataset: jax.tree.map(lambda x: x.dtype, dataset.steps)
    assert dtypes(a) == dtypes(b)


# --- There and back ---


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dict_obs", [False, True])
def test_a_file_comes_back_bit_for_bit(tmp_path, suffix, dict_obs):
    dataset, path = made(dict_obs), tmp_path / "new" / f"data{suffix}"
    data_files.save(dataset, path)
    again = data_files.load(str(path))
    assert_equal(again, dataset)
    assert again.metadata == dataset.metadata
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_signals_come_back_bit_for_bit(tmp_path, suffix):
    rng = np.random.default_rng(1)
    signals = {"cost": rng.normal(size=T), "force": rng.normal(size=(T, 6))}
    steps = made().steps
    flat = (steps.obs, steps.action, steps.reward, steps.next_obs, steps.terminated)
    flat = [x[:, 0] for x in (*flat, steps.truncated)]
    dataset, path = from_arrays(*flat, signals=signals), tmp_path / f"data{suffix}"
    data_files.save(dataset, path)
    again = data_files.load(path)
    assert again.steps.signals["force"].shape == (T, 1, 6)
    assert_equal(again, dataset)
    signals["cost"][3] = np.nan
    with pytest.raises(ValueError, match="'signals/cost' row 3 is not finite"):
        from_arrays(*flat, signals=signals)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_existing_file_is_not_overwritten(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} exists"):
        data_files.save(made(), path)
    assert path.read_bytes() == b"mine"


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.pkl: must end in \.npz"):
        data_files.save(made(), tmp_path / "data.pkl")


def test_metadata_that_cannot_be_json_are_named(tmp_path):
    odd = dataclasses.replace(made(), metadata={"return": np.float32(3.0)})
    with pytest.raises(ValueError, match="^metadata={'return': .*: must be plain JSON values"):
        data_files.save(odd, tmp_path / "data.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_that_cannot_be_is_one_line(tmp_path, suffix):
    (tmp_path / "file").write_bytes(b"mine")
    path = tmp_path / "file" / f"data{suffix}"
    with pytest.raises(RuntimeError, match=f"^cannot write {re.escape(str(path))}: .+$"):
        data_files.save(made(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, suffix, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(data_files.os, "replace", fail)
    with pytest.raises((RuntimeError, KeyboardInterrupt)) as raised:
        data_files.save(made(), tmp_path / f"data{suffix}")
    assert list(tmp_path.iterdir()) == []
    assert raised.type is KeyboardInterrupt or "No space left on device" in str(raised.value)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("h5py", lambda: data_files.save(made(), "data.hdf5")),
        ("minari", lambda: minari.from_minari("walk-v0")),
        ("minari", lambda: minari.to_minari(made(), "walk-v0", None)),
    ],
)
def test_a_package_that_is_missing_is_named_with_how_to_get_it(tmp_path, monkeypatch, package, use):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"need {package}: pip install"):
        use()
    assert list(tmp_path.iterdir()) == []


# --- Files of others ---


def arrays(**changes) -> dict[str, np.ndarray]:
    """A good file of six steps without next_observations, changed; None leaves one out."""
    good = {
        "observations": np.arange(12, dtype=np.float32).reshape(6, 2),
        "actions": np.zeros((6, 1), np.float32),
        "rewards": np.arange(6, dtype=np.float32),
        "terminals": np.zeros(6, bool),
        "timeouts": np.zeros(6, bool),
    }
    return {k: v for k, v in (good | changes).items() if v is not None}


def write(path, arrays, metadata=None):
    if path.suffix == ".npz":
        metadata = {} if metadata is None else {"metadata": np.array(metadata)}
        np.savez(path, **arrays, **metadata)
        return path
    with h5py.File(path, "w") as file:
        if metadata is not None:
            file.attrs["metadata"] = metadata
        for name, x in arrays.items():
            file.create_dataset(name, data=x.astype("S") if x.dtype.kind == "U" else x)
    return path


def flags(*rows):
    return np.isin(np.arange(6), rows)


@pytest.fixture(params=FORMATS[:2])
def path(request, tmp_path):
    return tmp_path / f"data{request.param}"


@pytest.mark.parametrize(
    ("terminals", "timeouts", "kept", "led_to", "terminated", "truncated"),
    [
        # The last step leads nowhere that was recorded.
        ([], [], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [], [4]),
        ([], [2], [0, 1, 3, 4], [1, 2, 4, 5], [], [1, 4]),
        ([2], [], [0, 1, 2, 3, 4], [1, 2, 2, 4, 5], [2], [4]),
        ([2, 5], [3], [0, 1, 2, 4, 5], [1, 2, 2, 5, 5], [2, 5], []),
        ([2], [2], [0, 1, 2, 3, 4], [1, 2, 2, 4, 5], [2], [4]),
        ([1], [3, 4], [0, 1, 2], [1, 1, 3], [1], [2]),
        ([5], [], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 5], [5], []),
    ],
)
def test_without_next_observations_a_step_leads_to_the_next_row_or_is_dropped(
    path, terminals, timeouts, kept, led_to, terminated, truncated
):
    good = arrays(terminals=flags(*terminals).astype(np.float32), timeouts=flags(*timeouts))
    steps = data_files.load(write(path, good)).steps
    assert steps.reward[:, 0].tolist() == kept
    np.testing.assert_array_equal(steps.obs[:, 0], good["observations"][kept])
    np.testing.assert_array_equal(steps.next_obs[:, 0], good["observations"][led_to])
    assert np.array(kept)[steps.terminated[:, 0]].tolist() == terminated
    assert np.array(kept)[steps.truncated[:, 0]].tolist() == truncated


def test_with_next_observations_every_step_is_kept_and_keeps_how_it_ended(path):
    led_to = np.full((6, 2), 7.0)
    good = arrays(terminals=flags(1), timeouts=flags(3), next_observations=led_to)
    dataset = data_files.load(write(path, good))
    assert dataset.ends.tolist() == [1, 3, 5]
    assert dataset.steps.terminated[[1, 3, 5], 0].tolist() == [True, False, False]
    np.testing.assert_array_equal(dataset.steps.next_obs[:, 0], led_to)


def test_terminals_may_only_mark_where_recordings_end(path):
    """As in OGBench, which has neither time-outs nor rewards."""
    good = arrays(terminals=flags(2, 5), timeouts=None, rewards=None)
    dataset = data_files.load(write(path, good), terminals_are_timeouts=True)
    assert not dataset.steps.terminated.any() and dataset.ends.tolist() == [1, 3]
    np.testing.assert_array_equal(dataset.steps.next_obs[:, 0], good["observations"][[1, 2, 4, 5]])
    assert (dataset.returns == 0).all()


def test_entries_of_a_dict_and_metrics_are_dropped_with_their_steps(path):
    x = np.arange(6.0)
    entries = {"observations/obs": x[:, None], "observations/goal": -x[:, None]}
    infos = {"infos/speed": x, "infos/qpos": np.zeros((6, 3)), "infos/count": x[:4]}
    infos["infos/name"] = np.array(["a"] * 6)
    good = arrays(observations=None, timeouts=flags(2), **entries, **infos)
    dataset = data_files.load(write(path, good))
    assert dataset.steps.obs["obs"].ravel().tolist() == [0, 1, 3, 4]
    assert dataset.steps.next_obs["goal"].ravel().tolist() == [-1, -2, -4, -5]
    assert_same(dataset.extras, {"speed": np.array([0, 1, 3, 4], np.float32)})


def test_integers_and_doubles_become_single_precision(path):
    good = arrays(observations=np.arange(12).reshape(6, 2), actions=np.zeros((6, 1)))
    steps = data_files.load(write(path, good)).steps
    assert steps.obs.dtype == steps.action.dtype == steps.next_obs.dtype == np.float32
    assert steps.terminated.dtype == steps.truncated.dtype == bool


# --- Hostile files ---


def refused(path, **options) -> str:
    """The one line about a file that is not read."""
    with pytest.raises(ValueError) as error:
        data_files.load(path, **options)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def nan_at(row, *shape):
    x = np.zeros((6, *shape), np.float32)
    x[row] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": None}, "array 'actions' is missing; it has observations"),
        ({"rewards": None}, "array 'rewards' is missing"),
        ({"terminals": None}, "array 'terminals' is missing"),
        ({"observations": None}, "array 'observations' is missing"),
        ({"observations": nan_at(4, 2)}, "array 'observations' row 4 is not finite"),
        ({"next_observations": nan_at(2, 2)}, "array 'next_observations' row 2 is not finite"),
        ({"actions": nan_at(0, 1)}, "array 'actions' row 0 is not finite"),
        ({"rewards": nan_at(5)}, "array 'rewards' row 5 is not finite"),
        ({"rewards": np.where(flags(3), np.inf, 0.0)}, "array 'rewards' row 3 is not finite"),
        ({"rewards": np.array([0, 1e39, 0, 0, 0, 0])}, "array 'rewards' row 1 is not finite"),
        (
            {"observations": np.zeros((5, 2))},
            r"'observations' has shape \(5, 2\), but .* 6 rows",
        ),
        ({"rewards": np.zeros(7)}, r"'rewards' has shape \(7,\), but there are 6 rows"),
        ({"timeouts": np.zeros(())}, r"'timeouts' has shape \(\), but there are 6 rows"),
        ({"next_observations": np.zeros((5, 2))}, "'next_observations' has shape"),
        ({"rewards": np.zeros((6, 1))}, r"'rewards' has shape \(6, 1\), allowed is \(6,\)"),
        ({"terminals": np.zeros((6, 1))}, r"'terminals' has shape \(6, 1\), allowed is \(6,\)"),
        ({"actions": np.zeros(6)}, r"'actions' has shape \(6,\), allowed is \(6, A\)"),
        ({"actions": np.zeros((0, 1))}, "array 'actions' is empty"),
        ({"actions": np.zeros(())}, "array 'actions' is empty"),
        ({"rewards": np.array(["one"] * 6)}, "array 'rewards' holds .*, not numbers"),
        ({"rewards": np.zeros(6, complex)}, "array 'rewards' holds complex128, not numbers"),
        ({"timeouts": flags(*range(6))}, "no step is left"),
        (
            {"next_observations": np.zeros((6, 5))},
            r"observations have shape \(2,\), next_observations \(5,\)",
        ),
    ],
)
def test_an_array_that_is_not_what_it_should_be_is_named(path, changes, message):
    assert re.search(message, refused(write(path, arrays(**changes))))


def test_an_entry_of_a_dict_is_named(path):
    entries = {"observations/obs": np.zeros((6, 1)), "observations/goal": nan_at(3, 2)}
    line = refused(write(path, arrays(observations=None, **entries)))
    assert "array 'observations/goal' row 3 is not finite" in line


@pytest.mark.parametrize("text", ["{not json", "", "[" * 100_000, "1" * 5000])
def test_metadata_that_is_not_json_is_one_line(tmp_path, text):
    path = write(tmp_path / "data.npz", arrays(), text)
    assert "metadata is not JSON" in refused(path)


@needs_h5py
def test_metadata_of_hdf5_that_is_not_json_is_one_line(tmp_path):
    path = write(tmp_path / "data.hdf5", arrays(), "{not json")
    assert "metadata is not JSON" in refused(path)


def test_metadata_that_is_not_a_dict_is_left_out(path):
    assert data_files.load(write(path, arrays(), json.dumps([1]))).metadata == {}


def test_no_file_is_one_line(path):
    assert "no such file" in refused(path)
    path.mkdir()
    assert "no such file" in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"x"]
)
def test_garbage_is_one_line(path, content):
    path.write_bytes(content * 100)
    assert "is damaged or no " in refused(path)


def test_a_bare_npy_file_is_one_line(tmp_path):
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "is damaged or no .npz file" in refused(path)


def test_pickled_objects_are_refused_before_they_run(tmp_path):
    ran = tmp_path / "ran"

    class Exploit:
        def __reduce__(self):
            return ran.touch, ()

    bad = arrays(rewards=np.array([Exploit()] * 6, object))
    assert "array 'rewards' cannot be read" in refused(write(tmp_path / "data.npz", bad))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Exploit()))
    refused(tmp_path / "pickle.npz")
    assert not ran.exists()


def test_an_archive_of_texts_is_one_line(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name in arrays():
            file.writestr(name, "hello")
    refused(path)


def test_a_file_cut_anywhere_is_one_line(path):
    data_files.save(made(dict_obs=True), path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 20):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_file_with_a_damaged_stretch_is_one_line_or_reads_as_before(path):
    dataset = made(dict_obs=True)
    data_files.save(dataset, path)
    whole = path.read_bytes()
    lines = 0
    for start in range(0, len(whole), max(29, len(whole) // 100)):
        path.write_bytes(whole[:start] + b"\xaa" * 8 + whole[start + 8 :])
        try:
            assert_same(data_files.load(path).steps, dataset.steps)
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            lines += 1
    assert lines >= 10


# --- Minari ---

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
    minari.to_minari(dataset, "test/walk-v0", Spaces(dict_obs), description="three episodes")
    again = minari.from_minari("test/walk-v0")
    assert_equal(again, dataset)
    assert again.metadata == {"minari": "test/walk-v0"}
    theirs = minari.load_dataset("test/walk-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (3, T)
    assert theirs.storage.metadata["description"] == "three episodes"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_minari_data_set_fits_the_environment_that_it_is_of(minari):
    env = envs.make("point_maze_open")
    obs = {"obs": np.zeros((4, 4)), "goal": np.ones((4, 2))}
    done = np.array([False, True, False, True])
    dataset = from_arrays(obs, np.full((4, 2), 0.5), np.ones(4), obs, done, ~done & False)
    theirs = minari.to_minari(dataset, "maze-v0", env)
    episode = next(iter(theirs.iterate_episodes()))
    assert theirs.observation_space.contains({k: v[0] for k, v in episode.observations.items()})
    assert theirs.action_space.contains(episode.actions[0])
    minari.from_minari("maze-v0").steps_for(env)


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
    dataset = minari.from_minari("others-v0")
    assert_same(dataset.extras, {"speed": np.array([0, 1, 0, 1, 2], np.float32)})
    assert dataset.lengths.tolist() == [2, 3] and dataset.steps.truncated[[1, 4]].all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_existing_minari_data_set_is_not_overwritten(minari):
    old = made()
    minari.to_minari(old, "walk-v0", Spaces(False))
    with pytest.raises(ValueError, match="walk-v0"):
        minari.to_minari(made(), "walk-v0", Spaces(False))
    assert_equal(minari.from_minari("walk-v0"), old)


def test_a_minari_data_set_that_is_not_here_is_one_line(minari):
    with pytest.raises(ValueError, match="^no Minari data set 'walk-v0' on this machine$"):
        minari.from_minari("walk-v0")


def test_a_minari_data_set_cannot_hold_steps_that_lead_elsewhere(minari):
    dataset = made()
    dataset.steps.next_obs[4] += 1.0
    with pytest.raises(ValueError, match=r"^data: next_obs\[4\] is not obs\[5\], as Minari wants"):
        minari.to_minari(dataset, "walk-v0", Spaces(False))
    with pytest.raises(ValueError, match="^no Minari data set"):
        minari.from_minari("walk-v0")


def without_rewards(folder):
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_1"]["rewards"]


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
        (with_nan, "data: array 'next_obs' row 4 is not finite"),
    ],
)
def test_a_damaged_minari_data_set_is_one_line(minari, tmp_path, damage, why):
    minari.to_minari(made(), "walk-v0", Spaces(False))
    damage(tmp_path / "walk-v0" / "data")
    with pytest.raises(ValueError) as error:
        minari.from_minari("walk-v0")
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
        minari.from_minari("hand-v0")
