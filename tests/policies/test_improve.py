"""Operators on candidates: the best, a draw by softmax, ascent; N = 0 and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.policies import improve

KEY = jax.random.key(0)
CANDIDATES = jnp.array([[0.0, 0.5], [-0.5, 1.0], [0.25, -0.25]])


def parabola(actions):
    """Highest, 0, at (0.5, -0.5)."""
    return -((actions - jnp.array([0.5, -0.5])) ** 2).sum(-1)


def test_the_best_has_the_highest_value_of_all():
    # Values -1.25, -3.25 and -0.125.
    np.testing.assert_allclose(improve.best_of(parabola, CANDIDATES), [0.25, -0.25])
    np.testing.assert_allclose(
        improve.top_of(parabola, CANDIDATES, 2), CANDIDATES[jnp.array([2, 0])]
    )


def test_a_draw_has_the_probabilities_of_a_softmax():
    """Values 0 and log 3 at temperature 1: 1 to 3. At temperature 1/2: 1 to 9."""
    q = lambda c: c[:, 0]
    candidates = jnp.array([[0.0], [jnp.log(3.0)]])
    keys = jax.random.split(KEY, 4000)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        draw = lambda key, t=temperature: improve.softmax_of(q, candidates, t, key)[0] > 0
        assert float(jax.vmap(draw)(keys).mean()) == pytest.approx(share, abs=0.03)


def test_a_draw_at_temperature_0_is_the_best():
    draw = lambda key: improve.softmax_of(parabola, CANDIDATES, 0.0, key)
    draws = jax.vmap(draw)(jax.random.split(KEY, 20))
    np.testing.assert_array_equal(draws, jnp.tile(CANDIDATES[2], (20, 1)))


def test_one_step_of_ascent_by_hand():
    """The gradient at (0, 0.5) is (1, -2)."""
    found = improve.ascend(parabola, CANDIDATES, 1, 0.1)
    np.testing.assert_allclose(found[0], [0.1, 0.3], rtol=1e-6)


def test_ascent_reaches_the_maximum_and_stays_within_the_bounds():
    found = improve.ascend(parabola, CANDIDATES, 50, 0.1)
    np.testing.assert_allclose(found, jnp.tile(jnp.array([0.5, -0.5]), (3, 1)), atol=1e-3)
    far = lambda actions: 10.0 * actions.sum(-1)
    np.testing.assert_array_equal(improve.ascend(far, CANDIDATES, 3, 0.1), jnp.ones((3, 2)))


def test_ascent_returns_the_best_iterate_and_never_less_than_its_start():
    """Steps of this size jump over the maximum: from 0 to 1, which is as good, then to 0 again."""
    q = lambda a: -((a[:, 0] - 0.45) ** 2)
    found = improve.ascend(q, jnp.array([[0.0], [0.45]]), 1, 1.0)
    # From 0 the step leads to 0.9, whose value is that of the start: the start stays.
    np.testing.assert_allclose(found, [[0.0], [0.45]])
    wild = improve.ascend(q, jnp.array([[0.3]]), 5, 3.0)
    assert float(q(wild)[0]) >= float(q(jnp.array([[0.3]]))[0])


def test_a_step_of_ascent_does_not_depend_on_the_number_of_candidates():
    alone = improve.ascend(parabola, CANDIDATES[:1], 4, 0.05)
    among = improve.ascend(parabola, jnp.tile(CANDIDATES, (8, 1)), 4, 0.05)
    np.testing.assert_allclose(among[0], alone[0], rtol=1e-6)


def test_a_candidate_that_is_not_finite_is_contained():
    bad = CANDIDATES.at[2].set(jnp.nan)
    np.testing.assert_array_equal(improve.best_of(parabola, bad), CANDIDATES[0])
    draws = jax.vmap(lambda key: improve.softmax_of(parabola, bad, 1.0, key))(
        jax.random.split(KEY, 50)
    )
    assert jnp.isfinite(draws).all()
    refined = improve.ascend(parabola, bad, 3, 0.1)
    np.testing.assert_array_equal(refined[:2], improve.ascend(parabola, CANDIDATES, 3, 0.1)[:2])
    blind = lambda c: jnp.where(jnp.isnan(c[:, 0]), 9.0, c[:, 0])  # prefers it
    np.testing.assert_array_equal(improve.best_of(blind, bad), CANDIDATES[0])


def test_a_value_that_is_not_finite_is_contained():
    q = lambda c: jnp.array([jnp.nan, -7.0, jnp.inf])
    np.testing.assert_array_equal(improve.best_of(q, CANDIDATES), CANDIDATES[1])
    nowhere = lambda c: jnp.full(len(c), jnp.nan) * c.sum(-1)
    np.testing.assert_array_equal(improve.best_of(nowhere, CANDIDATES), CANDIDATES[0])
    np.testing.assert_array_equal(improve.ascend(nowhere, CANDIDATES, 2, 0.1), CANDIDATES)


def test_no_candidates_are_refused():
    none = jnp.zeros((0, 2))
    for call in (
        lambda: improve.best_of(parabola, none),
        lambda: improve.softmax_of(parabola, none, 1.0, KEY),
        lambda: improve.ascend(parabola, none, 1, 0.1),
    ):
        with pytest.raises(ValueError, match=r"^candidates of shape \(0, 2\): N must be at least"):
            call()
    with pytest.raises(ValueError, match="^count=4: must be at least 1, at most N=3"):
        improve.top_of(parabola, CANDIDATES, 4)
