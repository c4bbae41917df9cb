"""Kept policies: two small files that choose no code, and the commands that copy and show them."""

import hashlib
import inspect
import io
import json
import os
import shutil
import zipfile
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_cli import refuses

import envs
from experiments.bench import forks
from jaxrl.cli import demo, hub, runs, zoo
from jaxrl.episodes import film
from jaxrl.learners.on_policy import ppo
from jaxrl.run.train import train

TINY = ppo.Config(num_envs=4, unroll_length=4, num_minibatches=1, num_epochs=1, actor_hidden=(4,))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    learner = ppo.make(envs.make("point_maze_open", time_limit=4), TINY.replace(critic_hidden=(4,)))
    train(learner, 64, seeds=2, num_evals=2, eval_episodes=2, run_dir=path, quiet=True)
    return path


@pytest.fixture(scope="module")
def kept(run_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "policy"
    zoo.save(run_dir, path, seed_index=1, episodes=3)
    return path


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "copy")


def rewritten(folder, **changes):
    card = json.loads((folder / zoo.CARD).read_text()) | changes
    (folder / zoo.CARD).write_text(json.dumps(card))


def with_arrays(folder, arrays: bytes):
    (folder / zoo.ARRAYS).write_bytes(arrays)
    rewritten(folder, sha256=hashlib.sha256(arrays).hexdigest())


def test_a_kept_policy_acts_as_that_of_its_run(run_dir, kept):
    loaded, policy = zoo.load(kept), runs.load(run_dir).policy(1)
    obs = loaded.env.reset(jax.random.key(7)).obs
    act = lambda policy: policy.act(policy.init_carry(), obs, jax.random.key(0))[0]
    np.testing.assert_array_equal(act(loaded.policy), act(policy))
    card = loaded.card
    assert card["env_overrides"] == {"time_limit": 4} and card["steps"] == 64
    assert [steps for steps, _ in card["curve"]] == [0, 32, 64]
    assert card["score"]["metric"] == "success" and card["score"]["episodes"] == 3
    assert card["score"]["low"] <= card["score"]["mean"] <= card["score"]["high"]
    assert sum(path.stat().st_size for path in kept.iterdir()) < 20_000


def test_the_page_of_a_policy_says_what_its_card_says(kept):
    page = (kept / zoo.README).read_text()
    assert page.startswith("---\nlibrary_name: jaxrl\n")
    for word in ("point_maze_open", "`ppo`", "64 env steps", zoo.load(kept).card["sha256"]):
        assert word in page


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"env": "os:system"}, "env='os:system': is not one of envs.names"),
        ({"learner": "evil:make"}, "learner='evil:make': is not a learner"),
        ({"jaxrl": "0.1.0"}, "was written by jaxrl 0.1.0"),
        ({"sha256": "0"}, "is damaged: its SHA-256"),
        ({"config": {"wings": 2}}, "ppo has no field 'wings'"),
        ({"steps": -1}, "steps=-1: must be at least 0"),
        ({"config": {"actor_hidden": [8]}}, "this policy has float32"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(copy, changes, message):
    if "actor_hidden" in changes.get("config", {}):
        card = json.loads((copy / zoo.CARD).read_text())
        changes = {"config": card["config"] | changes["config"]}
    rewritten(copy, **changes)
    with pytest.raises(ValueError, match=message):
        zoo.load(copy)


def test_arrays_that_need_pickle_are_refused(copy):
    file = io.BytesIO()
    np.savez(file, x=np.array([{"a": 1}], dtype=object))
    with_arrays(copy, file.getvalue())
    with pytest.raises(ValueError, match="is damaged: (Object|object) arrays cannot be loaded"):
        zoo.load(copy)


def test_arrays_that_unpack_to_more_than_the_policy_needs_are_not_unpacked(copy):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * 10_000_000)
    with_arrays(copy, file.getvalue())
    with pytest.raises(ValueError, match="it unpacks to 10,000,000 bytes, at most"):
        zoo.load(copy)


def test_an_array_that_is_missing_or_left_over_is_named(copy):
    with np.load(copy / zoo.ARRAYS) as file:
        arrays = dict(file)
    gone = sorted(arrays)[0]
    for changed, message in (
        ({k: v for k, v in arrays.items() if k != gone}, "is missing"),
        (arrays | {"~": np.zeros(1)}, "~ belongs to no part of this policy"),
    ):
        file = io.BytesIO()
        np.savez(file, **changed)
        with_arrays(copy, file.getvalue())
        with pytest.raises(ValueError, match=message):
            zoo.load(copy)


