"""`python -m jaxrl.data IN OUT`: from every format to every format."""

import dataclasses
import re

import numpy as np
import pytest
from test_data_files import assert_equal, made

from jaxrl.cli import convert
from jaxrl.data import files as data_files

OUT = {"npz": "a.npz", "hdf5": "b.hdf5", "robomimic": "c.hdf5", "lerobot": "d"}


def test_a_data_set_goes_through_every_format_unchanged(tmp_path, capsys):
    dataset = dataclasses.replace(made(), metadata={"env": "maze", "lerobot": {"fps": 10}})
    source = tmp_path / "in.npz"
    data_files.save(dataset, source)
    for to, name in OUT.items():
        convert.main([str(source), str(tmp_path / name), "--to", to])
        source = tmp_path / name
        assert f"{source} ({to}): 3 episodes, 9 steps" in capsys.readouterr().out
        again = data_files.load(source)
        assert_equal(again, dataset)
        assert again.metadata == dataset.metadata
    convert.main([str(source), str(tmp_path / "last.npz")])
    assert_equal(data_files.load(tmp_path / "last.npz"), dataset)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("out.npz --split train", "split='train': .*in.npz has none, only robomimic and LeRobot"),
        ("out.npz --to robomimic", "out.npz: must end in .hdf5 or .h5 for --to robomimic"),
        ("out.pkl", "out.pkl: must end in .hdf5 or .h5"),
        ("out.npz --fps 5", "fps=5: only LeRobot's format has a rate"),
        ("out --fps -5", "fps=-5: must be at least 1"),
        ("in.npz", "in.npz exists: choose another name"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    data_files.save(made(), "in.npz")
    with pytest.raises(ValueError, match=message):
        convert.main(["in.npz", *flags.split()])
    assert [p.name for p in tmp_path.iterdir()] == ["in.npz"]


@pytest.mark.parametrize("to", OUT)
def test_a_data_set_is_written_whole_or_not_at_all(tmp_path, to):
    (tmp_path / "file").write_bytes(b"mine")
    out = tmp_path / "file" / OUT[to]
    with pytest.raises(RuntimeError, match=f"^cannot write {re.escape(str(out))}: .+$"):
        convert.convert(made(), out, to)
    odd = dataclasses.replace(made(), metadata={"return": np.float32(3.0)})
    with pytest.raises(ValueError, match="^metadata={'return': .*: must be plain JSON values"):
        convert.convert(odd, tmp_path / OUT[to], to)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_digest_of_a_folder_changes_with_its_files(tmp_path):
    data_files.save(made(), tmp_path / "in.npz")
    convert.main([str(tmp_path / "in.npz"), str(tmp_path / "out")])
    before = data_files.digest(tmp_path / "out")
    assert len(before) == 64 and before == data_files.digest(tmp_path / "out")
    with (tmp_path / "out/meta/info.json").open("a") as file:
        file.write(" ")
    assert data_files.digest(tmp_path / "out") != before
