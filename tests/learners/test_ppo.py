"""PPO on MDPs whose answers are known, and the laws its updates obey."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import CLOCK, Probe, assert_same, differ

from envs.transforms import residual
from jaxrl.episodes import evaluate
from jaxrl.learners.on_policy import mdpo, ppo
from jaxrl.loops import collect as rollout
from jaxrl.loops import on_policy
from jaxrl.loops.unroll import OnPolicy
from jaxrl.nn.layers import MLP
from jaxrl.ops import schedules
from jaxrl.types import Policy

TINY = ppo.Config(
    learning_rate=1e-2,
    gamma=0.9,
    num_envs=32,
    unroll_length=4,
    num_minibatches=2,
    num_epochs=4,
    actor_hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
    normalize_obs=False,
)
NORMALIZED = TINY.replace(normalize_obs=True)
ONE_BATCH = TINY.replace(num_minibatches=1)
RECURRENT = TINY.replace(gru_width=8, unroll_length=6, normalize_obs=True, normalize_reward=True)
KEY = jax.random.key(0)


def make(env, config):
    return (mdpo if isinstance(config, mdpo.Config) else ppo).make(env, config)


# Environment and config are arguments, so their numbers compile nothing anew.


@jax.jit
def init(env, config, key):
    return make(env, config).init(key)


@jax.jit
def advance(env, config, state, iterations):
    """The state after some iterations, and the metrics of the last one."""
    step = make(env, config).step
    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state)[1])
    return jax.lax.fori_loop(0, iterations, lambda _, loop: step(loop[0]), (state, metrics))


def run(env, config, iterations, seed=0):
    """The last state and the last metrics."""
    return advance(env, config, init(env, config, jax.random.key(seed)), iterations)


def values(state, cue=0.0, clock=None):
    """The critic's answer to an observation of these parts."""
    obs = jnp.append(cue, jnp.zeros(CLOCK) if clock is None else jax.nn.one_hot(clock, CLOCK))
    if state.obs_moments.count > 0:
        obs = state.obs_moments.normalize(obs)
    critic = state.params["params"]["critic"]
    width = critic["Dense_0"]["bias"].shape[-1]
    return float(MLP((width,), 1, "tanh").apply({"params": critic}, obs)[0])


def best_action(env, config, state, cue=0.0):
    policy = make(env, config).policy(state)
    obs = jnp.append(cue, jnp.zeros(CLOCK))
    return float(policy.act(policy.init_carry(), obs, jax.random.key(0))[0].reshape(()))


# --- Probes: values ---


def test_a_constant_reward_of_one_step_is_worth_1():
    state, _ = run(Probe(pays=1.0), TINY, 80)
    assert values(state) == pytest.approx(1.0, abs=0.05)


def test_a_reward_that_depends_on_the_observation_is_learned_per_observation():
    state, _ = run(Probe(pays_cue=1.0, sees_cue=1.0), TINY, 80)
    assert [values(state, -1.0), values(state, 1.0)] == pytest.approx([-1, 1], abs=0.1)


def test_a_reward_one_step_ahead_is_worth_gamma():
    state, _ = run(Probe(length=2.0, pays_last=1.0, sees_clock=1.0), TINY, 120)
    assert [values(state, clock=t) for t in (0, 1)] == pytest.approx([0.9, 1.0], abs=0.05)


@pytest.mark.parametrize("normalize_obs", [False, True])
def test_a_truncated_stream_of_rewards_is_worth_1_over_1_minus_gamma(normalize_obs):
    """An episode keeps its cue, so bootstrapping from the next episode's start fails."""
    env = Probe(length=5.0, truncates=True, pays_cue=1.0, sees_cue=1.0)
    state, _ = run(env, TINY.replace(normalize_obs=normalize_obs), 300)
    assert [values(state, -1.0), values(state, 1.0)] == pytest.approx([-10, 10], rel=0.1)


