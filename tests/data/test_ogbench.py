"""OGBench's files are recognised by their arrays."""

import numpy as np
import pytest

from jaxrl.data import files as data_files

T = 10


def written(path, **changes):
    """Two trajectories of five rows, as in the comment of OGBench's `load_dataset`."""
    x = np.arange(T, dtype=np.float32)
    good = {
        "observations": np.stack([x, -x], 1),
        "actions": x[:, None] / T,
        "terminals": np.isin(np.arange(T), (4, 9)),
        "qpos": np.zeros((T, 3)),
        "qvel": np.zeros((T, 3)),
    }
    np.savez(path, **{k: v for k, v in (good | changes).items() if v is not None})
    return path


def test_terminals_are_read_as_marks_without_a_flag(tmp_path):
    said = []
    dataset = data_files.load(written(tmp_path / "maze.npz"), say=said.append)
    assert "an OGBench file" in said[0]
    assert not dataset.steps.terminated.any() and dataset.ends.tolist() == [4, 9]
    assert dataset.metadata["unrewarded"] and (dataset.returns == 0).all()
    # The row before the last leads to the final observation, as in OGBench's loader.
    valid = dataset.steps.valid[:, 0]
    assert np.flatnonzero(valid).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert dataset.steps.next_obs[valid, 0, 0].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qpos": None}, "array 'rewards' is missing"),  # may be any file without its rewards
        ({"actions": np.full((T, 1), np.nan)}, "array 'actions' row 0 is not finite"),
        ({"terminals": np.zeros(4)}, r"'terminals' has shape \(4,\), but there are 10 rows"),
    ],
)
def test_a_file_that_is_not_quite_one_is_one_line(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data_files.load(written(tmp_path / "maze.npz", **changes), say=lambda line: None)


def test_rewards_and_own_flags_are_kept(tmp_path):
    rewarded = written(tmp_path / "maze.npz", rewards=np.ones(T))
    dataset = data_files.load(rewarded, say=lambda line: None)
    assert dataset.steps.terminated[[4, 9]].all() and dataset.returns.tolist() == [5, 5]


def test_images_stay_bytes(tmp_path):
    image = np.arange(T * 48, dtype=np.uint8).reshape(T, 4, 4, 3)
    dataset = data_files.load(
        written(tmp_path / "v.npz", observations=image), say=lambda line: None
    )
    assert dataset.steps.obs.dtype == np.uint8
    np.testing.assert_array_equal(dataset.steps.obs[:, 0], image)