# --- Copies ---


def test_a_policy_is_pushed_to_a_folder_and_pulled_from_it(kept, tmp_path):
    place = str(tmp_path / "shelf")
    assert hub.push(kept, place) == place
    hub.pull(place, tmp_path / "back")
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == ["README.md", "card.json", "policy.npz"]
    with pytest.raises(ValueError, match="back exists: choose another --out"):
        hub.pull(place, tmp_path / "back")
    (tmp_path / "shelf" / zoo.ARRAYS).write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        hub.pull(place, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_repository_of_hugging_face_is_called_as_its_package_wants(kept, tmp_path, monkeypatch):
    real = pytest.importorskip("huggingface_hub")
    shelf, calls = tmp_path / "remote", []

    class Api:
        def create_repo(self, *args, **kwargs):
            inspect.signature(real.HfApi.create_repo).bind(self, *args, **kwargs)
            calls.append("create")

        def upload_folder(self, *args, **kwargs):
            inspect.signature(real.HfApi.upload_folder).bind(self, *args, **kwargs)
            shutil.copytree(kwargs["folder_path"], shelf)

    def download(*args, **kwargs):
        inspect.signature(real.snapshot_download).bind(*args, **kwargs)
        shutil.copytree(shelf, kwargs["local_dir"], dirs_exist_ok=True)

    fake = SimpleNamespace(HfApi=Api, snapshot_download=download)
    monkeypatch.setattr(hub, "_package", lambda: fake)
    assert hub.push(kept, "someone/walker") == "https://huggingface.co/someone/walker"
    assert calls == ["create"]
    hub.pull("someone/walker", tmp_path / "walker", revision="main")
    assert zoo.load(tmp_path / "walker").card == zoo.load(kept).card
    with pytest.raises(
        ValueError, match="must be OWNER/NAME at Hugging Face, or a folder: ./walker"
    ):
        hub.push(kept, "walker")
    shutil.rmtree(shelf)
    with pytest.raises(RuntimeError, match="someone/walker: "):
        hub.pull("someone/walker", tmp_path / "again")


# --- Those of the package, and the commands ---


@pytest.mark.parametrize("name", zoo.shipped())
def test_a_policy_of_the_package_is_whole_and_of_this_version(name):
    loaded = zoo.load(zoo.find(name))
    score = loaded.card["score"]
    assert score["episodes"] >= 32 and score["low"] <= score["mean"] <= score["high"]
    assert loaded.card["command"].startswith("python experiments/")


def test_the_policies_of_the_package_are_small():
    folders = {path.name for path in zoo.FOLDER.iterdir() if path.is_dir()}
    assert folders == set(zoo.shipped())
    assert sum(path.stat().st_size for path in zoo.FOLDER.rglob("*")) < 5_000_000


def test_a_demo_prints_the_return_of_the_episode_that_it_films(kept, tmp_path, capsys):
    total = demo.demo(str(kept), tmp_path / "film.mp4", seed=3)
    loaded = zoo.load(kept)
    states, length = film(loaded.env, loaded.policy, jax.random.key(3))
    assert total == pytest.approx(states.reward[1 : length + 1].sum())
    said = capsys.readouterr().out
    assert f"episode 3: return {total:.5g} in {length} steps" in said
    assert (tmp_path / "film.mp4").exists() or "no video: " in said


def test_a_run_is_pushed_pulled_and_shown_from_the_command_line(run_dir, tmp_path):
    command = lambda *words: forks.run(
        ["-m", "jaxrl", *map(str, words)], cwd=tmp_path, env=dict(os.environ), timeout=200
    )
    pushed = command("push", run_dir, "./shelf", "--episodes", "2")
    assert pushed.returncode == 0 and "shelf: success" in pushed.stdout, pushed.stderr
    assert command("pull", "./shelf", "--out", "mine").returncode == 0
    shown = command("demo", "mine", "--no-video")
    assert shown.returncode == 0 and "episode 0: return" in shown.stdout, shown.stderr
    refuses(command("demo", "pendulum"), "'pendulum' is neither a folder", "did you mean pendulum_")
    listed = command("demo", "--list")
    assert all(name in listed.stdout for name in zoo.shipped())