def test_a_terminated_stream_is_worth_the_discounted_rewards_before_its_end():
    state, _ = run(Probe(length=5.0, pays=1.0, sees_clock=1.0), TINY, 200)
    expected = (1 - 0.9 ** np.arange(5, 0, -1)) / (1 - 0.9)
    assert [values(state, clock=t) for t in range(5)] == pytest.approx(expected, rel=0.05)


# --- Probes: actions ---

ACTIONS = [("tanh_normal", False), ("normal", False), ("normal", True)]


@pytest.mark.parametrize("kind, discrete", ACTIONS)
def test_the_policy_finds_the_better_action(kind, discrete):
    config = TINY.replace(distribution=kind)
    env = Probe(pays_goal=1.0, goal=1.0 if discrete else 0.5, discrete=discrete)
    state, _ = run(env, config, 100)
    expected = 1.0 if discrete else 0.5
    assert best_action(env, config, state) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("kind, discrete", ACTIONS)
def test_the_policy_acts_on_what_it_observes(kind, discrete):
    steps = 120.0 * TINY.num_envs * TINY.unroll_length
    config = TINY.replace(distribution=kind, lr_schedule="linear", schedule_steps=steps)
    goal = 1.0 if discrete else 0.5
    env = Probe(pays_goal=1.0, goal_cue=goal, sees_cue=1.0, discrete=discrete)
    state, _ = run(env, config, 120)
    actions = [best_action(env, config, state, cue) for cue in (-1.0, 1.0)]
    assert actions == pytest.approx([0.0, 1.0] if discrete else [-0.5, 0.5], abs=0.05)


def test_unbounded_actions_are_not_clipped():
    env, config = (
        Probe(pays_goal=1.0, goal=3.0, bound=math.inf),
        TINY.replace(distribution="normal"),
    )
    state, _ = run(env, config, 150)
    assert best_action(env, config, state) == pytest.approx(3.0, abs=0.3)
    with pytest.raises(ValueError, match="distribution='tanh_normal': .* need 'normal'"):
        ppo.make(env, TINY)


# --- Probes: memory and asymmetric observations ---

RECALL = Probe(
    length=3.0,
    sees_cue_at_first=1.0,
    sees_clock=1.0,
    pays_goal=1.0,
    goal_cue=1.0,
    discrete=True,
)


def mean_return(env, config, state):
    policy = make(env, config).policy(state)
    keys = jax.random.split(jax.random.key(1), 64)
    return float(evaluate(env, policy, keys, max_steps=5)["return"].mean())


def test_only_a_recurrent_policy_acts_on_earlier_observations():
    recurrent, _ = run(RECALL, RECURRENT, 150)
    assert mean_return(RECALL, RECURRENT, recurrent) > -0.2
    forgetful, _ = run(RECALL, TINY, 150)
    assert mean_return(RECALL, TINY, forgetful) < -1.0  # -2 by chance


def test_the_actor_ignores_observations_that_only_the_critic_gets():
    env = Probe(pays_cue=1.0, sees_cue=1.0, split=True)
    config = TINY.replace(actor_obs=("clock",), critic_obs=("cue",))
    state, metrics = run(env, config, 80)
    assert metrics["value_loss"] < 0.01  # 0.5 for a critic blind to the cue
    policy = make(env, config).policy(state)
    actions = [
        policy.act((), {"cue": jnp.array([cue]), "clock": jnp.ones(CLOCK)}, KEY)[0]
        for cue in (0.0, math.nan)
    ]
    assert actions[0] == actions[1]


def test_an_unknown_observation_entry_is_named():
    config = TINY.replace(actor_obs=("velocity",))
    with pytest.raises(ValueError, match=r"no entry \['velocity'\]; it has \['clock', 'cue'\]"):
        ppo.make(Probe(split=True), config).init(KEY)


# --- Laws of an update ---

