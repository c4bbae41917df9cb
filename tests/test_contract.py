"""What every registered learner promises. A new learner is tested by its line in the registry.

A learner that needs an environment of its own kind gets one in `ENVS` of `probes.py`.
"""

import contextlib
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import forget_programs
from jax.experimental.key_reuse._core import check_key_reuse_jaxpr
from probes import AGENTS, CLOCK, ENVS, Probe, assert_same, differ, env_of, plain

from jaxrl.config import check, numbers
from jaxrl.data import dataset as data
from jaxrl.episodes import evaluate
from jaxrl.learners import registry
from jaxrl.run import checkpoint

KEY = jax.random.key(0)
SMALL = {
    "num_envs": 4,
    "unroll_length": 3,
    "num_minibatches": 2,
    "num_epochs": 2,
    "updates_per_step": 2,
    "policy_delay": 1,
    "batch_size": 8,
    "replay_size": 240,
    "learning_starts": 12,
    "actor_hidden": (8,),
    "critic_hidden": (8,),
    "flow_hidden": (8,),
    "noise_hidden": (8,),
    "hidden": (8,),
    "width": 8,
    "horizon": 4,
    "execute": 2,
    "denoise_steps": 2,
    "burn_in": 2,
    "trained": 3,
    "memory_width": 8,
    "context": 3,
    "channels": (4,),
    "features": 4,
}
NAMES = sorted(registry.LEARNERS)
# One learner after the other, so that the programs of one are in memory at a time.
each = functools.partial(pytest.mark.parametrize, "name", indirect=True, scope="module")
ALL, ONLINE = each(NAMES), each([x for x in NAMES if not registry.is_offline(x)])
OF_ONE_AGENT = each([x for x in NAMES if ENVS.get(x) is not AGENTS])


@pytest.fixture(scope="module")
def name(request):
    yield request.param
    programs.cache_clear()
    traced.cache_clear()
    forget_programs()


def config_of(name, **changes):
    """The learner's own defaults in a small shape, with a schedule where there can be one."""
    config = registry.module(name).Config()
    fields = {f.name for f in dataclasses.fields(config)}
    small = {k: v for k, v in SMALL.items() if k in fields}
    if "schedule_steps" in fields:
        small["schedule_steps"] = 1000.0
    return config.replace(**(small | {k: v for k, v in changes.items() if k in fields}))


@functools.cache
def recorded(discrete):
    """120 steps of random actions in episodes of five."""
    rng = np.random.default_rng(0)
    obs = np.zeros((120, 1 + CLOCK))
    obs[:, 0] = np.repeat(rng.choice([-1.0, 1.0], 24), 5)
    action = rng.integers(0, 2, 120) if discrete else rng.uniform(-1, 1, (120, 1))
    ends = np.arange(120) % 5 == 4
    return data.from_arrays(obs, action, obs[:, 0], obs, np.zeros(120, bool), ends)


def make(name, env, config):
    module = registry.module(name)
    if registry.is_offline(name):
        return module.make(env, config, recorded(getattr(env, "discrete", False)))
    return module.make(env, config)


@functools.cache
def programs(name):
    """The environment, the config, `init`, and `step` with the environment's numbers as arguments."""
    env, config = env_of(name), config_of(name)
    step = lambda env, state: make(name, env, config).step(state)
    return env, config, jax.jit(make(name, env, config).init), jax.jit(step)


def after(name, seed=0):
    """A learner's state after two iterations, the first of which may only collect, and the metrics
    of the second."""
    env, _, init, step = programs(name)
    state, _ = step(env, init(jax.random.key(seed)))
    return step(env, state)


def other_number(config, name):
    value = float(getattr(config, name))
    return config.replace(**{name: 5.0 if math.isinf(value) else 0.9 * value if value else 0.05})


def other_numbers(config):
    """Every number of a config changed, and still allowed."""
    for name in numbers(config):
        config = other_number(config, name)
    check(config)
    return config


def constants(name):
    """The numbers of the config that the programs of a learner hold as constants."""
    found = []
    for number in numbers(config_of(name)):
        with contextlib.suppress(ValueError):  # other numbers forbid this one
            other = traced(name, functools.partial(other_number, name=number))
            found += [number] if other[0] != traced(name, same_numbers)[0] else []
    return found


@functools.cache
def traced(name, change):
    """The programs of a learner that was made with other numbers (`change`), as text, and the
    shapes of a state before and after a step; then both programs."""
    env, config = env_of(name), config_of(name)
    learner = make(name, env, change(config))
    init, state = jax.make_jaxpr(learner.init, return_shape=True)(KEY, config)
    step, (new, metrics) = jax.make_jaxpr(learner.step, return_shape=True)(state)
    consts = [np.asarray(plain(x)).tobytes() for x in (*init.consts, *step.consts)]
    return (str(init.jaxpr), str(step.jaxpr), consts), (state, new, metrics), (init, step)


def same_numbers(config):
    return config


@ALL
def test_a_step_returns_a_state_of_the_same_shapes_and_types(name):
    """Otherwise JAX traces the step anew, or a loop refuses it."""
    _, (state, new, metrics), _ = traced(name, same_numbers)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(new), strict=True
    ):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type), path
    assert all(x.shape == () for x in jax.tree.leaves(metrics))


