"""Tuning: one program answers several points, and a study that was stopped goes on."""

import sys
from pathlib import Path

import numpy as np
import pytest
from probes import Probe

from jaxrl.learners.on_policy import ppo
from jaxrl.run.train import train

sys.path.append(str(Path(__file__).parents[2] / "experiments"))  # as for a script there
import tune  # noqa: E402

SPACE = {"learning_rate": (1e-4, 1e-1), "gamma": (0.5, 0.9)}
TINY = ppo.Config(num_envs=4, unroll_length=2, num_minibatches=1, num_epochs=1, actor_hidden=(4,))
TINY = TINY.replace(critic_hidden=(4,))


def hill(points):
    """Two seeds, highest at a rate of 1e-2 and a gamma of 0.7; broken below 2e-4."""
    rate, gamma = (np.array([p[k] for p in points]) for k in SPACE)
    height = -((np.log10(rate) + 2) ** 2) - (10 * (gamma - 0.7)) ** 2
    height = np.where(rate < 2e-4, np.nan, height)
    return np.stack([height, height - 1.0], 1)  # [points, seeds]


def points_of(study):
    return [(trial.number, trial.params) for trial in study.trials]


def test_a_study_that_was_stopped_proposes_what_it_would_have_proposed(tmp_path):
    pytest.importorskip("optuna")
    whole = tune.search(tmp_path / "whole.log", SPACE, hill, points=4, batches=3, seed=1)
    path = tmp_path / "parts.log"
    tune.search(path, SPACE, hill, points=4, batches=1, seed=1)

    def stopped(points):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.search(path, SPACE, stopped, points=4, batches=3, seed=1)
    parts = tune.search(path, SPACE, hill, points=4, batches=3, seed=1)
    told = lambda study: [t.params for t in study.trials if "batch" in t.user_attrs]
    assert told(parts) == told(whole) and len(told(whole)) == 12
    assert len(parts.trials) == 16  # and the four that were stopped
    assert tune.ranked(parts)[0].params == tune.ranked(whole)[0].params


def test_points_are_ranked_by_their_seeds_and_broken_ones_are_left_out(tmp_path):
    pytest.importorskip("optuna")
    study = tune.search(tmp_path / "study.log", SPACE, hill, points=12, batches=1, seed=0)
    best = tune.ranked(study)
    heights = np.array([trial.value for trial in best])
    assert (np.diff(heights) <= 0).all()
    expected = hill([best[0].params])
    assert best[0].value == pytest.approx(expected.mean())
    broken = sum(trial.params["learning_rate"] < 2e-4 for trial in study.trials)
    assert 0 < broken == len(study.trials) - len(best)
    assert all(1e-4 <= p["learning_rate"] <= 1e-1 for _, p in points_of(study))


def test_points_of_one_program_reach_what_the_same_settings_reach_in_a_sweep():
    learner, rates = ppo.make(Probe(), TINY), [1e-3, 1e-1]
    answer = tune.Answers(learner, points=2, seeds=2, total_steps=32, eval_episodes=2, seed=3)
    found = answer([{"learning_rate": rate} for rate in rates])
    swept = train(
        learner, 32, seeds=2, seed=3, sweep={"learning_rate": rates}, num_evals=1,
        eval_episodes=2, quiet=True,
    )  # fmt: skip
    np.testing.assert_allclose(found, swept.evals[-1]["return"], rtol=1e-5)
    again = answer([{"learning_rate": rate} for rate in rates[::-1]])
    np.testing.assert_allclose(again, found[::-1], rtol=1e-5)


@pytest.mark.parametrize(
    "space, message",
    [
        ({}, "space: is empty"),
        ({"num_envs": (1.0, 8.0)}, "space 'num_envs': allowed are the numbers"),
        ({"gamma": (0.9, 0.5)}, "must be the lower value first"),
        ({"gamma": (0.9, 1.5)}, "gamma=1.5"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        tune.check_space(ppo.make(Probe(), TINY), space)


def test_a_study_with_other_settings_is_not_continued(tmp_path):
    settings = {"env": "hopper", "space": SPACE, "points": 4}
    tune.open_study(tmp_path, settings)
    tune.open_study(tmp_path, settings)
    with pytest.raises(ValueError, match="holds a study with points=4, not 8"):
        tune.open_study(tmp_path, settings | {"points": 8})