VARIED = Probe(length=5.0, truncates=True, pays_cue=1.0, sees_cue=1.0, sees_clock=1.0)


def restless(params, carry, obs, key, deterministic):
    """A base policy that counts its steps and acts at random."""
    return jax.random.uniform(key, (1,), minval=-1.0), carry + 1


CORRECTED = residual(VARIED, Policy((), lambda: jnp.zeros(()), restless), scale=0.5)


@pytest.mark.parametrize(
    "env, config",
    [(VARIED, TINY), (VARIED, NORMALIZED), (RECALL, RECURRENT), (CORRECTED, NORMALIZED)],
    ids=["plain", "normalized", "recurrent", "residual"],
)
def test_at_learning_rate_0_the_ratio_is_1_and_parameters_stay(env, config):
    before, _ = run(env, config, 3)
    frozen = before.replace(config=before.config.replace(learning_rate=jnp.zeros(())))
    after, metrics = advance(env, config, frozen, 1)
    assert metrics["first_ratio_error"] < 1e-6
    assert abs(metrics["kl"]) < 1e-6
    assert metrics["clip_fraction"] == 0
    assert_same(after.params, before.params)
    assert differ(after.opt, before.opt)  # it did compute gradients


def test_the_normaliser_holds_every_observation_of_past_iterations():
    env = VARIED.replace(length=100.0)
    state, _ = run(env, NORMALIZED, 2)
    cue = np.asarray(state.env.now.data.cue)
    clock = np.eye(8, CLOCK)  # [T, CLOCK] of the 8 steps of two iterations
    seen = np.stack([np.append(c, row) for row in clock for c in cue])
    assert state.obs_moments.count == len(seen)
    np.testing.assert_allclose(state.obs_moments.mean, seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(state.obs_moments.var, seen.var(0), atol=1e-5)


def test_the_reward_normaliser_holds_discounted_returns_that_restart_with_episodes():
    state, _ = run(RECALL.replace(pays=1.0, pays_goal=0.0), RECURRENT, 2)
    seen = np.array([1.0, 1.9, 2.71])  # gamma = 0.9, episodes of 3 steps
    np.testing.assert_allclose(state.return_moments.mean, seen.mean(), rtol=1e-5)
    np.testing.assert_allclose(state.return_moments.var, seen.var(), rtol=1e-4)


@pytest.mark.parametrize(
    "num_envs, num_minibatches, steps",
    [(32, 2, 1), (24, 8, 1), (30, 3, 1), (7, 7, 1), (1, 4, 8), (16, 2, 5), (6, 4, 2), (2, 8, 4)],
)
def test_every_step_is_in_exactly_one_minibatch_of_an_epoch(num_envs, num_minibatches, steps):
    index, (k_one, k_two) = jnp.arange(num_envs), jax.random.split(KEY)
    order = rollout.shuffle(k_one, index, num_envs, num_minibatches, steps)
    assert order.shape == (num_minibatches, num_envs * steps // num_minibatches)
    assert sorted(order.ravel().tolist()) == list(range(num_envs * steps))
    if num_minibatches < num_envs * steps:
        assert differ(order, rollout.shuffle(k_two, index, num_envs, num_minibatches, steps))


@pytest.mark.parametrize("steps", [1, 3])
def test_minibatches_hold_the_same_steps_on_any_number_of_devices(steps):
    index = jnp.arange(32)
    ids = rollout.step_ids(index, steps)
    whole = ids[rollout.shuffle(KEY, index, 32, 2, steps)]
    for devices in (2, 8):
        shards = index.reshape(devices, -1)
        local = [rollout.shuffle(KEY, shard, 32, 2, steps) for shard in shards]
        numbers = [rollout.step_ids(shard, steps) for shard in shards]
        spread = [n[o] for n, o in zip(numbers, local, strict=True)]
        assert_same(jnp.concatenate(spread, axis=1), whole)


def test_shuffled_steps_mix_times_and_environments():
    """A minibatch of 16 of 64 steps of 4 environments holds neither whole unrolls nor whole times."""
    chosen = np.asarray(rollout.shuffle(KEY, jnp.arange(4), 4, 4, 16)[0])
    times, environments = chosen // 4, chosen % 4
    assert len(set(environments.tolist())) == 4 and len(set(times.tolist())) > 8


def test_what_is_taken_of_a_step_stays_together():
    tree = {"time": jnp.arange(3)[:, None] + jnp.zeros((3, 2)), "env": jnp.zeros((3, 2, 1)) + 7}
    tree["env"] += jnp.arange(2)[:, None]
    taken = rollout.take_steps(tree, jnp.array([5, 0, 2]))
    np.testing.assert_array_equal(taken["time"], [[2, 0, 1]])
    np.testing.assert_array_equal(taken["env"], [[[8], [7], [7]]])
    assert rollout.step_ids(jnp.array([4, 5]), 3).tolist() == [12, 15, 13, 16, 14, 17]


def test_one_environment_has_minibatches_of_shuffled_steps():
    """Settings as SB3's: one environment, and a reward of 1 at every step is worth 1."""
    config = TINY.replace(num_envs=1, unroll_length=64, num_minibatches=8)
    state, metrics = run(Probe(pays=1.0), config, 20)
    assert values(state) == pytest.approx(1.0, abs=0.05)
    assert metrics["first_ratio_error"] < 1e-6


def test_one_minibatch_of_shuffled_steps_is_one_of_whole_unrolls():
    """The same gradient, because the mean over all steps does not depend on their order."""
    config = ONE_BATCH.replace(num_epochs=1)
    steps, of_steps = run(VARIED, config, 1)
    unrolls, of_unrolls = run(VARIED, config.replace(shuffle="unrolls"), 1)
    assert_same(steps.params, unrolls.params, atol=1e-5)
    for name in ("policy_loss", "value_loss", "grad_norm"):
        np.testing.assert_allclose(of_steps[name], of_unrolls[name], atol=1e-5)


def test_a_recurrent_network_takes_whole_unrolls():
    assert RECURRENT.shuffle == "steps" and RECURRENT.whole_unrolls
    network, actor = ppo.networks(RECALL, RECURRENT)
    with pytest.raises(ValueError, match="^shuffle='steps': a network with memory needs 'unrolls'"):
        on_policy.make(RECALL, OnPolicy(), network, actor, ppo.clipped)


def test_the_minibatches_of_an_epoch_cover_the_whole_batch():
    """Else the loss over the minibatches could not be the loss over the whole batch."""
    _, split = run(VARIED, TINY.replace(learning_rate=0.0), 1)
    _, whole = run(VARIED, ONE_BATCH.replace(learning_rate=0.0), 1)
    assert float(split["value_loss"]) == pytest.approx(float(whole["value_loss"]), rel=1e-5)


def zero_critic(state):
    params = state.params["params"]
    critic = jax.tree.map(jnp.zeros_like, params["critic"])
    return state.replace(params={"params": params | {"critic": critic}})


def test_the_scale_of_the_reward_does_not_move_the_policy():
    env = VARIED.replace(pays_goal=1.0)
    free = TINY.replace(value_coef=0.0, max_grad_norm=math.inf)
    actors = []
    for scale in (1.0, 4.0):
        config = free.replace(reward_scale=scale)
        state, _ = advance(env, config, zero_critic(init(env, config, KEY)), 2)
        actors.append(state.params["params"]["actor"])
    assert_same(*actors, rtol=1e-4, atol=1e-6)
    assert differ(actors[0], init(env, free, KEY).params["params"]["actor"])


def test_value_clip_bounds_how_far_an_update_moves_the_value():
    env, slow = Probe(pays=1.0), TINY.replace(learning_rate=3e-3)
    moved = {}
    for clip in (0.01, 1e6, math.inf):
        config = slow.replace(value_clip=clip)
        first = init(env, config, KEY)
        moved[clip] = abs(values(advance(env, config, first, 1)[0]) - values(first))
    assert moved[0.01] < 0.7 * moved[math.inf]
    assert moved[1e6] == pytest.approx(moved[math.inf], rel=1e-3)


def test_the_entropy_bonus_keeps_the_policy_random():
    env = Probe(pays_goal=1.0, goal=1.0, discrete=True)
    _, greedy = run(env, TINY, 60)
    _, curious = run(env, TINY.replace(entropy_coef=10.0), 60)
    assert greedy["entropy"] < 0.2 and curious["entropy"] > 0.9 * math.log(2)


@pytest.mark.parametrize("shuffle", ["steps", "unrolls"])
def test_the_noise_of_the_entropy_does_not_depend_on_how_devices_share_environments(shuffle):
    """Two halves under a named axis against the whole, on one device."""
    config = TINY.replace(entropy_coef=1e-2, shuffle=shuffle)
    learner, first = ppo.make(VARIED, config), init(VARIED, config, KEY)
    whole, _ = advance(VARIED, config, first, 1)
    shared = lambda x, axis: (
        jnp.stack([x, x]) if axis < 0 else x.reshape(2, x.shape[0] // 2, *x.shape[1:])
    )
    halves = jax.tree.map(shared, first, learner.sharing.env_axis(first))
    step = jax.jit(jax.vmap(learner.sharing.on_axis("devices").step, axis_name="devices"))
    both = step(halves)[0].params
    assert_same(jax.tree.map(lambda x: x[0], both), whole.params, atol=1e-6)
    assert_same(*[jax.tree.map(lambda x, i=i: x[i], both) for i in range(2)])


# --- Simulations that break ---

BREAKS = VARIED.replace(length=100.0, plant_at=3.0)


def test_a_broken_simulation_is_counted_and_leaves_the_others_alone():
    first = init(BREAKS, NORMALIZED, KEY)
    cursed = np.asarray(first.env.now.data.cue) > 0
    sound, _ = advance(BREAKS, NORMALIZED, first, 1)
    broken, metrics = advance(BREAKS.replace(plant=math.nan), NORMALIZED, first, 1)
    assert 0 < cursed.sum() < len(cursed)
    assert metrics["nonfinite_count"] == metrics["episodes"] == cursed.sum()
    others = lambda state: jax.tree.map(lambda x: x[~cursed], (state.env.now, state.discounted))
    assert_same(others(broken), others(sound))
    assert (np.asarray(broken.env.episode_length)[cursed] == 1).all()


def test_nothing_of_a_broken_simulation_reaches_the_learner():
    finite, states = BREAKS.replace(plant=1.0), []
    for plant in (math.nan, math.inf, -math.inf, 1e9, -1e30):  # a huge number counts as broken
        state, _ = run(BREAKS.replace(plant=plant), NORMALIZED, 4)
        states.append((state.params, state.opt, state.obs_moments, state.env.obs))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[0]))
    for other in states[1:]:
        assert_same(states[0], other)
    assert differ(states[0][0], run(finite, NORMALIZED, 4)[0].params)


def test_a_broken_step_has_weight_0_in_the_loss():
    """With the critic at 0 the value loss is half the mean squared GAE of the good steps."""
    config = ONE_BATCH.replace(learning_rate=0.0)
    env = BREAKS.replace(pays=1.0, pays_cue=0.0, plant=math.nan)
    first = zero_critic(init(env, config, KEY))
    cursed = np.asarray(first.env.now.data.cue) > 0
    _, metrics = advance(env, config, first, 1)
    sums = np.cumsum((0.9 * 0.95) ** np.arange(4))
    sound, broken = sums[::-1], np.array([sums[1], sums[0], sums[0]])  # the third step breaks
    targets = np.concatenate([np.tile(broken, cursed.sum()), np.tile(sound, (~cursed).sum())])
    assert float(metrics["value_loss"]) == pytest.approx(0.5 * (targets**2).mean(), rel=1e-5)


# --- Learning rates ---


def test_a_linear_schedule_reaches_0_after_schedule_steps():
    config = ONE_BATCH.replace(lr_schedule="linear", schedule_steps=4.0 * 32 * 4, num_epochs=1)
    state, rates = init(VARIED, config, KEY), []
    for _ in range(6):
        state, metrics = advance(VARIED, config, state, 1)
        rates.append(float(metrics["learning_rate"]))
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0.0, 0.0], rel=1e-5)


