"""Sharing among devices where arrays of size zero are everywhere, as in MJX models and states."""

from helpers import process


def check() -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    from jaxrl.run.shards import shard_map

    mesh = Mesh(np.array(jax.devices()), ("d",))
    empty, closed_over = jnp.zeros((4, 0)), jnp.zeros((3, 0), jnp.int32)

    def body(tree, everywhere):
        assert tree["none"].shape == (2, 0) and everywhere.shape == (5, 0)  # its part, the whole
        inner = lambda x: x + closed_over.sum() + everywhere.sum() + tree["none"].sum()
        x = jax.lax.while_loop(lambda x: x.max() < 10.0, lambda x: inner(2.0 * x), tree["x"])
        return {"x": x, "none": tree["none"]}, jax.lax.psum(x.sum(), "d")

    specs = (P("d"), P())
    mapped = jax.jit(shard_map(body, mesh, specs, ({"x": P("d"), "none": P("d")}, P())))
    tree = {"x": jnp.array([1.0, 2.0, 3.0, 4.0]), "none": empty}
    out, total = mapped(tree, jnp.zeros((5, 0)))
    np.testing.assert_array_equal(out["x"], [8.0, 16.0, 12.0, 16.0])
    assert out["none"].shape == (4, 0) and total == 52.0
    text = mapped.lower(tree, jnp.zeros((5, 0))).as_text()
    operands = [line for line in text.splitlines() if "manual_computation" in line]
    assert operands and not any("x0x" in line for line in operands), operands


def test_arrays_of_size_zero_are_made_anew_on_either_side():
    """jaxlib 0.11 dies compiling one that crosses."""
    two = "--xla_force_host_platform_device_count=2"
    done = process("test_shards", "check()", XLA_FLAGS=two)
    assert done.returncode == 0, done.stderr[-3000:]
