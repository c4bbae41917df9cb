"""Files come back bit for bit; a hostile one is one line that names it."""

import dataclasses
import json
import os
import pickle
import re
import sys
import zipfile

import jax
import numpy as np
import pytest
from probes import assert_same

from jaxrl.data import files as data_files
from jaxrl.data import lerobot, robomimic
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
    assert data_files.metadata_of(path) == again.metadata
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
        ("h5py", lambda: robomimic.save(made(), "data.hdf5")),
        ("pyarrow.parquet", lambda: lerobot.save(made(), "data")),
    ],
)
def test_a_package_that_is_missing_is_named_with_how_to_get_it(tmp_path, monkeypatch, package, use):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"need {package.split('.')[0]}: pip install"):
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
    ("terminals", "timeouts", "led_to", "truncated"),
    [
        # The last step leads nowhere that was recorded.
        ([], [], [1, 2, 3, 4, 5, 5], [5]),
        ([], [2], [1, 2, 2, 4, 5, 5], [2, 5]),
        ([2], [], [1, 2, 2, 4, 5, 5], [5]),
        ([2, 5], [3], [1, 2, 2, 3, 5, 5], [3]),
        ([2], [2], [1, 2, 2, 4, 5, 5], [5]),
        ([1], [3, 4], [1, 1, 3, 3, 4, 5], [3, 4, 5]),
        ([5], [], [1, 2, 3, 4, 5, 5], []),
    ],
)
def test_without_next_observations_a_step_leads_to_the_next_row_or_is_not_valid(
    path, terminals, timeouts, led_to, truncated
):
    good = arrays(terminals=flags(*terminals).astype(np.float32), timeouts=flags(*timeouts))
    said = []
    steps = data_files.load(write(path, good), say=said.append).steps
    assert steps.reward[:, 0].tolist() == list(range(6))
    np.testing.assert_array_equal(steps.obs[:, 0], good["observations"])
    np.testing.assert_array_equal(steps.next_obs[:, 0], good["observations"][led_to])
    assert np.flatnonzero(steps.terminated).tolist() == terminals
    assert np.flatnonzero(steps.truncated).tolist() == truncated
    assert np.flatnonzero(~steps.valid).tolist() == truncated
    count, first = len(truncated), (truncated or [0])[0]
    words = f"{path}: {count} of 6 steps have no next observation, the first at row {first}"
    assert [line.split(":")[-2] + ":" for line in said] == [words.split(":")[-1] + ":"] * bool(
        count
    )
    assert all(line.startswith(words) for line in said)


def test_a_step_without_a_next_observation_stays_so_in_a_saved_file(path, tmp_path):
    first = data_files.load(write(path, arrays(timeouts=flags(2))))
    copy = tmp_path / f"copy{path.suffix}"
    data_files.save(first, copy)
    said = []
    again = data_files.load(copy, say=said.append)
    assert_equal(again, first)
    assert len(said) == 1 and "2 of 6 steps have no next observation" in said[0]


def test_success_and_reward_at_a_flagged_end_survive(path):
    """Demonstrations that succeed by their last action, whose end is flagged as a time-out."""
    end = flags(2, 5)
    good = arrays(
        timeouts=end, rewards=end.astype(float), actions=np.where(end, 1.0, -0.5)[:, None]
    )
    dataset = data_files.load(write(path, good | {"infos/success": end}))
    assert dataset.returns.tolist() == [1, 1] and dataset.success.all()
    assert (dataset.steps.action > 0).sum() == 2 and len(dataset.successful()) == 6


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
    assert not dataset.steps.terminated.any() and dataset.ends.tolist() == [2, 5]
    led_to = good["observations"][[1, 2, 2, 4, 5, 5]]
    np.testing.assert_array_equal(dataset.steps.next_obs[:, 0], led_to)
    assert (dataset.returns == 0).all()


