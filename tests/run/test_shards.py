"""Sharing among devices where arrays of size zero are everywhere, as in MJX models and states."""

import pytest
from helpers import process

TWO = "--xla_force_host_platform_device_count=2"


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
    done = process("test_shards", "check()", XLA_FLAGS=TWO)
    assert done.returncode == 0, done.stderr[-3000:]


def check_runs(folder: str) -> None:
    import jax
    import numpy as np
    from probes import Probe, plain

    import envs
    from jaxrl.learners.on_policy import ppo
    from jaxrl.run.train import train

    small = {"num_envs": 16, "unroll_length": 4, "num_minibatches": 2, "num_epochs": 2}
    config = ppo.Config(**small, actor_hidden=(8,), critic_hidden=(8,))
    probe = Probe(length=5.0, pays_cue=1.0, pays_goal=1.0, sees_cue=1.0)
    pendulum = envs.make("gymnax/Pendulum-v1")
    for env in (probe, pendulum):
        learner = ppo.make(env, config)

        def go(devices, iterations, learner=learner, **more):
            steps = 16 * 4 * iterations
            more |= {"num_evals": 0, "quiet": True, "evaluate": lambda *_: {"return": 0.0}}
            state = train(learner, steps, seeds=2, devices=devices, **more).state
            return [np.asarray(plain(x)) for x in jax.tree.leaves(state)]

        one, two = go(1, 4), go(2, 4)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    go(2, 2, run_dir=folder)
    resumed = go(2, 4, run_dir=folder, resume=True)
    for a, b in zip(two, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_devices_equal_one_to_rounding_and_a_resume_on_two_is_bit_for_bit(tmp_path):
    """On two unlike environments: another number of devices is another program."""
    done = process("test_shards", f"check_runs({str(tmp_path)!r})", XLA_FLAGS=TWO)
    assert done.returncode == 0, done.stderr[-3000:]
