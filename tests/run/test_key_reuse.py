"""JAX's check of keys, where runs are batched."""

import jax
import pytest

from jaxrl.run import key_reuse


def normals(key):
    return jax.lax.scan(lambda x, k: (x, jax.random.normal(k)), 0.0, jax.random.split(key))


def test_a_batched_scan_over_keys_is_no_second_use_and_a_second_use_is_found():
    """Plain JAX refuses both."""
    keys = jax.eval_shape(jax.random.split, jax.random.key(0))
    twice = lambda key: (normals(key), normals(key))
    with jax.debug_key_reuse(True):
        key_reuse.install()
        jax.eval_shape(jax.vmap(normals), keys)
        with pytest.raises(jax.errors.KeyReuseError):
            jax.eval_shape(jax.vmap(twice), keys)