def test_entries_of_a_dict_and_metrics_are_read(path):
    x = np.arange(6.0)
    entries = {"observations/obs": x[:, None], "observations/goal": -x[:, None]}
    infos = {"infos/speed": x, "infos/qpos": np.zeros((6, 3)), "infos/count": x[:4]}
    infos["infos/name"] = np.array(["a"] * 6)
    good = arrays(observations=None, timeouts=flags(2), **entries, **infos)
    dataset = data_files.load(write(path, good))
    assert dataset.steps.obs["obs"].ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.steps.next_obs["goal"].ravel().tolist() == [-1, -2, -2, -4, -5, -5]
    assert_same(dataset.extras, {"speed": x.astype(np.float32)})


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
    try:
        assert isinstance(data_files.metadata_of(path), dict)
    except ValueError as error:  # the same file, read for its metadata alone
        assert str(error).startswith(str(path)) and "\n" not in str(error)
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
        ({"valid": np.ones(5, bool)}, r"'valid' has shape \(5,\), but there are 6 rows"),
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
    assert re.search("metadata( line 1)?: not JSON", refused(path))


@needs_h5py
def test_metadata_of_hdf5_that_is_not_json_is_one_line(tmp_path):
    path = write(tmp_path / "data.hdf5", arrays(), "{not json")
    assert re.search("metadata( line 1)?: not JSON", refused(path))


@pytest.mark.parametrize(
    "metadata, message",
    [
        ([1], "all of it=[1]: must be an object"),
        ({"env": 5}, "env=5: must be text"),
        ({"env": ""}, "env='': must be text that is not empty"),
        ({"env_overrides": [1]}, "env_overrides=[1]: must be an object"),
        ({"env_overrides": {"reward": {"a": 1}}}, "env_overrides.reward={'a': 1}: must be "),
        ({"random_return": "low"}, "random_return='low': must be a number"),
        ({"expert_return": True}, "expert_return=True: must be a number"),
    ],
)
def test_metadata_of_the_wrong_types_name_the_file_and_the_entry(path, metadata, message):
    line = refused(write(path, arrays(), json.dumps(metadata)))
    assert line.startswith(f"{path}: metadata: {message}")


def test_a_name_that_is_too_long_is_no_file(tmp_path):
    path = tmp_path / f"{'x' * 300}.npz"
    assert refused(path).endswith("no such file")
    with pytest.raises(RuntimeError, match="^cannot write .*: File name too long$"):
        data_files.save(made(), path)


def test_no_file_is_one_line(path):
    assert "no such file" in refused(path)
    path.mkdir()
    assert "is a folder without meta/info.json; data sets are read from" in refused(path)
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    assert "is no regular file" in refused(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.pkl", "a pickle is never read, because reading one runs its code"),
        ("data.hdf", "rename HDF5 to .hdf5"),
        ("data.parquet", "a table: of a LeRobot data set, give the folder"),
        ("data.npy", "holds one array, a data set needs several"),
        (
            "data.txt",
            "an unknown format; data sets are read from .npz, .hdf5, .h5 and LeRobot folders",
        ),
    ],
)
def test_the_format_of_others_is_named_with_the_way_in(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    assert message in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("meta/other.json", "is a folder without meta/info.json; data sets are read from"),
        ("data/main_data.hdf5", "a Minari data set: read it with jaxrl.data.minari.from_minari"),
    ],
)
def test_a_folder_of_others_is_named_with_the_way_in(tmp_path, inside, message):
    (tmp_path / inside).parent.mkdir()
    (tmp_path / inside).write_text("{}")
    assert message in refused(tmp_path)


def test_the_names_of_many_arrays_are_not_all_listed(path):
    many = {f"observations/{i}": np.zeros((6, 1)) for i in range(50)}
    line = refused(write(path, many))
    assert "array 'actions' is missing; it has" in line and "and 42 more" in line


@needs_h5py
def test_arrays_that_are_not_used_are_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "data.hdf5", arrays(timeouts=flags(2)))
    with h5py.File(path, "a") as file:
        file["images/front"] = np.zeros((6, 8, 8), np.uint8)
        file["infos/qpos"] = np.zeros((6, 3))
    read, whole = [], h5py.Dataset.__getitem__
    note = lambda self, key, **how: read.append(self.name) or whole(self, key, **how)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", note)
    data_files.load(path)
    assert sorted(read) == ["/actions", "/observations", "/rewards", "/terminals", "/timeouts"]