def test_a_cosine_schedule_is_half_a_cosine():
    at = lambda progress: float(schedules.next_rate("cosine", 0.5, 0.0, TINY, progress))
    assert [at(0.0), at(0.5), at(1.0), at(2.0)] == pytest.approx([0.01, 0.005, 0, 0], abs=1e-8)


def test_an_adaptive_rate_falls_where_the_kl_is_above_its_target_and_rises_below():
    at = lambda kl, rate=1e-3: float(schedules.next_rate("adaptive", rate, kl, TINY, 0.0))
    assert at(0.03) == pytest.approx(1e-3 / 1.5)
    assert at(0.01) == pytest.approx(1e-3)
    assert at(0.003) == pytest.approx(1.5e-3)
    assert at(1.0, rate=1.1e-5) == pytest.approx(1e-5) and at(0.0, rate=9e-3) == pytest.approx(1e-2)


def test_an_adaptive_rate_follows_the_kl_of_every_minibatch():
    adaptive = TINY.replace(lr_schedule="adaptive", learning_rate=1e-4)
    _, loose = run(VARIED, adaptive.replace(target_kl=1e9), 1)
    assert float(loose["learning_rate"]) == pytest.approx(1e-4 * 1.5**8, rel=1e-4)  # 4 epochs of 2
    _, tight = run(VARIED, adaptive.replace(target_kl=1e-12), 3)
    assert tight["learning_rate"] < 2e-5