@ALL
def test_every_number_of_the_config_is_read_from_the_state(name):
    """A number that a function closes over would make a sweep over it do nothing, silently.

    The program of a learner that was made with other numbers is the same, as text.
    """
    if traced(name, other_numbers)[0] != traced(name, same_numbers)[0]:
        pytest.fail(f"read from the config of `make`, not from the state's: {constants(name)}")


@ALL
def test_no_key_is_used_twice(name):
    """By JAX's own check, while training and while sampling actions in an evaluation."""
    for program in traced(name, same_numbers)[2]:
        check_key_reuse_jaxpr(program.jaxpr)
    learner = make(name, env_of(name), config_of(name))
    state = traced(name, same_numbers)[1][0]
    sampled = lambda state, keys: evaluate(env_of(name), learner.policy(state), keys, False)
    keys = jax.eval_shape(jax.random.split, KEY)
    with jax.debug_key_reuse(True):
        jax.eval_shape(sampled, state, keys)


@ALL
def test_runs_side_by_side_on_two_devices_that_share_them_equal_single_runs(name):
    """Halves under a named axis on one device stand for two devices. Learners of which devices
    share whole runs only have one."""
    env, config, init, _ = programs(name)
    sharing = make(name, env, config).sharing
    states = [init(jax.random.key(seed)) for seed in range(2)]
    axes = jax.tree.map(lambda _: -1, states[0]) if sharing is None else sharing.env_axis(states[0])
    parts = 1 if sharing is None else 2
    part = lambda x, axis, i: x if axis < 0 else jnp.split(x, parts, axis)[i]
    parts_of = lambda state: [
        jax.tree.map(lambda x, axis, i=i: part(x, axis, i), state, axes) for i in range(parts)
    ]
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    shared = stack([stack(of_device) for of_device in zip(*map(parts_of, states), strict=True)])
    runs = jax.vmap(shared_step(name))  # [devices, runs, ...]
    go = jax.jit(jax.vmap(runs, axis_name="devices"))
    for _ in range(2):
        shared, metrics = go(shared)
    for i in range(2):
        state, told = after(name, seed=i)
        for device, mine in enumerate(parts_of(state)):
            of_run = jax.tree.map(lambda x, d=device, i=i: x[d, i], (shared, metrics))
            assert_same(of_run, (mine, told), rtol=2e-2, atol=2e-3)
    assert differ(*(jax.tree.map(lambda x, i=i: x[:, i], shared) for i in range(2)))


def shared_step(name):
    """`step` as one of two devices takes it, if devices share runs of this learner."""
    learner = make(name, env_of(name), config_of(name))
    return learner.step if learner.sharing is None else learner.sharing.on_axis("devices").step


@ALL
def test_a_saved_run_goes_on_and_acts_as_if_it_had_not_stopped(name, tmp_path):
    env, config, _, step = programs(name)
    state, _ = after(name)
    checkpoint.save(tmp_path, 1, state)
    like = jax.eval_shape(lambda: state)
    restored = jax.tree.map(jnp.asarray, checkpoint.restore(tmp_path, 1, like))
    assert_same(restored, state)
    assert_same(step(env, restored), step(env, state))
    obs = jax.tree.map(jnp.asarray, env.reset(KEY).obs)
    for deterministic in (True, False):
        actions = []
        for kept in (state, restored):
            policy = make(name, env, config).policy(kept)
            action, carry = policy.act(policy.init_carry(), obs, KEY, deterministic)
            shapes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree)
            assert shapes(carry) == shapes(policy.init_carry())
            actions.append(action)
        assert_same(*actions)


@ONLINE
def test_a_broken_simulation_reaches_no_parameter(name):
    env, config, init, step = programs(name)
    if not isinstance(env, Probe):
        pytest.skip("only a probe can be broken on purpose")
    start = init(KEY)

    def after_steps(plant):
        broken = env.replace(plant=plant, plant_at=1.0)
        broken = jax.tree.map(lambda x, like: jnp.asarray(x, jnp.asarray(like).dtype), broken, env)
        state, count = jax.tree.map(jnp.copy, start), 0.0
        for _ in range(3):
            state, metrics = step(broken, state)
            count += float(metrics.sums["nonfinite_count"])
        assert count > 0
        return make(name, env, config).policy(state).params

    kept = after_steps(jnp.nan)
    assert all(np.isfinite(plain(x)).all() for x in jax.tree.leaves(kept))
    assert_same(kept, after_steps(1e20))  # a large finite number counts as broken, too


@ALL
def test_a_number_that_is_none_is_refused_by_name(name):
    config = config_of(name)
    for number in numbers(config):
        with pytest.raises(ValueError, match=f"^{number}=nan"):
            check(config.replace(**{number: math.nan}))
    number = numbers(config)[0]
    with pytest.raises(ValueError, match=f"^{number}=nan"):
        make(name, env_of(name), config.replace(**{number: math.nan}))


@OF_ONE_AGENT
def test_an_environment_with_agents_is_refused(name):
    with pytest.raises(
        ValueError, match="^num_agents=2: this acts for one agent|^env=Pair: must be"
    ):
        make(name, AGENTS, config_of(name))
