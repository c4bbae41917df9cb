"""A batch along the last axis against `jax.vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import envs
from envs.mjx import batch_last, runge_kutta
from envs.mjx import simulator as physics

N = 5
INDEX = np.array([[2, 0], [1, 1]])


def draw(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def loop(x, y):
    """As many rounds as the instance's numbers say: 1 to 7."""
    limit = 3 + jnp.clip(4 * x[0], -2, 4)
    return lax.while_loop(lambda c: c[0] < limit, lambda c: (c[0] + 1, c[1] * y), (0.0, x))


def several(x, y):
    which = jnp.int32(jnp.clip(x[0] + 1, 0, 2.9))
    return lax.switch(which, [lambda a: a + y, lambda a: a * 2, lambda a: jnp.zeros(3)], x)


def scanned(x, y):
    step = lambda carry, z: (carry + z * x.sum(), (carry, jnp.array([1.0, 2.0])))
    return lax.scan(step, 0.0, y)


def long_function(x, y):
    for _ in range(batch_last.MIN_EQUATIONS):
        x = x * y + 1
    return x, y.sum(), jnp.ones(2)


FUNCTIONS = {
    "arithmetic": lambda x, y: (x * y - jnp.sin(x) / (2 + y**2), x > y, jnp.where(x > 0, y, -y)),
    "predicate of one number": lambda x, y: lax.select(x[0] > y[1], x, y),
    "clamp": lambda x, y: (jnp.clip(x, -1, 1), lax.clamp(x.min(), y, x.max())),
    "power": lambda x, y: (jnp.abs(x) ** jnp.abs(y), x ** jnp.array([2.0, 2, 2])),
    "power of one number": lambda x, y: lax.pow(x[:1] ** 2, jnp.array([2.0])) + x ** y[:1],
    "power not two": lambda x, y: jnp.abs(x) ** jnp.array([2.0, 1.5, 3]),
    "reshape": lambda x, y: (jnp.outer(x, y).reshape(3, 1, 3).transpose(2, 0, 1), x[:, None] + y),
    "slices": lambda x, y: (x[1:], x[::-2], jnp.outer(x, y)[1:, ::2], x[1]),
    "concatenate": lambda x, y: (jnp.concatenate([x, jnp.ones(2), y]), jnp.stack([x, y], 1)),
    "reductions": lambda x, y: (x.sum(), jnp.outer(x, y).max(1), jnp.argmin(x), jnp.all(x > y)),
    "cumulative": lambda x, y: (jnp.cumsum(x), jnp.cumprod(jnp.outer(x, y), 1), jnp.sort(x)),
    "matrix and vector": lambda x, y: (jnp.outer(x, y) @ x, x @ y, jnp.outer(x, y) @ jnp.eye(3)),
    "batched product": lambda x, y: jnp.einsum(
        "bij,bkj->bik", x[:, None, None] * A, y[:, None, None] * A
    ),
    "two axes summed": lambda x, y: jnp.einsum("bij,bij,b->b", x[:, None, None] * A, A, y),
    "a sum of many terms": lambda x, y: jnp.tile(x, 30) @ jnp.tile(jnp.outer(y, x), (30, 1)),
    "no terms": lambda x, y: jnp.outer(x, y)[:, :0] @ jnp.zeros((0, 2)),
    "integers": lambda x, y: (jnp.int32(10 * x) % 3, jnp.int32(x) @ jnp.int32(y), jnp.sign(x)),
    "known index": lambda x, y: (x[INDEX], jnp.outer(x, y)[INDEX], jnp.outer(x, y)[:, INDEX]),
    "known index, negative": lambda x, y: (x[jnp.array([-1, 0])], jnp.outer(x, y)[-1]),
    "known index, beyond": lambda x, y: x[jnp.array([0, 7])],
    "two known indices": lambda x, y: jnp.outer(x, y)[jnp.array([0, 1]), jnp.array([2, 1])],
    "index of the instance": lambda x, y: (y[jnp.argmax(x)], jnp.outer(x, y)[jnp.argsort(x)]),
    "written": lambda x, y: (x.at[jnp.array([2, 0])].set(y[:2]), x.at[0].set(1.0)),
    "added": lambda x, y: (x.at[jnp.array([1, 1])].add(y[:2]), jnp.eye(3).at[INDEX[0]].add(y)),
    "multiplied": lambda x, y: jnp.outer(x, y).at[:, jnp.array([0, 2])].multiply(3.0),
    "written at the instance's": lambda x, y: x.at[jnp.argmax(y)].set(7.0),
    "one branch of two": lambda x, y: lax.cond(x[0] > 0, lambda a: a, lambda a: a * y, x),
    "one branch of three": several,
    "one branch for all": lambda x, y: lax.cond(A[0, 0, 0] > 0, lambda a: a, lambda a: a * y, x),
    "while": loop,
    "scan": scanned,
    "fori": lambda x, y: lax.fori_loop(0, 3, lambda i, c: c.at[i].add(y[i] * i), x),
    "a function of some length": jax.jit(long_function),
    "custom derivative": lambda x, y: (jax.nn.relu(x), jax.nn.silu(y), jnp.linalg.norm(x)),
    "constants": lambda x, y: (jnp.arange(3), x * 0 + 1, jnp.float32(2.0)),
}
A = np.asarray(draw((3, 2, 4), 9))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_vmap(name, both):
    f, x, y = FUNCTIONS[name], draw((N, 3)), draw((N, 3) if both else (3,), 1)
    want = jax.jit(jax.vmap(f, (0, 0 if both else None)))(x, y)
    got = jax.jit(batch_last.vmap(f, [True, both]))(x, y)
    assert jax.tree.structure(want) == jax.tree.structure(got)
    for w, g in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert w.shape == g.shape and w.dtype == g.dtype
        np.testing.assert_allclose(w, g, rtol=2e-5, atol=1e-5)


def test_arguments_are_trees():
    f = lambda a, b: {"sum": a["x"] + b[0], "same": b[1]}
    args = ({"x": draw((N, 3))}, (draw((3,)), None, draw((N,)))[::2])
    got = batch_last.vmap(f, [True, False, True])(*args)
    want = jax.vmap(f, (0, (None, 0)))(*args)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("task", ["hopper", "ant"])
def test_a_step_of_mjx_is_vmaps(task):
    """Robots that fall, for contacts; fast physics, for the limits of contacts."""
    env = envs.make(task, physics="fast")
    while not hasattr(env, "sim"):
        env = env.env
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), N)).data
    start = physics.compact(states).replace(qvel=3 * draw((N, env.sim.mj_model.nv)))

    def step(data):
        data = runge_kutta.step(env.sim.model, env.sim.data(data))
        return data.qpos, data.qvel, data._impl.efc_force, data._impl.contact.dist

    flags = [True] * len(jax.tree.leaves(start))
    want = jax.jit(jax.vmap(step))(start)
    got = jax.jit(batch_last.vmap(step, flags))(start)
    for w, g in zip(want, got, strict=True):
        np.testing.assert_allclose(w, g, rtol=1e-3, atol=1e-3 * np.abs(w).max())