# --- Programs ---


def test_a_sweep_under_vmap_equals_separate_runs():
    rates, gammas = [1e-3, 1e-2], [0.5, 0.9]
    configs = [TINY.replace(learning_rate=r, gamma=g) for r, g in zip(rates, gammas, strict=True)]
    keys = jax.random.split(KEY, 2)
    stacked = jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *configs)
    learner = ppo.make(VARIED, TINY)
    states = jax.jit(jax.vmap(learner.init))(keys, stacked)
    states = jax.jit(jax.vmap(learner.step))(jax.jit(jax.vmap(learner.step))(states)[0])[0]
    for i, config in enumerate(configs):
        single, _ = advance(VARIED, config, init(VARIED, config, keys[i]), 2)
        one = jax.tree.map(lambda x, i=i: x[i], states)
        # Sums are in another order under vmap; Adam amplifies that where gradients vanish.
        assert_same(one.params, single.params, rtol=1e-3, atol=1e-5)
        assert_same(one.config, single.config)
    assert differ(*[jax.tree.map(lambda x, i=i: x[i], states.params) for i in range(2)])


LAPACK = 'custom_call_target="lapack'


def test_no_program_calls_lapack():
    """Two batched LAPACK calls at once can wait for each other forever on few cores."""
    orthogonal = jax.jit(lambda key: jax.random.orthogonal(key, 4)).lower(KEY).compile()
    assert LAPACK in orthogonal.as_text()  # so the search below can fail
    shape = jax.eval_shape(init, RECALL, RECURRENT, KEY)
    for program in (
        init.lower(RECALL, RECURRENT, KEY),
        advance.lower(RECALL, RECURRENT, shape, 1),
        init.lower(VARIED, TINY.replace(distribution="normal"), KEY),
    ):
        assert LAPACK not in program.compile().as_text()


