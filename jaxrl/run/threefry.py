"""JAX's default random bits, without the loop that JAX compiles on a CPU.

The loop runs ten small operations five times and copies arrays in between. That was a tenth of
SAC's time. Straight code runs and compiles faster, and every bit is the same.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def threefry_2x32(
    key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3): two words of a counter
    hashed with two words of a key. All are uint32 with shapes that broadcast."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ PARITY)
    x_0, x_1 = x_0 + key_0, x_1 + key_1
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x_0 = x_0 + x_1
            x_1 = x_0 ^ (x_1 << np.uint32(r) | x_1 >> np.uint32(32 - r))
        x_0 = x_0 + keys[(i + 1) % 3]
        x_1 = x_1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x_0, x_1


def unroll() -> None:
    """Makes `jax.random` compile to this on a CPU from now on."""
    rule = mlir.lower_fun(threefry_2x32, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, rule, platform="cpu")
