"""Mutated files of a run are refused in one line or harmless; `bench/fuzz.py --files` tries more."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "bench"))

import mutations  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutated")
    return root, mutations.prepare(root)


def test_the_files_are_read_as_they_were_written(folder):
    root, reads = folder
    for file in reads:
        for reader in file.readers:
            reader(root / file.path)


def test_no_mutation_is_a_traceback_or_accepted_nonsense(folder):
    root, reads = folder
    outcomes = Counter()
    for number in range(100):
        mutation = mutations.draw(number, root, reads)
        outcomes[mutations.outcome(mutation, root)] += 1
    assert outcomes["refused"] > 50 and outcomes["accepted"] > 5


def test_nonsense_that_a_reader_lets_through_counts_against_us(folder):
    root, reads = folder
    file = mutations.Read("run/config.json", (lambda path: None,))
    mutation = mutations.Mutation(file, "all of it", b"{}", nonsense=True)
    before = (root / file.path).read_bytes()
    with pytest.raises(RuntimeError, match="nonsense was accepted"):
        mutations.outcome(mutation, root)
    assert (root / file.path).read_bytes() == before
