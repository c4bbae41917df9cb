"""What the claim scripts share."""

import sys
from pathlib import Path

import numpy as np
import pytest
from probes import Probe

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "experiments/claims")]

import collect  # noqa: E402
import common  # noqa: E402

from jaxrl.learners import ppo  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")


def learner():
    config = ppo.Config(num_envs=8, unroll_length=2, actor_hidden=(4,), critic_hidden=(4,))
    return ppo.make(Probe(pays=1.0), config)


def test_a_measurement_is_kept_whole_and_not_made_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options = dict(seeds=2, num_evals=1, eval_episodes=2, learner_name="ppo")
    assert common.measure("c", "probe", "a", learner, 32, **options) is not None
    assert common.measure("c", "probe", "a", learner, 32, **options) is None
    common.measure("c", "probe", "b", learner, 32, **options)
    first, second = common.load("c")
    assert first["steps"] == [0, 32] and np.shape(first["values"]) == (2, 2)
    assert first["values"][-1] == [1.0, 1.0] and second["variant"] == "b"
    assert "inconclusive" in common.better("c", "probe", "a", "b")
    common.table("c", "title")
    assert "probe" in capsys.readouterr().out


def test_the_readme_s_table_shows_what_the_claim_is_about(tmp_path, monkeypatch):
    entry = lambda variant, values: {
        "task": "maze",
        "variant": variant,
        "values": [[0.0] * 5, values],
        "steps": [0, 10],
    }
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.save("rlpd_sparse", [entry("rlpd", [0.9] * 5), entry("bc", [0.4] * 5)])
    rows = collect.claims_table(tmp_path).splitlines()[2:]
    (row,) = [row for row in rows if "rlpd_sparse" in row]
    assert "| 0.9 | bc | 0.4 | +0.5 .. +0.5 | holds | 5 |" in row
    assert {row.split(" | ")[0].strip("| ") for row in rows} == set(collect.CLAIMS)
    assert sum("not run" in row for row in rows) == len(collect.CLAIMS) - 1
    assert "holds" in common.better("rlpd_sparse", "maze", "rlpd", "bc")
