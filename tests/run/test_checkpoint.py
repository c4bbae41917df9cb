"""Checkpoints come back as they were, or not at all and with the reason."""

import inspect
import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import plain

from jaxrl.run import checkpoint
from jaxrl.run.checkpoint import DamagedCheckpoint

TREE = {
    "layer": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "half": jnp.ones(3, jnp.bfloat16)},
    "count": np.int32(7),
    "flag": np.array([True, False]),
    "bytes": np.arange(5, dtype=np.uint8),
    "wide": np.array(2**31 + 1, np.uint32),
    "none": jnp.zeros((0, 4)),
    "nan": np.array([np.nan, -0.0, np.inf], np.float32),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(4), 2),
    "pair": (np.float16(1.5), np.int8(-3)),
}
LIKE = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))


@pytest.fixture
def folder(tmp_path):
    """With checkpoints at steps 10 and 20."""
    for step in (10, 20):
        checkpoint.save(tmp_path, step, TREE | {"count": np.int32(step)})
    return tmp_path


def files(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def largest(path):
    return max((p for p in (path / "arrays").rglob("*") if p.is_file()), key=os.path.getsize)


# --- Whole ---


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    checkpoint.save(tmp_path, 5, TREE)
    restored = checkpoint.restore(tmp_path, 5, LIKE)
    assert jax.tree.structure(restored) == jax.tree.structure(TREE)
    for expected, x in zip(jax.tree.leaves(TREE), jax.tree.leaves(restored), strict=True):
        assert x.dtype == jnp.asarray(expected).dtype and x.shape == expected.shape
        assert plain(x).tobytes() == plain(jnp.asarray(expected)).tobytes()
    assert (jax.random.bits(restored["key"]) == jax.random.bits(TREE["key"])).all()


def test_the_newest_is_restored_and_only_the_newest_few_are_kept(tmp_path):
    assert checkpoint.steps(tmp_path / "not yet") == []
    for step in (4, 30, 100, 2000, 5):  # gone back, as when the newer ones are damaged
        checkpoint.save(tmp_path, step, {"x": np.float32(step)})
    assert checkpoint.steps(tmp_path) == [5, 30, 100, 2000] and checkpoint.KEEP == 3
    step, tree, complaints = checkpoint.restore_newest(tmp_path, {"x": np.float32(0)})
    assert step == tree["x"] == 2000 and complaints == []


def test_saving_the_same_step_again_replaces_it(folder):
    checkpoint.save(folder, 20, TREE | {"count": np.int32(-1)})
    assert checkpoint.restore(folder, 20, LIKE)["count"] == -1
    assert checkpoint.steps(folder) == [10, 20]


def test_damaged_newer_ones_do_not_drive_out_what_is_written(folder):
    for step in (30, 40, 50):
        (folder / f"{step:012d}").mkdir()
    checkpoint.save(folder, 25, TREE, keep=2)
    assert checkpoint.steps(folder) == [20, 25, 30, 40, 50]
    assert checkpoint.restore_newest(folder, LIKE)[0] == 25


def test_what_is_said_about_it_comes_back(folder):
    assert checkpoint.about_of(folder, 10) == {}
    checkpoint.save(folder, 30, TREE, about={"num_envs": 3, "hidden": [4, 4]})
    assert checkpoint.about_of(folder, 30) == {"num_envs": 3, "hidden": [4, 4]}


def test_nothing_is_pickled():
    assert "pickle" not in inspect.getsource(checkpoint)


# --- Damaged ---


def cut(path):
    file = largest(path)
    file.write_bytes(file.read_bytes()[:-20])


def flip(path):
    file = largest(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def alter_digest(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["['layer']['w']"]["sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))


def half_a_manifest(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text[: len(text) // 2])


DAMAGES = {
    "cut": cut,
    "flipped": flip,
    "digest": alter_digest,
    "manifest": half_a_manifest,
    "half an about": lambda path: (path / "about.json").write_text('{"num_'),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no arrays": lambda path: shutil.rmtree(path / "arrays"),
    "a file less": lambda path: largest(path).unlink(),
}


def entry(**change):
    """Changes one entry of the manifest; None leaves the field out."""

    def damage(path):
        manifest = json.loads((path / "manifest.json").read_text())
        changed = manifest["['count']"] | change
        manifest["['count']"] = {k: v for k, v in changed.items() if v is not None}
        (path / "manifest.json").write_text(json.dumps(manifest))

    return damage


def in_place_of(name, make):
    """`make(path)` where a file or folder was."""

    def damage(path):
        aside = path.parent / "aside"
        (path / name if name else path).rename(aside)
        make(path / name if name else path)

    return damage


def write(text):
    return lambda path: path.write_text(text)


DAMAGES |= {
    "a manifest that is a list": in_place_of("manifest.json", write("[]")),
    "a manifest of numbers": in_place_of("manifest.json", write('{"a": 5}')),
    "no digest": entry(sha256=None),
    "a short digest": entry(sha256="abc"),
    "no shape": entry(shape=None),
    "a shape of text": entry(shape="wide"),
    "a shape below 0": entry(shape=[-1]),
    "an unknown type": entry(dtype="complex31"),
    "an about that is a number": in_place_of("about.json", write("5")),
    "a manifest that is a FIFO": in_place_of("manifest.json", os.mkfifo),
    "an about that is a FIFO": in_place_of("about.json", os.mkfifo),
    "a FIFO among the arrays": lambda path: os.mkfifo(path / "arrays" / "fifo"),
    "a folder that is a FIFO": in_place_of("", os.mkfifo),
    "a folder that is a file": in_place_of("", write("")),
    "a link to nowhere": in_place_of("", lambda path: path.symlink_to("nowhere")),
    "a link to itself": in_place_of("", lambda path: path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_says_so_and_the_one_before_it_is_used(folder, damage):
    path = folder / f"{20:012d}"
    damage(path)
    with pytest.raises(DamagedCheckpoint, match=f"{path} is damaged: ."):
        checkpoint.restore(folder, 20, LIKE)
    step, tree, complaints = checkpoint.restore_newest(folder, LIKE)
    assert step == tree["count"] == 10
    assert len(complaints) == 1 and str(path) in complaints[0]


def test_an_altered_entry_is_named(folder):
    alter_digest(folder / f"{20:012d}")
    with pytest.raises(DamagedCheckpoint, match=r"\['layer'\]\['w'\] has changed"):
        checkpoint.restore(folder, 20, LIKE)


def test_with_none_left_every_reason_is_given(folder):
    for step in (10, 20):
        cut(folder / f"{step:012d}")
    with pytest.raises(DamagedCheckpoint, match="000000000020.*; .*000000000010"):
        checkpoint.restore_newest(folder, LIKE)


def test_no_checkpoint_at_all_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint in {tmp_path}"):
        checkpoint.restore_newest(tmp_path, LIKE)


# --- Of another program ---


@pytest.mark.parametrize(
    "change, message",
    [
        ({"extra": np.zeros(1)}, r"\['extra'\] is missing"),
        ({"count": {"a": np.int32(0)}}, r"\['count'\] is not part of this run"),
        ({"flag": np.zeros(3, bool)}, r"\['flag'\] is bool\[2\], this run has bool\[3\]"),
        ({"count": np.float32(0)}, r"\['count'\] is int32\[\], this run has float32\[\]"),
        ({"none": np.zeros((0, 5), np.float32)}, r"\['none'\] is float32\[0, 4\]"),
        ({"keys": jax.random.split(jax.random.key(0), 3)}, r"\['keys'\] is .*\[2\], this run has"),
    ],
)
def test_a_foreign_tree_names_its_first_odd_entry(folder, change, message):
    with pytest.raises(DamagedCheckpoint, match=f"is of another program: {message}"):
        checkpoint.restore(folder, 20, LIKE | change)


# --- Failing to save ---

RENAME = (os, "rename")


def failing_save(folder, monkeypatch, name):
    """With `name` failing; a rename only where it would put the checkpoint in its place."""
    works = getattr(*name)

    def full(*args, **kwargs):
        if name == RENAME and not str(args[0]).endswith(f"{20:012d}.tmp"):
            return works(*args, **kwargs)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*name, full)
        with pytest.raises(RuntimeError, match="cannot write checkpoint .*No space left"):
            checkpoint.save(folder, 20, TREE | {"count": np.int32(-1)})


@pytest.mark.parametrize(
    "name", [(checkpoint.ocp.Checkpointer, "save"), (checkpoint.json, "dumps"), RENAME]
)
def test_a_full_disk_is_a_runtime_error_and_leaves_what_was_there(folder, monkeypatch, name):
    before = files(folder)
    failing_save(folder, monkeypatch, name)  # of step 20, which is there already
    assert files(folder) == before
    assert sorted(p.name for p in folder.iterdir()) == [f"{10:012d}", f"{20:012d}"]


def test_a_folder_that_cannot_be_made_is_a_runtime_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot write checkpoint"):
        checkpoint.save(tmp_path / "file" / "run", 1, TREE)


@pytest.mark.parametrize("then", ["restored", "saved"])
def test_one_set_aside_by_a_save_that_was_killed_is_put_back(folder, then):
    for step in (10, 20):  # what a kill between the two renames leaves
        (folder / f"{step:012d}").rename(folder / f"{step:012d}.old")
    if then == "saved":
        checkpoint.save(folder, 30, TREE)
    else:
        assert checkpoint.restore_newest(folder, LIKE)[0] == 20
    assert checkpoint.steps(folder)[:2] == [10, 20] and not list(folder.glob("*.old"))


@pytest.mark.parametrize("target", ["nowhere", f"{20:012d}"])
def test_a_link_in_the_place_of_a_checkpoint_is_replaced_by_a_save(folder, target):
    path = folder / f"{20:012d}"
    shutil.rmtree(path)
    path.symlink_to(target)
    checkpoint.save(folder, 20, TREE)
    assert path.is_dir() and not path.is_symlink()
    assert checkpoint.restore_newest(folder, LIKE)[0] == 20


@pytest.mark.parametrize("damage", ["cut", "a link to nowhere", "half an about"])
def test_one_left_beside_a_damaged_checkpoint_is_used_in_its_place(folder, damage):
    path = folder / f"{20:012d}"
    shutil.copytree(path, path.with_suffix(".old"))
    DAMAGES[damage](path)
    step, tree, complaints = checkpoint.restore_newest(folder, LIKE)
    assert step == tree["count"] == 20
    assert len(complaints) == 1 and f"checkpoint {path} is damaged" in complaints[0]


def test_what_only_looks_like_a_checkpoint_is_none(folder):
    for name in ("20", "²", "0000000000xx", "notes.old"):
        (folder / name).mkdir()
    assert checkpoint.steps(folder) == [10, 20]
    assert checkpoint.restore_newest(folder, LIKE)[0] == 20 and (folder / "notes.old").exists()


def test_importing_and_saving_leave_the_log_of_others_alone(folder):
    """Orbax logs through absl, whose logger is everyone's."""
    code = "import logging; before = logging.getLogger('absl').level; import jaxrl.run.checkpoint\n"
    code += "print(before == logging.getLogger('absl').level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
    level = logging.getLogger("absl").level
    checkpoint.save(folder, 30, TREE)
    cut(folder / f"{30:012d}")
    checkpoint.restore_newest(folder, LIKE)
    assert logging.getLogger("absl").level == level


def test_reads_that_fail_after_the_first_one_are_not_logged(folder, caplog):
    """asyncio logs them when it frees them, on a busy machine and as late as at the end."""
    bad = folder / f"{20:012d}"
    cut(bad)
    step, _, (complaint,) = checkpoint.restore_newest(folder, LIKE)
    assert step == 10 and "is damaged" in complaint
    told = "Future exception was never retrieved\nfuture: <Future finished exception={}>"
    others = [folder / f"{10:012d}" / "arrays", "of another program"]
    for about in (bad / "arrays" / "manifest.ocdbt", *others):
        logging.getLogger("asyncio").error(told.format(about))
    assert caplog.text.count("never retrieved") == len(others) and str(bad) not in caplog.text


def test_a_half_written_checkpoint_of_a_killed_run_is_not_seen_and_is_overwritten(folder):
    half = folder / f"{20:012d}.tmp"
    (half / "arrays").mkdir(parents=True)
    (half / "arrays" / "junk").write_text("junk")
    assert checkpoint.steps(folder) == [10, 20]
    checkpoint.save(folder, 30, TREE)
    assert checkpoint.restore_newest(folder, LIKE)[0] == 30 and not half.exists()


def test_a_full_disk_is_told_once(tmp_path):
    """Orbax's threads say nothing beside the error."""
    code = f"""
import resource, signal
from pathlib import Path
import numpy as np
from jaxrl.run import checkpoint
tree = {{str(i): np.random.default_rng(i).normal(size=(200, 200)) for i in range(40)}}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path(r"{tmp_path}"), 2, tree)
except RuntimeError as error:
    print(str(error).split(":")[0])
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == f"cannot write checkpoint {tmp_path / '000000000002'}"
    assert done.stderr == "" and checkpoint.steps(tmp_path) == []
