"""JAX's check that no key is used twice (JAX_DEBUG_KEY_REUSE=1), for batched runs.

JAX has no rule for a transposed array of keys and takes every use of it for a second use. A scan
over keys is transposed where runs are batched, so `jax.vmap` of any training step would be refused.
"""

from __future__ import annotations

import jax
from jax import lax


def install() -> None:
    """Adds the missing rule if the check is on: a transposed key array takes the place of its operand.

    Call it before a batched program is traced.
    """
    if not jax.config.jax_debug_key_reuse:
        return
    from jax.experimental.key_reuse import _core

    moved = _core.KeyReuseSignature(_core.Sink(0), _core.Source(0))
    _core.key_reuse_signatures.setdefault(lax.transpose_p, moved)
