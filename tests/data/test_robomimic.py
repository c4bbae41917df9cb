"""robomimic's files, written by hand from its documentation, are read, and ours come back equal."""

import json
import re

import h5py
import numpy as np
import pytest
from probes import assert_same
from test_data_files import assert_equal, made

from jaxrl.data import files as data_files
from jaxrl.data import robomimic
from jaxrl.data.dataset import from_arrays

LENGTHS = {"demo_0": 3, "demo_2": 4, "demo_10": 2}


def written(path, change=lambda file: None, next_obs=True, succeeds=("demo_0", "demo_10")):
    """As docs/datasets/overview.md has it, with `--done_mode 2`: at success and at the end."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        data.attrs["total"] = sum(LENGTHS.values())
        for name in sorted(LENGTHS):  # HDF5 lists demo_10 before demo_2
            n, number = LENGTHS[name], int(name[5:])
            demo = data.create_group(name)
            demo.attrs["num_samples"] = n
            demo.attrs["model_file"] = "<mujoco/>"
            x = number + 0.1 * np.arange(n + 1)[:, None]
            demo["states"] = np.zeros((n, 32))
            demo["actions"] = np.repeat(x[:-1] / 20, 3, 1)
            demo["rewards"] = np.append(np.zeros(n - 1), float(name in succeeds))
            demo["dones"] = np.append(np.zeros(n - 1, int), 1)
            for group, rows in {"obs": slice(None, -1), "next_obs": slice(1, None)}.items():
                if group == "next_obs" and not next_obs:
                    continue
                demo[f"{group}/eef_pos"] = np.repeat(x[rows], 2, 1)
                demo[f"{group}/object"] = -x[rows]
                demo[f"{group}/agentview_image"] = np.full((n, 4, 4, 3), number, np.uint8)
        file["mask/train"] = np.array([b"demo_10", b"demo_0"])
        file["mask/valid"] = np.array([b"demo_2"])
        change(file)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "low_dim.hdf5"


def test_demos_are_read_in_the_order_of_their_numbers(path):
    said = []
    dataset = data_files.load(written(path), say=said.append)
    steps = dataset.steps
    assert dataset.lengths.tolist() == [3, 4, 2]
    np.testing.assert_allclose(
        steps.obs["object"].ravel(), [0, -0.1, -0.2, -2, -2.1, -2.2, -2.3, -10, -10.1], rtol=1e-6
    )
    np.testing.assert_allclose(steps.next_obs["eef_pos"][[2, 8], 0, 1], [0.3, 10.2], rtol=1e-6)
    np.testing.assert_allclose(steps.action[8, 0], [0.505] * 3, rtol=1e-6)
    assert steps.valid.all()
    assert dataset.metadata["robomimic"]["env_name"] == "Lift"
    assert "images are left out (agentview_image)" in said[0]
    assert "all 9 demos" not in said[1] and "all 3 demos are read" in said[1]


def test_sparse_rewards_say_which_demos_succeeded_and_ended_by_themselves(path):
    dataset = data_files.load(written(path), say=lambda line: None)
    assert dataset.success.tolist() == [True, False, True]
    assert dataset.steps.terminated[dataset.ends, 0].tolist() == [True, False, True]
    assert dataset.steps.truncated[dataset.ends, 0].tolist() == [False, True, False]
    assert dataset.returns.tolist() == [1, 0, 1]


def test_dones_at_success_do_not_cut_a_demo(path):
    def early(file):
        for name in ("demo_2", "demo_10"):
            del file[f"data/{name}/dones"]
            n = LENGTHS[name]
            file[f"data/{name}/dones"] = (np.arange(n) == (1 if name == "demo_2" else n - 1)) * 1

    dataset = data_files.load(written(path, early), say=lambda line: None)
    assert dataset.lengths.tolist() == [3, 4, 2]
    assert dataset.steps.terminated[dataset.ends, 0].tolist() == [True, False, True]


def test_dense_rewards_leave_the_ends_to_the_clock_with_a_line(path):
    def dense(file):
        for name, n in LENGTHS.items():
            file[f"data/{name}/rewards"][...] = np.linspace(0.1, 0.9, n)

    said = []
    dataset = data_files.load(written(path, dense), say=said.append)
    assert not dataset.steps.terminated.any() and "success" not in dataset.extras
    assert any("dones do not say how demos ended" in line for line in said)


def test_without_next_obs_the_last_step_of_a_failed_demo_is_not_valid(path):
    dataset = data_files.load(written(path, next_obs=False), say=lambda line: None)
    np.testing.assert_allclose(dataset.steps.next_obs["object"][0, 0], [-0.1], rtol=1e-6)
    assert np.flatnonzero(~dataset.steps.valid[:, 0]).tolist() == [6]


def test_a_filter_key_chooses_demos(path):
    train = data_files.load(written(path), split="train", say=lambda line: None)
    assert train.lengths.tolist() == [3, 2] and train.steps.obs["object"][3, 0, 0] == -10
    with pytest.raises(ValueError, match="split='test': the filter keys are train, valid$"):
        data_files.load(path, split="test")


def test_images_stay_bytes_if_asked_for(path, tmp_path):
    dataset = data_files.load(written(path), images=True, say=lambda line: None)
    image = dataset.steps.obs["agentview_image"]
    assert image.dtype == np.uint8 and image.shape == (9, 1, 4, 4, 3)
    assert image[:, 0, 0, 0, 0].tolist() == [0] * 3 + [2] * 4 + [10] * 2
    for name, save in (("a.npz", data_files.save), ("b.hdf5", robomimic.save)):
        save(dataset, tmp_path / name)
        assert_equal(data_files.load(tmp_path / name, images=True, say=None), dataset)


def test_the_single_key_flat_is_a_plain_observation(path):
    def flat(file):
        for name in LENGTHS:
            for group in ("obs", "next_obs"):
                x = file[f"data/{name}/{group}/object"][()]
                del file[f"data/{name}/{group}"]
                file[f"data/{name}/{group}/flat"] = x

    dataset = data_files.load(written(path, flat), say=lambda line: None)
    assert dataset.steps.obs.shape == (9, 1, 1)


@pytest.mark.parametrize("dict_obs", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_a_written_file_comes_back_equal(path, dict_obs, known):
    dataset = made(dict_obs)
    if not known:
        dataset.steps.valid[5] = False
    robomimic.save(dataset, path, say=lambda line: None)
    again = data_files.load(path, say=lambda line: None)
    assert_equal(again, dataset)
    assert again.metadata == dataset.metadata
    with pytest.raises(ValueError, match="exists"):
        robomimic.save(dataset, path)


def test_signals_and_actions_beyond_the_range_come_back(path):
    x, end = np.arange(4.0), np.arange(4) == 3
    signals = {"cost": x, "force": np.ones((4, 6))}
    dataset = from_arrays(x[:, None], 3 * x[:, None], x, x[:, None], end, ~end, signals=signals)
    said = []
    robomimic.save(dataset, path, said.append)
    assert "actions are up to 9, robomimic expects -1 .. 1" in said[0]
    assert_equal(data_files.load(path), dataset)


def test_a_written_file_has_the_documented_layout(path):
    dataset = made()
    robomimic.save(dataset, path, say=lambda line: None)
    with h5py.File(path) as file:
        data = file["data"]
        assert data.attrs["total"] == 9 and sorted(data) == ["demo_0", "demo_1", "demo_2"]
        assert json.loads(data.attrs["env_args"]).keys() == {"env_name", "type", "env_kwargs"}
        demo = data["demo_1"]
        assert demo.attrs["num_samples"] == 2 and demo["dones"][()].tolist() == [0, 1]
        assert {"actions", "rewards", "dones", "obs", "next_obs", "states"} <= set(demo)
        assert_same(demo["obs/flat"][()], dataset.steps.obs[4:6, 0])


def without(name):
    return lambda file: file.__delitem__(name)


def instead(name, x):
    def change(file):
        del file[name]
        file[name] = x

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("data/demo_2/actions"), "array 'data/demo_2/actions' is missing"),
        (without("data/demo_2/rewards"), "array 'data/demo_2/rewards' is missing"),
        (without("data/demo_2/obs"), "'data/demo_2/obs' has no observations; it has only"),
        (without("data/demo_2/obs/object"), "array 'data/demo_2/obs/object' is not in every demo"),
        (
            instead("data/demo_2/dones", np.zeros(3)),
            r"array 'data/demo_2/dones' has shape \(3,\), but there are 4 rows",
        ),
        (
            instead("data/demo_2/actions", np.zeros((3, 3))),
            "'data/demo_2' has num_samples=4, but 3 actions",
        ),
        (
            instead("data/demo_10/actions", np.zeros((2, 2))),
            r"'data/demo_10/actions' has shape \(2, 2\), allowed is \(2, 3\) as in the first demo",
        ),
        (
            instead("data/demo_2/actions", np.zeros((0, 3))),
            r"'data/demo_2/actions' has shape \(0, 3\), allowed is \(N, A\)",
        ),
        (
            instead("data/demo_2/obs/object", np.array([[0], [np.nan], [0], [0]])),
            "array 'data/demo_2/obs/object' row 1 is not finite",
        ),
        (
            instead("data/demo_2/rewards", np.array([b"1"] * 4)),
            "array 'data/demo_2/rewards' holds .*, not numbers",
        ),
        (
            instead("data/demo_2/rewards", h5py.ExternalLink("secret.hdf5", "/x")),
            "'data/demo_2/rewards' is an external link, which is not followed",
        ),
        (instead("data/demo_2", h5py.SoftLink("/data/demo_0")), "'data/demo_2' is a soft link"),
        (instead("mask/train", np.array([b"demo_7"])), "mask/train' names 'demo_7', which is not"),
        (instead("mask/train", np.zeros(2)), "'mask/train' must be a list of names of demos"),
        (
            lambda file: file["data"].attrs.__setitem__("env_args", "[1"),
            "attribute 'env_args' of 'data' must be an object of JSON",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_it(path, change, message):
    split = "train" if "mask" in message else ""
    with pytest.raises(ValueError) as error:
        data_files.load(written(path, change), split=split, say=lambda line: None)
    line = str(error.value)
    assert line.startswith(str(path)) and "\n" not in line and re.search(message, line), line


def test_a_file_cut_anywhere_is_one_line(path):
    robomimic.save(made(), path, say=lambda line: None)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged[^\n]*$"):
            data_files.load(path)


def test_a_damaged_array_is_one_line_that_names_it(path):
    robomimic.save(made(), path, say=lambda line: None)
    with h5py.File(path) as file:
        at = file["data/demo_1/actions"].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    whole[at.byte_offset : at.byte_offset + at.size] = b"\xaa" * at.size
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="array 'data/demo_1/actions' cannot be read"):
        data_files.load(path)