# --- Config ---


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("num_envs", 0, "a whole number, at least 1"),
        ("unroll_length", 2.5, "a whole number, at least 1"),
        ("num_epochs", True, "a whole number, at least 1"),
        ("learning_rate", -1e-3, "at least 0"),
        ("learning_rate", math.nan, "at least 0"),
        ("gamma", 1.01, "between 0 and 1"),
        ("gae_lambda", -0.1, "between 0 and 1"),
        ("clip_ratio", 0.0, "above 0"),
        ("max_grad_norm", 0.0, "above 0"),
        ("activation", "sine", "'swish', 'tanh', 'relu', 'elu', 'gelu'"),
        ("distribution", "beta", "'tanh_normal', 'normal'"),
        ("lr_schedule", "step", "'constant', 'linear', 'cosine', 'adaptive'"),
        ("num_minibatches", 3, "must divide num_envs=32 times unroll_length=4"),
        ("shuffle", "all", "'steps', 'unrolls'"),
        ("resets", "never", "'pool', 'fresh', 'cached'"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError) as error:
        ppo.make(VARIED, TINY.replace(**{field: value}))
    assert f"{field}={value!r}" in str(error.value) and allowed in str(error.value)


def test_minibatches_of_whole_unrolls_divide_the_environments():
    with pytest.raises(ValueError, match=r"num_minibatches=64: must divide num_envs=32 \(a min"):
        ppo.make(VARIED, TINY.replace(num_minibatches=64, shuffle="unrolls"))