@needs_h5py
@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda file, secret: file.create_dataset(
                "rewards", (6,), "u1", external=[(secret, 0, 6)]
            ),
            "array 'rewards' is stored in another file, which is not read",
        ),
        (
            lambda file, secret: file.__setitem__("rewards", h5py.ExternalLink(secret, "/rewards")),
            "'rewards' is an external link, which is not followed",
        ),
        (
            lambda file, secret: file.__setitem__("infos", h5py.ExternalLink(secret, "/")),
            "'infos' is an external link, which is not followed",
        ),
        (
            lambda file, secret: file.__setitem__("extra/deep", h5py.SoftLink("/infos/x")),
            "'extra/deep' is a soft link, which is not followed",
        ),
        (
            lambda file, secret: file.create_virtual_dataset("rewards", virtual(secret)),
            "array 'rewards' is a virtual data set, which is not read",
        ),
    ],
)
def test_hdf5_that_leads_to_other_files_is_refused_by_name(tmp_path, add, message):
    secret = tmp_path / "secret.hdf5"
    secret.write_bytes(b"password")
    path = write(tmp_path / "data.hdf5", arrays(rewards=None))
    with h5py.File(path, "a") as file:
        add(file, str(secret))
    assert message in refused(path)


@needs_h5py
@pytest.mark.parametrize(
    ("name", "add", "message"),
    [
        ("timeouts", lambda file: file.create_group("timeouts"), "'timeouts' is Group, must be an"),
        (
            "next_observations",
            lambda file: file.create_group("next_observations"),
            "'next_observations' is Group, must be an array",
        ),
        (
            "valid",
            lambda file: file.__setitem__("valid", np.dtype("f4")),
            "'valid' is Datatype, must be an array",
        ),
        (
            "rewards",
            lambda file: file.create_dataset("rewards", (2**45,), "f4", chunks=True),
            "array 'rewards' has shape (35184372088832,), which is more than the free memory holds",
        ),
    ],
)
def test_hdf5_that_holds_no_array_where_one_is_read_is_refused(tmp_path, name, add, message):
    path = write(tmp_path / "data.hdf5", arrays(**{name: None}))
    with h5py.File(path, "a") as file:
        add(file)
    assert message in refused(path)


def virtual(secret):
    layout = h5py.VirtualLayout((6,), "f4")
    layout[:] = h5py.VirtualSource(secret, "rewards", (6,))
    return layout


# --- Ends without a flag ---


def walks(episodes=20, length=30):
    """A file of random walks that begin anew without a word."""
    rng = np.random.default_rng(0)
    start = rng.uniform(0.5, 1, (episodes, 1, 2)) * (-1) ** np.arange(episodes)[:, None, None]
    x = (start + rng.normal(0, 0.02, (episodes, length, 2)).cumsum(1)).reshape(-1, 2)
    rows = episodes * length
    return {
        "observations": x,
        "actions": np.zeros((rows, 1)),
        "rewards": np.zeros(rows),
        "terminals": np.zeros(rows),
    }


def test_jumps_of_the_observation_are_named_with_the_first_row(path):
    said = []
    data_files.load(write(path, walks()), say=said.append)
    assert said[0].startswith(f"{path}: 19 steps change the observation over 10 times")
    assert "the first at row 29: ends of episodes without a flag? cut_at=STEPS cuts" in said[0]


def test_cut_at_ends_episodes_by_the_clock(path):
    said = []
    dataset = data_files.load(write(path, walks()), cut_at=30, say=said.append)
    assert dataset.lengths.tolist() == [30] * 20 and dataset.steps.truncated.sum() == 20
    assert [line.split(":")[-2] for line in said] == [
        " 20 of 600 steps have no next observation, the first at row 29"
    ]
    flagged = arrays(terminals=flags(3))
    ends = data_files.load(write(path.with_name(f"flagged{path.suffix}"), flagged), cut_at=3).ends
    assert ends.tolist() == [2, 3, 5]  # the clock starts anew after a flag


def test_a_cut_below_0_is_refused(path):
    write(path, arrays())
    with pytest.raises(ValueError, match="^cut_at=-1: must be an integer, at least 0"):
        data_files.load(path, cut_at=-1)


def test_an_everyday_recording_has_no_jumps(path):
    said = []
    flagged = walks() | {"timeouts": np.arange(600) % 30 == 29}
    data_files.load(write(path, flagged), say=said.append)
    assert len(said) == 1 and "no next observation" in said[0]


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
