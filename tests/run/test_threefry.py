import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxrl.run.threefry import threefry_2x32

# Random123's own known answers for Threefry-2x32 of 20 rounds: key, counter, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize("key, counter, result", KNOWN)
def test_the_hash_gives_the_known_answers(key, counter, result):
    words = [jnp.uint32(x) for x in (*key, *counter)]
    assert tuple(map(int, jax.jit(threefry_2x32)(*words))) == result


def test_after_setup_jax_random_draws_the_same_without_a_loop():
    draws = """
import sys
import jax

if sys.argv[1:]:
    from jaxrl.run import runtime
    runtime.setup(cache=False)

def draws(seed):
    key, other = jax.random.split(jax.random.fold_in(jax.random.key(seed), 7))
    keys = jax.random.split(other, (3, 5))
    each = jax.vmap(jax.vmap(lambda k: jax.random.bits(k, (2, 3))))(keys)
    return jax.random.bits(key, (1001,)).sum(), each.sum(), jax.random.permutation(key, 100)

lowered = jax.jit(draws).lower(3)
print("stablehlo.while" in lowered.as_text(), *lowered.compile()(3))
"""
    run = lambda *args: subprocess.run(
        [sys.executable, "-c", draws, *args],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split(maxsplit=1)
    (loop_before, before), (loop_after, after) = run(), run("setup")
    assert before == after
    assert (loop_before, loop_after) == ("True", "False")