def test_a_schedule_without_its_length_is_refused():
    with pytest.raises(ValueError, match="schedule_steps=0.0: must be above 0"):
        ppo.make(VARIED, TINY.replace(lr_schedule="cosine"))


def test_mdpo_finds_the_better_action_in_ever_smaller_steps():
    env = Probe(pays_goal=1.0, goal=0.5)
    # At larger rates, or without a bonus for entropy, rounding decides the divergence.
    base = mdpo.Config(**vars(TINY)).replace(entropy_coef=0.01, learning_rate=3e-3)
    kl = {}
    for length in (100, 10**6):  # the weight of the KL divergence grows to 100, or stays 1
        config = base.replace(schedule_steps=32.0 * 4 * length)
        runs = [run(env, config, 100, seed) for seed in range(2)]
        kl[length] = sum(float(metrics["kl"]) for _, metrics in runs)
        for state, _ in runs:
            assert best_action(env, config, state) == pytest.approx(0.5, abs=0.15)
    assert kl[100] < 0.5 * kl[10**6]


# --- Advantages before every epoch ---


def test_targets_of_a_later_epoch_hold_the_values_that_the_critic_has_by_then():
    """Every step pays 1 and looks alike, so a target without lambda is 1 + gamma v."""
    env = Probe(length=100.0, truncates=True, pays=1.0)
    config = ONE_BATCH.replace(gae_lambda=0.0, num_epochs=1)

    def told(sample, config):
        losses, _ = on_policy.squared(sample, config)
        return losses, {"target": sample.target}

    def after_one_step(config):
        learner = on_policy.make(env, config, *ppo.networks(env, config), ppo.clipped, told)
        start = jax.jit(learner.init)(KEY)
        state, metrics = jax.jit(learner.step)(start)
        return values(start), values(state), float(metrics.means["target"])

    first, second, target = after_one_step(config)
    assert target == pytest.approx(1 + 0.9 * first, rel=1e-5) and second != first
    *_, once = after_one_step(config.replace(num_epochs=2))
    assert once == pytest.approx(target, rel=1e-5)
    *_, mean = after_one_step(config.replace(num_epochs=2, advantages="epoch"))
    assert mean == pytest.approx(1 + 0.9 * (first + second) / 2, rel=1e-5)
