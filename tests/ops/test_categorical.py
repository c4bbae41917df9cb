"""Histograms of returns (HL-Gauss) by hand, against scipy, and their mean."""

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from jaxrl.ops.categorical import histogram


def test_the_histogram_of_a_value_is_the_mass_of_a_gaussian_around_each_atom():
    """Atoms 0, 1, 2 have bins that end at -0.5, 0.5, 1.5 and 2.5; the deviation is 0.75.

    Around 1 these are -2, -2/3, 2/3 and 2 deviations away: Phi is 0.0228, 0.2525, 0.7475, 0.9772.
    """
    found = histogram(jnp.array([[1.0], [2.0]]), jnp.arange(3.0))
    np.testing.assert_allclose(found[0, 0], [0.24069, 0.51863, 0.24069], atol=2e-5)
    below = norm.cdf((np.array([-0.5, 0.5, 1.5, 2.5]) - 2.0) / 0.75)
    np.testing.assert_allclose(found[1, 0], np.diff(below) / (below[-1] - below[0]), atol=1e-6)


def test_a_value_beyond_the_grid_counts_as_its_end():
    ends, atoms = jnp.array([-1.0, 3.0]), jnp.linspace(-1.0, 3.0, 9)
    beyond = histogram(jnp.array([-70.0, 50.0]), atoms)
    np.testing.assert_array_equal(beyond, histogram(ends, atoms))
    np.testing.assert_allclose(beyond[0], beyond[1, ::-1], atol=1e-6)


def test_within_the_grid_the_mean_is_the_value():
    atoms = jnp.linspace(-10.0, 30.0, 81)  # a step of 0.5
    value = jnp.array([-7.3, 0.0, 0.24, 11.1, 26.9])
    probs = histogram(value, atoms)
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(probs @ atoms, value, atol=1e-4)
