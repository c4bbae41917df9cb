"""Summaries over seeds and episodes are honest."""

import numpy as np
import pytest
from scipy import stats

from jaxrl.report.summary import (
    bootstrap_interval,
    difference_interval,
    iqm,
    mean_interval,
    verdict,
    wilson,
)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 13])
def test_iqm_is_scipys_trimmed_mean(n):
    """rliable and the published tables of the field use this definition."""
    scores = np.random.default_rng(n).normal(size=n)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), rel=1e-12)


def test_iqm_of_five_seeds_drops_one_at_each_end():
    assert iqm(np.array([0.0, 1.0, 2.0, 6.0, 100.0])) == 3.0
    assert iqm(np.array([[0.0, 1.0, 2.0], [6.0, 7.0, 100.0]])) == 4.0  # of all, flat
    assert iqm(np.array([1.0, 2.0, 6.0])) == 3.0  # a quarter of three is less than one


def test_iqm_ignores_outliers_and_refuses_nothing_at_all():
    assert iqm(np.array([1.0, 2.0, 3.0, 1e9])) == iqm(np.array([-1e9, 2.0, 3.0, 4.0])) == 2.5
    with pytest.raises(ValueError, match="no scores"):
        iqm(np.array([]))


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.normal(size=20), np.mean, level=0.9, samples=200)
        hits += low <= 0.0 <= high
    assert 78 <= hits <= 97  # percentile intervals of 20 scores are slightly narrow


def test_the_bootstrap_interval_is_deterministic_and_widens_with_its_level():
    scores = np.random.default_rng(1).normal(size=10)
    first, again = (bootstrap_interval(scores, samples=300) for _ in range(2))
    low, high = bootstrap_interval(scores, level=0.5, samples=300)
    assert first == again and first[0] < low < iqm(scores) < high < first[1]


def test_the_interval_of_a_difference_holds_it_and_turns_with_its_sides():
    rng = np.random.default_rng(1)
    a, b = rng.normal(5.0, 1.0, 30), rng.normal(3.0, 1.0, 30)
    low, high = difference_interval(a, b)
    assert low < iqm(a) - iqm(b) < high and low > 0.5
    turned = difference_interval(b, a)
    assert turned == pytest.approx((-high, -low), abs=0.1)
    assert difference_interval(np.ones(5), np.zeros(5)) == (1.0, 1.0)


def test_iqm_along_an_axis_is_that_of_every_row():
    x = np.random.default_rng(2).normal(size=(3, 7))
    np.testing.assert_allclose(iqm(x, axis=1), [iqm(row) for row in x])
    np.testing.assert_allclose(iqm(x, axis=0), [iqm(column) for column in x.T])


def test_a_verdict_needs_an_interval_on_one_side_of_zero():
    cases = {
        (0.1, 0.2): "holds",
        (-0.2, -0.1): "does not hold",
        (-0.1, 0.2): "inconclusive",
        (0.0, 0.2): "inconclusive",
        (0.0, 0.0): "no difference",
    }
    assert {interval: verdict(interval) for interval in cases} == cases


def test_an_interval_inside_the_margin_is_no_difference():
    cases = {
        (-0.1, 0.1): "no difference",
        (0.01, 0.1): "no difference",
        (-0.1, -0.01): "no difference",
        (-0.11, 0.1): "inconclusive",
        (0.01, 0.11): "holds",
        (-0.11, -0.01): "does not hold",
    }
    assert {interval: verdict(interval, margin=0.1) for interval in cases} == cases
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="margin=.*must be 0 or more"):
            verdict((0.0, 1.0), margin=wrong)


# --- Rates over episodes ---


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (16, 16, 0.8064, 1.0),
        (0, 16, 0.0, 0.1936),
        (8, 16, 0.2800, 0.7200),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval_by_hand(successes, n, low, high):
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_scipys():
    theirs = stats.binomtest(5, 12).proportion_ci(0.9, "wilson")
    assert wilson(5, 12, level=0.9) == pytest.approx(tuple(theirs), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "n=0: must be at least 1"),
        ((5, 4), "successes=5: must be between 0 and n=4"),
        ((-1, 4), "successes=-1: must be between 0 and n=4"),
    ],
)
def test_wilson_refuses_counts_that_are_not_a_rate(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        wilson(*arguments)


def test_interval_over_episodes_is_wilsons_where_every_value_is_0_or_1():
    assert mean_interval(np.ones(16)) == wilson(16, 16)
    assert mean_interval(np.array([True, False, True])) == wilson(2, 3)
    returns = np.random.default_rng(0).normal(size=20)
    assert mean_interval(returns) == bootstrap_interval(returns, np.mean)
