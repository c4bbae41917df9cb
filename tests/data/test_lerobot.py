"""LeRobot v3.0 folders, written by hand from its code, are read, and ours come back equal."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import struct
from test_data_files import assert_equal, made

from envs.types import Box, first_state
from jaxrl.data import files as data_files
from jaxrl.data import lerobot
from jaxrl.data.dataset import from_arrays
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.run.train import train

LENGTHS = (3, 4, 2)
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["shoulder", "elbow"]},
    "observation.images.top": {"dtype": "video", "shape": [480, 640, 3], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": ["shoulder", "elbow"]},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def episode(i, n, start):
    """Frames of episode `i`: the state is 10 * i plus the frame, episode 1 fails."""
    frame, last = np.arange(n), np.arange(n) == n - 1
    return {
        "observation.state": [[10.0 * i + t, -t] for t in frame],
        "action": [[t / 10, 100.0] for t in frame],
        "next.reward": last * 1.0,
        "next.done": last,
        "next.success": last & (i != 1),
        "timestamp": frame / 30,
        "frame_index": frame,
        "episode_index": np.full(n, i),
        "index": start + frame,
        "task_index": np.full(n, 0),
    }


TYPES = {
    "observation.state": pa.list_(pa.float32(), 2),
    "action": pa.list_(pa.float32()),  # of any length: older writers
    "next.reward": pa.float32(),
    "timestamp": pa.float32(),
}


def _typed(name, x):
    texts = isinstance(x[0], str)
    return pa.array(x, None if texts else TYPES.get(name))


def written(root, columns=lambda table: table, info=lambda info: info, episodes=LENGTHS):
    """As LeRobot's dataset_writer.py and dataset_metadata.py: two data files, of which one holds
    two episodes.

    Args:
      columns: changes the columns of episode 1, {name: values}.
      info: changes meta/info.json.
      episodes: the lengths in meta/episodes.
    """
    starts = np.cumsum((0, *LENGTHS))
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    for file, chosen in enumerate(((0, 2), (1,))):
        tables = []
        for i in chosen:
            table = episode(i, LENGTHS[i], starts[i])
            table = columns(table) if i == 1 else table
            tables.append(pa.table({k: _typed(k, x) for k, x in table.items()}))
        pq.write_table(pa.concat_tables(tables), root / f"data/chunk-000/file-{file:03d}.parquet")
    told = {"episode_index": np.arange(len(episodes)), "length": np.array(episodes)}
    told["tasks"] = [["pick"]] * len(episodes)
    pq.write_table(pa.table(told), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["pick"]}), root / "meta/tasks.parquet")
    about = {
        "codebase_version": "v3.0",
        "robot_type": "so101",
        "total_episodes": 3,
        "total_frames": 9,
        "fps": 30,
        "splits": {"train": "0:2", "val": "2:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": FEATURES,
    }
    (root / "meta/info.json").write_text(json.dumps(info(about)))
    return root


@pytest.fixture
def root(tmp_path):
    return tmp_path / "arm"


def test_frames_become_steps_with_their_ends_and_successes(root):
    said = []
    dataset = data_files.load(written(root), say=said.append)
    steps = dataset.steps
    assert dataset.lengths.tolist() == [3, 4, 2]
    assert steps.obs[:, 0, 0].tolist() == [0, 1, 2, 10, 11, 12, 13, 20, 21]
    np.testing.assert_allclose(steps.action[4, 0], [0.1, 100.0])
    assert steps.next_obs[[0, 7], 0, 0].tolist() == [1, 21]
    assert dataset.success.tolist() == [True, False, True]
    assert dataset.returns.tolist() == [1, 1, 1]
    assert steps.terminated[dataset.ends, 0].tolist() == [True, False, True]
    assert steps.truncated[dataset.ends, 0].tolist() == [False, True, False]
    assert np.flatnonzero(~steps.valid[:, 0]).tolist() == [6]  # where it led was not recorded
    kept = dataset.metadata["lerobot"]
    assert kept == {"fps": 30, "robot_type": "so101", "tasks": ["pick"]}
    assert "videos and images are left out (observation.images.top)" in said[0]


def test_done_alone_does_not_say_that_the_task_ended(root):
    drop = lambda info: info | {"features": {k: v for k, v in FEATURES.items() if "succ" not in k}}
    dataset = data_files.load(written(root, info=drop), say=lambda line: None)
    assert not dataset.steps.terminated.any() and "success" not in dataset.extras


def test_without_rewards_they_are_0_and_the_metadata_say_so(root):
    kept = ("observation.state", "action", "frame_index", "episode_index")
    drop = lambda info: info | {"features": {k: FEATURES[k] for k in kept}}
    dataset = data_files.load(written(root, info=drop), say=lambda line: None)
    assert dataset.metadata["unrewarded"] and not dataset.returns.any()


def test_frames_in_another_order_are_sorted(root):
    turned = lambda table: {k: v[::-1] for k, v in table.items()}
    dataset = data_files.load(written(root, turned), say=lambda line: None)
    assert dataset.steps.obs[:, 0, 0].tolist() == [0, 1, 2, 10, 11, 12, 13, 20, 21]


def test_a_split_is_a_range_of_episodes(root):
    dataset = data_files.load(written(root), split="val", say=lambda line: None)
    assert dataset.steps.obs[:, 0, 0].tolist() == [20, 21]
    with pytest.raises(ValueError, match="split='test': the splits are train, val$"):
        data_files.load(root, split="test")


def test_frames_that_come_late_are_named(root):
    late = lambda table: table | {"timestamp": table["timestamp"] + 0.1 * (np.arange(4) > 1)}
    said = []
    data_files.load(written(root, late), say=said.append)
    assert any(
        "1 frames come later than fps=30 says, the first in episode 1 after" in x for x in said
    )


@pytest.mark.parametrize("dict_obs", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_a_written_folder_comes_back_equal(root, dict_obs, known):
    dataset = made(dict_obs)
    if not known:
        dataset.steps.valid[5] = False
    said = []
    lerobot.save(dataset, root, say=said.append)
    assert "the rate is not known, fps=30 is written" in said[0]
    again = data_files.load(root, say=lambda line: None)
    assert_equal(again, dataset)
    assert again.metadata == dataset.metadata
    assert [p.name for p in root.parent.iterdir()] == ["arm"]
    with pytest.raises(ValueError, match="exists"):
        lerobot.save(dataset, root)


def test_signals_and_single_entries_come_back(root):
    x, end = np.arange(4.0), np.arange(4) == 3
    signals = {"cost": x, "force": np.ones((4, 6)), "one": x[:, None]}
    success = {"success": end.astype(np.float32)}
    args = (x[:, None], 3 * x[:, None], x, x[:, None], ~(x < 3), end)
    dataset = from_arrays(*args, success, signals=signals)
    lerobot.save(dataset, root, fps=20)
    assert_equal(data_files.load(root), dataset)


def test_what_was_read_is_written_again_with_its_rate_and_tasks(root, tmp_path):
    dataset = data_files.load(written(root), say=lambda line: None)
    lerobot.save(dataset, tmp_path / "again")
    info = json.loads((tmp_path / "again/meta/info.json").read_text())
    assert info["fps"] == 30 and info["robot_type"] == "so101"
    assert_equal(data_files.load(tmp_path / "again", say=lambda line: None), dataset)


def test_a_written_folder_has_the_documented_layout(root):
    dataset = made()
    lerobot.save(dataset, root, fps=20)
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["splits"] == {"train": "0:3"}
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": None}
    data = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert data.num_row_groups == 3  # one an episode
    table = data.read()
    assert table.schema.field("action").type == pa.list_(pa.float32(), 2)
    assert table.schema.field("next.done").type == pa.bool_()
    assert table["frame_index"].to_pylist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert table["next.done"].to_pylist() == (dataset.steps.terminated | dataset.steps.truncated)[:, 0].tolist()  # fmt: skip
    np.testing.assert_allclose(table["timestamp"].to_pylist()[:3], [0, 0.05, 0.1], rtol=1e-6)
    told = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert told["length"] == [4, 2, 3] and told["dataset_from_index"] == [0, 4, 6]
    assert told["dataset_to_index"] == [4, 6, 9] and told["data/file_index"] == [0, 0, 0]
    stats = json.loads((root / "meta/stats.json").read_text())
    np.testing.assert_allclose(
        stats["action"]["mean"], dataset.steps.action[:, 0].mean(0), rtol=1e-5
    )
    assert stats["action"]["count"] == [9] and len(stats["observation.state"]["q99"]) == 3
    np.testing.assert_allclose(
        told["stats/action/max"][1], dataset.steps.action[4:6, 0].max(0), rtol=1e-6
    )
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def as_text(name):
    return lambda table: table | {name: ["x"] * 4}


def feature(name, **changes):
    return lambda info: info | {"features": FEATURES | {name: FEATURES[name] | changes}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": as_text("action")}, "file-001.parquet: column 'action' holds string, allowed"),
        (
            {"columns": as_text("next.reward")},
            "column 'next.reward' holds string, allowed are numb",
        ),
        (
            {"columns": lambda table: table | {"action": [[0.0, 1.0]] * 3 + [[0.0]]}},
            "column 'action' has rows of 2 and 1 numbers",
        ),
        (
            {"columns": lambda table: table | {"action": [[0.0, 1.0]] * 3 + [None]}},
            "column 'action' has an empty entry",
        ),
        (
            {"columns": lambda table: table | {"action": [[0.0, 1.0]] * 3 + [[0.0, np.nan]]}},
            "arm: column 'action' of episode 1, frame 3 is not finite",
        ),
        ({"info": feature("action", shape=[3])}, r"allowed are numbers of shape \[3\]"),
        ({"info": feature("action", shape="2")}, "features.action.shape='2': must be a list"),
        (
            {"columns": lambda table: {k: v for k, v in table.items() if k != "next.done"}},
            "file-001.parquet: column 'next.done' is missing",
        ),
        (
            {"columns": lambda table: table | {"frame_index": np.array([0, 1, 1, 2])}},
            "episode 1 has frame_index 1 where 2 must be: frames are missing or doubled",
        ),
        ({"episodes": (3, 5, 2)}, "episode 1 has 4 frames in data, 5 in meta/episodes"),
        ({"episodes": (3, 4, 2, 6)}, "episode 3 has 0 frames in data, 6 in meta/episodes"),
        (
            {"info": lambda info: info | {"codebase_version": "v2.1"}},
            "codebase_version='v2.1', all",
        ),
        ({"info": lambda info: info | {"fps": 0}}, "fps"),
        ({"info": lambda info: {"fps": 30}}, "info.json: .*codebase_version"),
        (
            {"info": lambda info: info | {"features": {"action": FEATURES["action"]}}},
            "features must have 'episode_index'",
        ),
        ({"info": feature("action", dtype="string")}, "features must have 'action', as numbers"),
        (
            {"info": feature("next.reward", shape=[2])},
            r"'next.reward' has shape \[2\], allowed is \[1\]",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_it(root, options, message):
    with pytest.raises(ValueError) as error:
        data_files.load(written(root, **options), say=lambda line: None)
    line = str(error.value)
    assert line.startswith(str(root)) and "\n" not in line and re.search(message, line), line


@pytest.mark.parametrize("name", ["meta/info.json", "meta/episodes", "data"])
def test_a_missing_or_damaged_file_is_one_line(root, name):
    path = written(root) / name
    file = path if path.is_file() else path / "chunk-000/file-000.parquet"
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"\xaa" * len(whole)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))}[^\n]*$"):
            data_files.load(root, say=lambda line: None)
    for each in file.parent.glob("*.parquet"):
        each.unlink()
    if path.is_dir():
        with pytest.raises(ValueError, match="has no chunk-000/file-000.parquet"):
            data_files.load(root, say=lambda line: None)


def test_images_and_discrete_actions_are_not_written(root):
    end, image = np.arange(4) == 3, np.zeros((4, 8, 8, 3), np.uint8)
    x = np.zeros((4, 1))
    pictured = from_arrays({"top": image}, x, x[:, 0], {"top": image}, end, ~end)
    with pytest.raises(ValueError, match="observation 'top' is an image, which is not written"):
        lerobot.save(pictured, root, fps=10)
    with pytest.raises(ValueError, match="actions are vectors"):
        lerobot.save(from_arrays(x, x[:, 0], x[:, 0], x, end, ~end), root, fps=10)
    assert not root.exists()


@struct.dataclass
class Arm:
    observation_space = Box((2,))
    action_space = Box((2,), -200.0, 200.0)

    def reset(self, key):
        return first_state(jnp.zeros(()), jnp.zeros(2), {"success": jnp.zeros(())})

    def step(self, state, action):
        return state.replace(obs=state.obs + action / 200.0, reward=action.sum())


def test_a_chunk_policy_learns_from_a_folder(root):
    dataset = data_files.load(written(root), say=lambda line: None)
    config = imitation.Config(hidden=(8,), batch_size=4, updates_per_step=1, horizon=2, execute=1)
    learner = imitation.make(Arm(), config, dataset)
    losses = []
    look = lambda seen: losses.append(float(seen.metrics["loss"][0]))
    train(learner, total_steps=2, num_evals=0, num_logs=2, hooks=[look])
    assert len(losses) == 2 and np.isfinite(losses).all() and losses[0] != losses[1]
