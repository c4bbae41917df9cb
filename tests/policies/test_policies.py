"""Scripted experts, flow and diffusion heads, and how chunks of actions are carried out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.types import Box
from jaxrl.learners.imitation.chunks import Scale
from jaxrl.nn import heads
from jaxrl.ops import optim
from jaxrl.ops.moments import Moments
from jaxrl.policies import chunks
from jaxrl.policies.scripted import scripted

HORIZON, SIZE = 4, 2
SPACE = Box((SIZE,), -1.0, 1.0)


# --- Scripted experts ---


def drive(policy, steps=6, deterministic=False, seed=0):
    """The actions of an expert that is shown the same observation again and again."""
    env = envs.make("point_maze")
    obs = env.reset(jax.random.key(7)).obs

    def one(carry, t):
        key = jax.random.fold_in(jax.random.key(seed), t)
        action, carry = policy.act(carry, obs, key, deterministic)
        return carry, action

    return np.asarray(jax.lax.scan(one, policy.init_carry(), jnp.arange(steps))[1])


def test_an_expert_without_faults_is_the_task_s_own():
    env = envs.make("point_maze")
    obs = env.reset(jax.random.key(7)).obs
    np.testing.assert_allclose(drive(scripted(env)), np.tile(env.expert(obs, 0), (6, 1)), atol=1e-6)


def test_bias_lasts_an_episode_and_noise_a_step():
    env = envs.make("point_maze")
    biased = drive(scripted(env, bias=0.1))
    assert np.ptp(biased, 0).max() < 1e-6
    assert np.abs(biased - drive(scripted(env))).max() > 1e-3
    assert np.abs(biased - drive(scripted(env, bias=0.1), seed=1)).max() > 1e-3
    noisy = scripted(env, noise=0.1)
    assert np.ptp(drive(noisy), 0).min() > 1e-3
    assert np.ptp(drive(noisy, deterministic=True), 0).max() < 1e-6


def test_a_late_expert_does_what_it_would_have_done_before():
    class Counter:  # the expert answers with the observation
        action_space, num_modes = Box((1,), -1.0, 1.0), 1
        expert = staticmethod(lambda obs, mode: obs)

    policy = scripted(Counter(), delay=2)
    carry, seen = policy.init_carry(), []
    for t in range(5):
        action, carry = policy.act(carry, jnp.array([0.1 * t]), jax.random.key(t))
        seen.append(float(action[0]))
    np.testing.assert_allclose(seen, [0.0, 0.0, 0.0, 0.1, 0.2], atol=1e-6)


def test_the_mode_is_drawn_once_per_episode():
    class Two:
        action_space, num_modes = Box((1,), -1.0, 1.0), 2
        expert = staticmethod(lambda obs, mode: obs + mode)

    def episode(key):
        policy = scripted(Two())
        run = lambda carry, k: policy.act(carry, jnp.zeros(1), k)[::-1]
        return jax.lax.scan(run, policy.init_carry(), jax.random.split(key, 5))[1][:, 0]

    actions = np.asarray(jax.vmap(episode)(jax.random.split(jax.random.key(0), 64)))
    assert (np.ptp(actions, 1) == 0).all()
    assert 0.2 < actions[:, 0].mean() < 0.8
    always_second = scripted(Two(), mode=1)
    first_action = always_second.act(always_second.init_carry(), jnp.zeros(1), jax.random.key(0))[0]
    assert first_action == 1.0
    with pytest.raises(ValueError, match=r"mode=2: this task has 0 .. 1"):
        scripted(Two(), mode=2)


def test_a_task_without_an_expert_says_so():
    with pytest.raises(ValueError, match="no scripted expert"):
        scripted(envs.make("pendulum_swingup"))
    with pytest.raises(ValueError, match=r"noise=-1: must be at least 0"):
        scripted(envs.make("point_maze"), noise=-1)


# --- Heads ---


@pytest.mark.parametrize("process", [heads.FLOW, heads.DIFFUSION])
def test_a_perfect_network_recovers_the_action(process):
    """For one action the best network is known: from there every step ends at the action."""
    action = jnp.array([[0.6, -0.4]])
    noise = jnp.array([[1.3, -0.2]])
    mixed = noise
    levels = np.linspace(0.0, 1.0, 9)
    for level, after in zip(levels[:-1], levels[1:], strict=True):
        if process is heads.FLOW:
            output = (action - mixed) / (1.0 - level)
        else:
            signal, spread = heads._cosine(jnp.asarray(level))
            output = (mixed - signal * action) / spread
        mixed = process.step(mixed, output, level, after)
    np.testing.assert_allclose(mixed, action, atol=2e-2)


@pytest.mark.parametrize("process", [heads.FLOW, heads.DIFFUSION])
def test_mixing_goes_from_noise_to_action(process):
    action, noise = jnp.full((1, 2), 0.5), jnp.full((1, 2), -2.0)
    at = lambda level: process.mix(action, noise, jnp.full((1, 1), level))[0]
    np.testing.assert_allclose(at(1.0), action, atol=1e-6)
    np.testing.assert_allclose(at(0.0), noise, atol=0.05)


@pytest.mark.parametrize("process", ["flow", "diffusion"])
@pytest.mark.parametrize("streaming", [False, True])
def test_two_modes_are_both_learned(process, streaming):
    """Half of the chunks are all -0.6, half all +0.6; a Gaussian would say 0."""
    trunk = heads.FlatTrunk((64, 64), 1)
    head = heads.denoising(getattr(heads, process.upper()), trunk, 2, 1, 20, streaming)
    obs, mask = jnp.zeros((1, 1)), jnp.ones(2)

    def update(loop, key):
        params, opt = loop
        k_side, k_loss = jax.random.split(key)
        side = jnp.where(jax.random.bernoulli(k_side, shape=(128,)), 0.6, -0.6)
        chunk = jnp.broadcast_to(side[:, None, None], (128, 2, 1))
        keys = jax.random.split(k_loss, 128)
        loss = lambda p: jax.vmap(lambda c, k: head.loss(p, obs, c, mask, k))(chunk, keys).mean()
        return optim.step(params, jax.grad(loss)(params), opt, 2e-3)[:2], None

    @jax.jit
    def learn():
        params = head.init(jax.random.key(0), obs)
        keys = jax.random.split(jax.random.key(1), 1500)
        params, _ = jax.lax.scan(update, (params, optim.ADAM.init(params)), keys)[0]
        draw = lambda key: head.sample(params, obs, key, True)
        return jax.vmap(draw)(jax.random.split(jax.random.key(2), 512))[..., 0]

    sampled = np.asarray(learn())  # [512, 2]
    assert 0.4 < (sampled[:, 0] > 0).mean() < 0.6
    # Streaming trains mostly for its stairs, less for plans from pure noise.
    assert (np.abs(np.abs(sampled) - 0.6) < 0.15).mean() > (0.7 if streaming else 0.9)
    assert (np.sign(sampled[:, 0]) == np.sign(sampled[:, 1])).mean() > 0.95


def test_masked_actions_do_not_count():
    head = heads.gaussian(heads.FlatTrunk((8,), SIZE), HORIZON, SIZE)
    obs = jnp.ones((1, 3))
    params = head.init(jax.random.key(0), obs)
    mask = jnp.array([1.0, 1.0, 0.0, 0.0])
    loss = lambda chunk: head.loss(params, obs, chunk, mask, jax.random.key(1))
    a = jnp.zeros((HORIZON, SIZE))
    assert loss(a) == loss(a.at[2:].set(9.0)) != loss(a.at[1].set(9.0))


# --- Chunks ---


def counting_head(evaluations=3):
    """A plan of `seen + 0.01 * (0, 1, 2, 3)`, so that an action tells when it was planned."""

    def sample(params, seen, key, deterministic):
        offset = 0.01 * jnp.arange(HORIZON)[:, None]
        return jnp.broadcast_to(seen[-1, 0] + offset, (HORIZON, SIZE)) + params

    return heads.Head(
        init=lambda key, obs: jnp.zeros(()),
        loss=None,
        sample=sample,
        evaluations=evaluations,
        refine=lambda params, seen, plan, level, after: plan,
        corrupt=lambda plan, noise, level: plan,
    )


def policy_of(mode, execute=3, history=1, head=None):
    init_carry, apply = chunks.chunked(
        head or counting_head(),
        SPACE,
        1,
        obs_keys=(),
        history=history,
        horizon=HORIZON,
        execute=execute,
        mode=mode,
    )
    scale = Scale(jnp.zeros(SIZE), jnp.ones(SIZE))
    params = {"net": jnp.zeros(()), "obs": Moments.zeros(jnp.zeros(1)), "action": scale}
    return init_carry, lambda carry, obs, key: apply(params, carry, obs, key, True)


def actions_of(mode, observations, **options):
    init_carry, act = policy_of(mode, **options)
    carry, out = init_carry(), []
    for t, x in enumerate(observations):
        action, carry = act(carry, jnp.array([x]), jax.random.key(t))
        out.append(float(action[0]))
    return np.array(out), carry


def test_open_loop_plans_every_execute_steps():
    actions, _ = actions_of("open_loop", 0.1 * np.arange(7))
    np.testing.assert_allclose(actions, [0, 0.01, 0.02, 0.3, 0.31, 0.32, 0.6], atol=1e-6)


def test_a_receding_horizon_always_plans():
    actions, _ = actions_of("open_loop", 0.1 * np.arange(5), execute=1)
    np.testing.assert_allclose(actions, 0.1 * np.arange(5), atol=1e-6)


def test_an_ensemble_averages_all_plans_for_now():
    x = np.array([0.0, 0.2, 0.1, 0.4, 0.3, 0.6])
    actions, _ = actions_of("ensemble", x)
    for t, action in enumerate(actions):
        made = np.arange(max(0, t - HORIZON + 1), t + 1)  # oldest first
        weight = np.exp(-chunks.ENSEMBLE_DECAY * np.arange(len(made)))
        expected = (weight * (x[made] + 0.01 * (t - made))).sum() / weight.sum()
        assert action == pytest.approx(expected, abs=1e-6)


def test_streaming_pops_and_appends():
    head = counting_head()
    seen_levels = []
    head = heads.Head(
        **(vars(head) | {"refine": lambda p, s, plan, a, b: seen_levels.append((a, b)) or plan})
    )
    actions, carry = actions_of("streaming", [0.5, 0.1, 0.1], head=head)
    np.testing.assert_allclose(actions, [0.5, 0.51, 0.52], atol=1e-6)
    before, after = seen_levels[0]
    np.testing.assert_allclose(before, [0.75, 0.5, 0.25, 0.0], atol=1e-6)
    np.testing.assert_allclose(after, [1.0, 0.75, 0.5, 0.25], atol=1e-6)
    assert carry["plan"].shape == (HORIZON, SIZE)


def test_history_begins_with_the_first_observation():
    _, carry = actions_of("open_loop", [0.3, 0.5], history=3)
    np.testing.assert_allclose(carry["seen"][:, 0], [0.3, 0.3, 0.5], atol=1e-6)


@pytest.mark.parametrize("staggered", [False, True])
@pytest.mark.parametrize("seeds", [0, 2])
def test_a_batch_plans_as_each_would_alone_and_only_where_needed(staggered, seeds):
    """64 environments, together or at clocks of their own, also under a second `vmap`."""
    calls = []

    def sample(params, seen, key, deterministic):
        jax.debug.callback(lambda _: calls.append(1), seen)
        noise = 0.1 * jax.random.normal(key, (HORIZON, SIZE))
        return jnp.broadcast_to(seen[-1, 0], (HORIZON, SIZE)) + noise + params

    head = heads.Head(**(vars(counting_head()) | {"sample": sample}))
    init_carry, act = policy_of("open_loop", execute=4, head=head)
    n, steps = 64, 8
    keys = jax.random.split(jax.random.key(0), n)
    xs = jnp.linspace(-0.5, 0.5, n)[:, None]
    carry = jax.vmap(lambda _: init_carry())(xs)
    if staggered:  # as after episodes of different lengths
        carry |= {"begun": jnp.ones(n, bool), "age": jnp.arange(n, dtype=jnp.int32) % 4}

    def run(carry, x, key):
        step = lambda c, t: act(c, x, jax.random.fold_in(key, t))[::-1]
        return jax.lax.scan(step, carry, jnp.arange(steps))[1]

    one_by_one = jax.lax.map(lambda args: run(*args), (carry, xs, keys))
    jax.effects_barrier()
    calls.clear()

    def together(carry):
        def step(c, t):
            fold = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
            action, c = jax.vmap(act)(c, xs, fold)
            return c, action

        return jax.lax.scan(step, carry, jnp.arange(steps))[1].swapaxes(0, 1)

    if seeds:
        twice = jax.tree.map(lambda x: jnp.stack([x] * seeds), carry)
        batched = jax.jit(jax.vmap(together))(twice)[0]
    else:
        batched = jax.jit(together)(carry)
    jax.block_until_ready(batched)
    jax.effects_barrier()
    np.testing.assert_allclose(batched, one_by_one, atol=1e-6)
    if not seeds:
        everywhere = n * steps
        assert len(calls) <= everywhere / 4 * (2 if staggered else 1)


def test_evaluations_per_action():
    head = counting_head(10)
    per = lambda mode, execute: chunks.evaluations_per_action(head, execute, mode)
    assert (per("open_loop", 8), per("ensemble", 8), per("streaming", 8)) == (1.25, 10.0, 1.0)
