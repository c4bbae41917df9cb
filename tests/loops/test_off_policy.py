"""Off-policy and offline learners on MDPs whose answers are known, and the laws they obey."""

import dataclasses
import functools

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from by_hand import batch_of
from probes import CLOCK, Probe, assert_same, differ
from scipy import stats

from envs.types import Box
from jaxrl import config as settings
from jaxrl.data import dataset as data
from jaxrl.data import recording, replay
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.learners.off_policy import dsac, mdpo, pmoe, sac, td3
from jaxrl.learners.offline import bc, iql, td3_bc
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Delayed, Each, Obs, n_step, split_each, to_batch
from jaxrl.nn import spaces
from jaxrl.ops import categorical, optim
from jaxrl.types import Policy

SMALL = dict(
    num_envs=16,
    unroll_length=2,
    updates_per_step=8,
    batch_size=64,
    replay_size=16 * 128,
    learning_starts=64,
    gamma=0.9,
    tau=0.1,
    actor_lr=3e-3,
    critic_lr=3e-3,
    actor_hidden=(16,),
    critic_hidden=(16,),
    activation="tanh",
)
SAC = sac.Config(**SMALL, init_alpha=1e-3, alpha_lr=0.0)
TD3 = td3.Config(**SMALL, noise_min=0.3, noise_max=0.3)
C51 = TD3.replace(num_atoms=41, v_min=-12.0, v_max=12.0, target_actor=False)
KEY = jax.random.key(0)


DSAC = dsac.Config(**SMALL, init_alpha=1e-3, alpha_lr=0.0, policy_delay=2)
MDPO = mdpo.Config(**SMALL, init_alpha=1e-3, alpha_lr=0.0, kl_coef=0.1, refresh_every=100)
PMOE = pmoe.Config(**SMALL, init_alpha=1e-3, alpha_lr=0.0, num_experts=2)
ONLINE = ("num_envs", "unroll_length", "replay_size", "learning_starts")
DATA = {k: v for k, v in SMALL.items() if k not in ONLINE} | {"updates_per_step": 32}
TD3_BC = td3_bc.Config(**DATA)
IQL = iql.Config(**DATA)
MODULES = {m.Config: m for m in (sac, td3, dsac, mdpo, pmoe)}


def module_of(config):
    return MODULES[type(config)]


@jax.jit
def init(env, config, key):
    return module_of(config).make(env, config).init(key)


@jax.jit
def advance(env, config, state, iterations):
    step = module_of(config).make(env, config).step
    metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state)[1])
    return jax.lax.fori_loop(0, iterations, lambda _, loop: step(loop[0]), (state, metrics))


def run(env, config, iterations=100, seed=0):
    return advance(env, config, init(env, config, jax.random.key(seed)), iterations)


def q_value(config, state, cue=0.0, clock=None, action=0.0):
    """The mean of the critics' answers."""
    obs = jnp.append(cue, jnp.zeros(CLOCK) if clock is None else jax.nn.one_hot(clock, CLOCK))
    if config.normalize_obs:
        obs = state.obs_moments.normalize(obs)
    x = jnp.append(obs, action)[None]
    atoms = getattr(config, "num_atoms", 0)
    heads = jax.tree.leaves(state.agent.critic.params)[0].shape[0]
    outputs = 2 if isinstance(config, dsac.Config) else max(atoms, 1)
    network = sac.Ensemble(heads, config.critic_hidden, outputs, "tanh", config.layer_norm)
    out = network.apply(state.agent.critic.params, x)[:, 0]
    out = out if atoms else out[:, :1]
    if atoms:
        out = (jax.nn.softmax(out) * jnp.linspace(config.v_min, config.v_max, atoms)).sum(-1)
    return float(out.mean())


def best_action(config, env, state, cue=0.0):
    policy = module_of(config).make(env, config).policy(state)
    obs = jnp.append(cue, jnp.zeros(CLOCK))
    return float(policy.act(policy.init_carry(), obs, KEY)[0][0])


ALL = pytest.mark.parametrize(
    "config",
    [SAC, TD3, C51, DSAC, MDPO, PMOE],
    ids=["sac", "td3", "c51", "dsac", "mdpo", "pmoe"],
)

# --- Probes ---


@ALL
def test_a_constant_reward_of_one_step_is_worth_1(config):
    state, _ = run(Probe(pays=1.0), config, 60)
    assert q_value(config, state) == pytest.approx(1.0, abs=0.07)


@ALL
def test_a_reward_that_depends_on_the_observation_is_learned_per_observation(config):
    state, _ = run(Probe(pays_cue=1.0, sees_cue=1.0), config, 60)
    values = [q_value(config, state, cue) for cue in (-1.0, 1.0)]
    assert values == pytest.approx([-1, 1], abs=0.15)


@ALL
def test_a_reward_one_step_ahead_is_worth_gamma(config):
    state, _ = run(Probe(length=2.0, pays_last=1.0, sees_clock=1.0), config, 100)
    values = [q_value(config, state, clock=t) for t in (0, 1)]
    assert values == pytest.approx([0.9, 1.0], abs=0.07)


@pytest.mark.parametrize("n_step", [1, 3])
@ALL
def test_a_truncated_stream_of_rewards_is_worth_1_over_1_minus_gamma(config, n_step):
    """An episode keeps its cue, so bootstrapping from the next episode's start fails."""
    env = Probe(length=5.0, truncates=True, pays_cue=1.0, sees_cue=1.0)
    state, _ = run(env, config.replace(n_step=n_step), 300)
    assert [q_value(config, state, cue) for cue in (-1.0, 1.0)] == pytest.approx([-10, 10], rel=0.1)


@pytest.mark.parametrize("n_step", [1, 3])
@ALL
def test_a_terminated_stream_is_worth_the_discounted_rewards_before_its_end(config, n_step):
    env = Probe(length=5.0, pays=1.0, sees_clock=1.0)
    state, _ = run(env, config.replace(n_step=n_step), 200)
    expected = (1 - 0.9 ** np.arange(5, 0, -1)) / (1 - 0.9)
    assert [q_value(config, state, clock=t) for t in range(5)] == pytest.approx(expected, rel=0.07)


@ALL
def test_the_policy_acts_on_what_it_observes(config):
    env = Probe(pays_goal=1.0, goal_cue=0.5, sees_cue=1.0)
    if isinstance(config, sac.Config):  # without its temperature it stops exploring too soon
        config = config.replace(init_alpha=0.1, alpha_lr=3e-3, target_entropy=-2.0)
    state, _ = run(env, config, 250)
    assert [best_action(config, env, state, c) for c in (-1.0, 1.0)] == pytest.approx(
        [-0.5, 0.5], abs=0.15
    )


def test_dict_observations_reach_actor_and_critic_separately():
    """The cue, which decides the reward, is the critic's alone."""
    env = Probe(pays_cue=1.0, sees_cue=1.0, sees_clock=1.0, split=True)
    config = SAC.replace(actor_obs=("clock",), critic_obs=("cue",))
    state, metrics = run(env, config, 60)
    kernels = jax.tree.leaves(state.agent.actor.params)
    assert CLOCK in {x.shape[0] for x in kernels}
    assert metrics["critic_loss"] < 0.05


# --- SAC's own laws ---


@jax.jit
def alpha_path(target):
    env = Probe(pays=0.0)
    config = SAC.replace(init_alpha=0.1, alpha_lr=1e-2, target_entropy=target)
    state, metrics = advance(env, config, init(env, config, KEY), 60)
    return state.agent.log_alpha.params, metrics


def test_the_temperature_falls_above_the_target_entropy_and_rises_below():
    low, metrics = alpha_path(-3.0)
    high, _ = alpha_path(0.69)  # log 2, of uniform actions: out of reach from below
    assert metrics["entropy"] > -3.0
    assert low < np.log(0.1) < high


def random_batch(size=64, obs=3, action=2):
    keys = jax.random.split(KEY, 6)
    normal = lambda i, *shape: jax.random.normal(keys[i], shape)
    return batch_of(
        normal(0, size, obs),
        jnp.tanh(normal(1, size, action)),
        normal(2, size),
        normal(3, size, obs),
        jnp.where(normal(4, size) > 0.5, 0.0, 0.9),
        keys[5],
    )


def built(module, config):
    return by_hand.built(module, config, obs=3, actions=Box((2,), -1.0, 1.0))


def with_other_targets(agent):
    """An agent whose target critics are not its critics, as they are at first."""
    other = jax.tree.map(lambda x: 1.3 * x + 0.1, agent.critic.target)
    return agent.replace(critic=agent.critic.replace(target=other))


def critic_loss(config, batch):
    """An agent, and SAC's critic loss on `batch`."""
    algorithm, agent, traced = built(sac, config)
    agent = with_other_targets(agent)
    _, metrics = algorithm.update.critic(agent, batch, traced)
    return agent, float(metrics["critic_loss"])


def test_the_critic_loss_is_the_soft_bellman_error_by_hand():
    config = SAC.replace(init_alpha=0.3)
    batch = random_batch()
    agent, loss = critic_loss(config, batch)
    outputs = sac.MLP((16,), 4, "tanh", 0.01).apply(agent.actor.params, batch.next_obs.actor)
    dist = spaces.tanh_normal(outputs)
    keys = jax.vmap(jax.random.split)(batch.key)[:, 0]
    raw = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
    critic = sac.Ensemble(2, (16,), 1, "tanh")
    q = lambda params, obs, a: critic.apply(params, jnp.concatenate([obs, a], -1))[..., 0]
    next_q = q(agent.critic.target, batch.next_obs.critic, jnp.tanh(raw)).min(0)
    target = batch.reward + batch.discount * (next_q - 0.3 * dist.log_prob(raw))
    now = q(agent.critic.params, batch.obs.critic, batch.action)
    oracle = 0.5 * np.mean([np.mean((np.asarray(head) - target) ** 2) for head in now])
    assert loss == pytest.approx(oracle, rel=1e-4)


# --- Actor losses by hand ---


def q_by_hand(params, obs, action):
    """The answers [2, B] of two critics, from their parameters."""
    x = np.concatenate([obs, action], -1)
    layers = jax.tree.map(np.asarray, params["params"])["VmapMLP_0"]
    first, last = layers["Dense_0"], layers["Dense_1"]
    hidden = np.tanh(x @ first["kernel"] + first["bias"][:, None])
    return (hidden @ last["kernel"] + last["bias"][:, None])[..., 0]


def outputs_by_hand(params, obs):
    """The actor's means and standard deviations [B, A]."""
    layers = jax.tree.map(np.asarray, params["params"])
    hidden = np.tanh(obs @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    mean, spread = np.split(hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"], 2, -1)
    return mean, np.log1p(np.exp(spread + 0.5413)) + 1e-3


def drawn_by_hand(mean, std, keys):
    """Actions, and their log-probabilities by SciPy's density and the derivative of tanh."""
    noise = np.stack([jax.random.normal(k, mean.shape[1:]) for k in keys])
    raw = mean + std * noise
    density = stats.norm.logpdf(raw, mean, std) - np.log(1 - np.tanh(raw) ** 2)
    return np.tanh(raw), density.sum(-1)


def actor_keys(batch):
    return jax.vmap(jax.random.split)(batch.key)[:, 1]


@pytest.mark.parametrize("actor_q", ["min", "mean"])
def test_the_actor_loss_of_sac_is_by_hand_and_so_is_the_temperature_s_gradient(actor_q):
    for target in (-3.0, 3.0):  # the entropy is above, or below
        config = SAC.replace(init_alpha=0.3, alpha_lr=1e-2, target_entropy=target, actor_q=actor_q)
        algorithm, agent, traced = built(sac, config)
        batch = random_batch()
        new, metrics = algorithm.update.actor(agent, batch, traced)
        drawn = outputs_by_hand(agent.actor.params, batch.obs.actor)
        action, log_prob = drawn_by_hand(*drawn, actor_keys(batch))
        q = getattr(q_by_hand(agent.critic.params, batch.obs.critic, action), actor_q)(0)
        loss = (0.3 * log_prob - q).mean()
        assert float(metrics["actor_loss"]) == pytest.approx(loss, rel=1e-4)
        # d/d log alpha of alpha (entropy - target): Adam's first moment is a tenth of it.
        gradient = 0.3 * (-log_prob.mean() - 2 * target)
        assert float(new.log_alpha.opt.mu) == pytest.approx(0.1 * gradient, rel=1e-4)
        step = float(new.log_alpha.params - agent.log_alpha.params)
        assert step == pytest.approx(-1e-2 * np.sign(gradient), rel=1e-3)


def test_the_actor_loss_of_mdpo_is_by_hand():
    algorithm, agent, traced = built(mdpo, MDPO.replace(init_alpha=0.3, kl_coef=0.7))
    old = jax.tree.map(lambda x: 1.5 * x + 0.1, agent.actor.params)
    batch = random_batch()
    _, metrics = algorithm.update.actor(agent.replace(old_actor=old), batch, traced)
    mean, std = outputs_by_hand(agent.actor.params, batch.obs.actor)
    old_mean, old_std = outputs_by_hand(old, batch.obs.actor)
    action, log_prob = drawn_by_hand(mean, std, actor_keys(batch))
    q = q_by_hand(agent.critic.params, batch.obs.critic, action).min(0)
    ratio = (std / old_std) ** 2
    kl = 0.5 * (ratio + ((mean - old_mean) / old_std) ** 2 - 1 - np.log(ratio)).sum(-1)
    assert kl.mean() > 0.01
    assert float(metrics["kl"]) == pytest.approx(kl.mean(), rel=1e-4)
    loss = (0.3 * log_prob + 0.7 * kl - q).mean()
    assert float(metrics["actor_loss"]) == pytest.approx(loss, rel=1e-4)


def test_the_actor_loss_of_pmoe_is_by_hand():
    """Every expert climbs its own soft value, whatever the router says."""
    algorithm, agent, traced = built(pmoe, PMOE.replace(init_alpha=0.3, router_coef=0.7))
    batch = random_batch()
    _, metrics = algorithm.update.actor(agent, batch, traced)
    outputs, _ = pmoe.Mixture((16,), 2, 2, "tanh", 0.5).apply(agent.actor.params, batch.obs.actor)
    mean, spread = np.split(np.asarray(outputs), 2, -1)  # [B, experts, A]
    std = np.log1p(np.exp(spread + 0.5413)) + 1e-3
    action, log_prob = drawn_by_hand(mean, std, actor_keys(batch))
    q = [q_by_hand(agent.critic.params, batch.obs.critic, action[:, i]).min(0) for i in range(2)]
    experts = np.mean([(0.3 * log_prob[:, i] - q[i]).mean() for i in range(2)])
    loss = experts + 0.7 * float(metrics["router_loss"])
    assert float(metrics["actor_loss"]) == pytest.approx(loss, rel=1e-4)


def test_the_losses_of_iql_are_by_hand():
    """Weights are cut at 100; the critics regress on the value that was just updated."""
    algorithm, agent, traced = built(iql, IQL.replace(expectile=0.8, beta=20.0))
    batch = random_batch()
    target = jax.tree.map(lambda x: 1.3 * x, agent.critic.params)
    agent = agent.replace(critic=agent.critic.replace(target=target))
    value = lambda params, obs: np.asarray(iql.MLP((16,), 1, "tanh").apply(params, obs))[:, 0]
    q = q_by_hand(agent.critic.target, batch.obs.critic, batch.action).min(0)
    advantage = q - value(agent.value.params, batch.obs.critic)

    new, metrics = algorithm.update.critic(agent, batch, traced)
    oracle = np.where(advantage < 0, 0.2, 0.8) * advantage**2
    assert float(metrics["value_loss"]) == pytest.approx(oracle.mean(), rel=1e-4)
    target = batch.reward + batch.discount * value(new.value.params, batch.next_obs.critic)
    now = q_by_hand(agent.critic.params, batch.obs.critic, batch.action)
    oracle = np.mean((now - np.asarray(target)) ** 2)
    assert float(metrics["critic_loss"]) == pytest.approx(oracle, rel=1e-4)

    _, metrics = algorithm.update.actor(agent, batch, traced)
    weight = np.exp(20.0 * advantage)
    assert (weight > 100).any() and (weight < 100).any()
    outputs, log_std = iql.Actor((16,), 2, "tanh").apply(agent.actor.params, batch.obs.actor)
    log_prob = stats.norm.logpdf(batch.action, np.tanh(outputs), np.exp(log_std)).sum(-1)
    oracle = -(np.minimum(weight, 100.0) * log_prob).mean()
    assert float(metrics["actor_loss"]) == pytest.approx(oracle, rel=1e-4)


# --- What the options of SAC and its relatives do ---


def test_without_backup_entropy_the_temperature_does_not_matter():
    batch = random_batch()
    losses = [
        critic_loss(SAC.replace(init_alpha=a, backup_entropy=b), batch)[1]
        for a in (0.1, 2.0)
        for b in (False, True)
    ]
    assert losses[0] == losses[2] and losses[1] != losses[3]


def test_the_random_set_of_critics_is_redrawn():
    config = SAC.replace(num_critics=5, target_critics=1)
    algorithm, agent, traced = built(sac, config)
    batch = random_batch()
    losses = set()
    for i in range(12):
        key = jax.random.key(i)
        _, metrics = algorithm.update.critic(agent, batch.replace(shared_key=key), traced)
        losses.add(round(float(metrics["critic_loss"]), 6))
    assert len(losses) == 5  # one target critic, and each of the five is drawn


def test_the_critic_loss_of_dsac_is_by_hand():
    """The target critic of the lower mean gives both the target and what is sampled from it."""
    algorithm, agent, traced = built(dsac, DSAC.replace(init_alpha=0.3))
    agent, batch = with_other_targets(agent), random_batch()
    agent = agent.replace(spread=jnp.asarray([0.5, 2.0]))
    new, metrics = algorithm.update.critic(agent, batch, traced)
    k_action, k_noise = split_each(split_each(batch.key)[0])
    outputs = outputs_by_hand(agent.actor.params, np.asarray(batch.next_obs.actor))
    action, log_prob = drawn_by_hand(*outputs, k_action)
    critic = sac.Ensemble(2, (16,), 2, "tanh", False)
    gaussian = lambda out: (np.asarray(out[..., 0]), np.log1p(np.exp(np.asarray(out[..., 1]))))
    of = lambda params, obs, a: gaussian(critic.apply(params, jnp.concatenate([obs, a], -1)))
    mean, std = of(agent.critic.target, batch.next_obs.critic, jnp.asarray(action, jnp.float32))
    lower = mean.argmin(0)
    assert 0 < lower.sum() < 64
    mean, std = (x[lower, np.arange(64)] for x in (mean, std))
    noise = np.clip(np.array([jax.random.normal(k) for k in k_noise]), -3.0, 3.0)
    backup = lambda z: batch.reward + batch.discount * (z - 0.3 * log_prob)
    mean_now, std_now = of(agent.critic.params, batch.obs.critic, batch.action)
    spread = 0.9 * np.array([0.5, 2.0]) + 0.1 * std_now.mean(1)
    np.testing.assert_allclose(new.spread, spread, rtol=1e-4)
    losses = dsac.critic_losses(
        mean_now, std_now, backup(mean), backup(mean + std * noise), spread[:, None]
    )
    assert float(metrics["critic_loss"]) == pytest.approx(float(losses.mean(1).sum()), rel=1e-4)


def test_dsac_draws_its_target_critics_too():
    algorithm, agent, traced = built(dsac, DSAC.replace(num_critics=5, target_critics=1))
    losses = set()
    for i in range(40):
        batch = random_batch().replace(shared_key=jax.random.key(i))
        _, metrics = algorithm.update.critic(agent, batch, traced)
        losses.add(round(float(metrics["critic_loss"]), 6))
    assert len(losses) == 5


def test_pmoe_with_actor_out_scale_0_starts_at_the_zero_action():
    algorithm, agent, _ = built(pmoe, PMOE.replace(actor_out_scale=0.0))
    obs = random_batch().obs.actor
    acts = lambda agent: np.abs(
        algorithm.act(agent.actor.params, (), Obs(obs[0], obs[0]), KEY, True)[0]
    ).max()
    assert acts(agent) == 0.0 and acts(built(pmoe, PMOE)[1]) > 0.01


def test_learning_goes_on_after_more_steps_than_an_int32_holds():
    config = SAC.replace(actor_starts=6 * SAC.num_envs)
    state = init(Probe(pays=1.0), config, KEY)
    late = state.replace(iteration=jnp.int32(2**31 // (SAC.num_envs * SAC.unroll_length)))
    learned, metrics = advance(Probe(pays=1.0), config, late, 1)
    assert float(metrics["critic_loss"]) > 0.0
    assert differ(learned.agent.actor.params, late.agent.actor.params)


def test_invalid_transitions_do_not_matter():
    algorithm, agent, traced = built(sac, SAC)
    batch = random_batch()
    half = jnp.arange(64) < 32
    masked = batch.replace(valid=half)
    poisoned = masked.replace(reward=jnp.where(half, batch.reward, 1e9))
    for update in (algorithm.update.critic, algorithm.update.actor):
        assert_same(update(agent, masked, traced), update(agent, poisoned, traced))


def test_the_spread_of_dsac_ignores_invalid_transitions():
    algorithm, agent, traced = built(dsac, DSAC)
    batch, half = random_batch(), jnp.arange(64) < 32
    first = jax.tree.map(lambda x: x[:32] if x.ndim else x, batch)
    spread = lambda batch: algorithm.update.critic(agent, batch, traced)[0].spread
    of_half = spread(batch.replace(valid=half))
    np.testing.assert_allclose(of_half, spread(first), rtol=1e-5)
    nothing = spread(batch.replace(valid=jnp.zeros(64, bool)))
    np.testing.assert_array_equal(nothing, agent.spread)


@pytest.mark.parametrize(
    "module, config",
    [(sac, SAC), (td3, TD3), (td3, C51), (dsac, DSAC), (mdpo, MDPO), (pmoe, PMOE), (iql, IQL)],
)
def test_targets_move_by_tau_towards_the_updated_critic(module, config):
    algorithm, agent, traced = built(module, config)
    new, _ = algorithm.update.critic(agent, random_batch(), traced)
    assert differ(new.critic.params, agent.critic.params)
    expected = optim.polyak(agent.critic.target, new.critic.params, 0.1)
    assert_same(new.critic.target, expected, rtol=1e-6, atol=1e-7)
    acted, _ = algorithm.update.actor(new, random_batch(), traced)
    assert_same(acted.critic.target, new.critic.target)
    assert_same(acted.critic.params, new.critic.params)


# --- TD3's own laws ---


def test_the_target_actor_moves_by_tau_with_the_critics_and_not_with_the_actor():
    algorithm, agent, traced = built(td3, TD3)
    target = jax.tree.map(lambda x: x + 1.0, agent.actor.params)
    agent = agent.replace(actor=agent.actor.replace(target=target))
    new, _ = algorithm.update.critic(agent, random_batch(), traced)
    expected = jax.tree.map(lambda t, a: 0.9 * t + 0.1 * a, agent.actor.target, agent.actor.params)
    assert_same(new.actor.target, expected, rtol=1e-5, atol=1e-6)
    acted, _ = algorithm.update.actor(new, random_batch(), traced)
    assert differ(acted.actor.params, new.actor.params)
    assert_same(acted.actor.target, new.actor.target)


def test_projection_agrees_with_rlax_and_keeps_mass_and_mean():
    keys = jax.random.split(KEY, 3)
    atoms = jnp.linspace(-2.0, 2.0, 9)
    probs = jax.nn.softmax(jax.random.normal(keys[0], (50, 9)))
    reward = jnp.round(jax.random.uniform(keys[1], (50,), minval=-1, maxval=1), 1)
    moved = reward[:, None] + 0.5 * atoms
    ours = categorical.project(probs, moved, atoms)
    theirs = jax.vmap(lambda z, p: rlax.categorical_l2_project(z, p, atoms))(moved, probs)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(ours.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(ours @ atoms, (probs * moved).sum(1), atol=1e-5)


def test_the_critic_loss_of_td3_is_by_hand():
    """The target action is smoothed by clipped noise; the lower of two targets counts."""
    config = TD3.replace(target_noise=0.4, target_noise_clip=0.5)
    algorithm, agent, traced = built(td3, config)
    batch = random_batch()
    grown = jax.tree.map(lambda x: 1.3 * x, (agent.actor.target, agent.critic.target))
    agent = agent.replace(
        actor=agent.actor.replace(target=grown[0]), critic=agent.critic.replace(target=grown[1])
    )
    _, metrics = algorithm.update.critic(agent, batch, traced)
    actor, critic = td3.MLP((16,), 2, "tanh", 0.01), td3.Ensemble(2, (16,), 1, "tanh", False)
    q = lambda params, obs, a: critic.apply(params, jnp.concatenate([obs, a], -1))[..., 0]
    noise = 0.4 * np.stack([jax.random.normal(k, (2,)) for k in batch.key])
    assert (np.abs(noise) > 0.5).any()
    mean = np.tanh(actor.apply(agent.actor.target, batch.next_obs.actor))
    action = np.clip(mean + np.clip(noise, -0.5, 0.5), -1.0, 1.0)
    next_q = q(agent.critic.target, batch.next_obs.critic, action).min(0)
    target = batch.reward + batch.discount * next_q
    now = q(agent.critic.params, batch.obs.critic, batch.action)
    oracle = 0.5 * np.mean((np.asarray(now) - np.asarray(target)) ** 2)
    assert float(metrics["critic_loss"]) == pytest.approx(oracle, rel=1e-4)


def test_categorical_critics_share_the_projection_with_the_lower_mean():
    """Clipping to the range can swap the order of the two means."""
    config = C51.replace(num_atoms=21, v_min=-10.0, v_max=10.0)
    algorithm, agent, traced = built(td3, config)
    wide, narrow = np.full(21, -50.0), np.full(21, -50.0)
    wide[[0, 20]] = 0.0  # half -10, half 10: 0 on average; with 5 more -5 and 10: 2.5
    narrow[9] = 0.0  # -1; with 5 more: 4
    logits = jnp.asarray(np.stack([wide, narrow]))
    target = jax.tree.map(jnp.zeros_like, agent.critic.target)
    biased = lambda x: logits if x.shape == logits.shape else x  # the last layer's bias
    agent = agent.replace(critic=agent.critic.replace(target=jax.tree.map(biased, target)))
    batch = random_batch(size=8)
    batch = batch.replace(reward=jnp.full(8, 5.0), discount=jnp.ones(8))
    _, metrics = algorithm.update.critic(agent, batch, traced)
    critic = td3.Ensemble(2, (16,), 21, "tanh", False)
    out = critic.apply(agent.critic.params, jnp.concatenate([batch.obs.critic, batch.action], -1))
    logp = np.asarray(jax.nn.log_softmax(out))
    loss = -0.5 * (logp[..., 5] + logp[..., 20]).mean()  # -5 and 10, the projected wide one
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)


def test_a_target_on_an_atom_keeps_its_mass():
    atoms = jnp.linspace(0.0, 4.0, 5)
    probs = jnp.eye(5)
    np.testing.assert_allclose(categorical.project(probs, jnp.tile(atoms, (5, 1)), atoms), probs)
    beyond = categorical.project(probs, jnp.full((5, 5), 9.0), atoms)
    np.testing.assert_allclose(beyond[:, -1], 1.0)


def test_noise_scales_last_an_episode_and_differ_between_environments():
    env = Probe(length=4.0, sees_clock=1.0)
    config = TD3.replace(noise_min=0.1, noise_max=0.9, unroll_length=1)
    noise = []
    state = init(env, config, KEY)
    for _ in range(9):
        noise.append(np.asarray(state.memory))
        state, _ = advance(env, config, state, 1)
    noise = np.array(noise)
    assert np.unique(noise[0]).size == 16 and 0.1 <= noise.min() and noise.max() <= 0.9
    for first in (0, 4):
        assert (noise[first : first + 4] == noise[first]).all()
    assert (noise[4] != noise[3]).all()


# --- DSAC-T's, MDPO's and PMOE's own laws ---


def test_dsac_s_gradients_are_the_papers():
    """By the mean: Huber of the mean target; by the spread: a clipped Gaussian likelihood's."""
    mean, std, target, sampled = 1.0, 2.0, 4.0, 30.0
    spread = 1.5
    losses = lambda m, s: dsac.critic_losses(m, s, target, sampled, jnp.asarray(spread))
    by_mean, by_std = jax.grad(losses, (0, 1))(mean, std)
    scale = min(max(spread**2 / (std**2 + 0.1), 0.1), 10.0)
    near = mean + min(sampled - mean, 3 * spread)
    assert by_mean == pytest.approx(scale * (mean - target), rel=1e-5)
    assert by_std == pytest.approx(scale * (std**2 - (near - mean) ** 2) / (std + 0.1), rel=1e-5)
    assert dsac.huber(jnp.asarray(60.0)) == pytest.approx(50.0 * 60.0 - 0.5 * 50.0**2)


def test_dsac_learns_the_spread_of_returns():
    """Rewards of -1 and 1 that nothing foretells: mean 0, standard deviation 1."""
    state, metrics = run(Probe(pays_cue=1.0), DSAC, 150)
    assert metrics["return_spread"] == pytest.approx(1.0, abs=0.15)
    assert q_value(DSAC, state) == pytest.approx(0.0, abs=0.15)


def test_mdpo_s_old_policy_is_refreshed_and_pulls():
    algorithm, agent, traced = built(mdpo, MDPO.replace(refresh_every=2))
    batch = random_batch()
    ages, same = [], []
    first = agent.actor.params
    for _ in range(4):
        agent, _ = algorithm.update.actor(agent, batch, traced)
        ages.append(float(agent.age))
        same.append(not differ(agent.old_actor, first))
    assert ages == [1, 2, 1, 2] and same == [True, True, False, False]
    drift = {}
    for kl_coef in (0.0, 100.0):
        algorithm, agent, traced = built(mdpo, MDPO.replace(kl_coef=kl_coef))
        for _ in range(30):
            agent, metrics = algorithm.update.actor(agent, batch, traced)
        drift[kl_coef] = float(metrics["kl"])
    assert drift[100.0] < 0.1 * drift[0.0]


@pytest.mark.parametrize("wrong", [0.0, jnp.ones((64, 2))])
def test_a_penalty_that_is_not_per_sample_is_refused(wrong):
    """A scalar would count samples that are not finite, and [B, A] would broadcast."""
    _, agent, config = built(sac, SAC)
    update = sac.actor_update(sac.networks(SAC, 2), 2, lambda params, agent, batch, config: wrong)
    with pytest.raises(AssertionError, match=r"penalty must return \[B\]"):
        jax.eval_shape(update, agent, random_batch(), config)


def test_pmoe_s_router_is_drawn_to_the_expert_that_the_critics_value_most():
    """Its loss by hand: the distance of its shares from that expert's one-hot."""
    algorithm, agent, traced = built(pmoe, PMOE.replace(num_experts=3))
    batch = random_batch()
    _, metrics = algorithm.update.actor(agent, batch, traced)
    outputs, logits = pmoe.Mixture((16,), 3, 2, "tanh", 0.5).apply(
        agent.actor.params, batch.obs.actor
    )
    draw = lambda out, key: spaces.tanh_normal(out).sample(key)
    actions = jnp.tanh(jax.vmap(draw)(outputs, jax.vmap(jax.random.split)(batch.key)[:, 1]))
    critic = sac.Ensemble(2, (16,), 1, "tanh", False)
    seen = jnp.repeat(batch.obs.critic[:, None], 3, 1)
    q = critic.apply(agent.critic.params, jnp.concatenate([seen, actions], -1).reshape(-1, 5))
    best = np.asarray(q[..., 0].min(0).reshape(-1, 3)).argmax(-1)
    assert len(set(best)) == 3
    oracle = ((jax.nn.softmax(logits) - np.eye(3)[best]) ** 2).sum(-1).mean()
    assert float(metrics["router_loss"]) == pytest.approx(float(oracle), rel=1e-4)


def test_pmoe_s_experts_divide_the_work():
    """One of two actions pays, as the cue says."""
    config = PMOE.replace(init_alpha=0.05, num_experts=4)
    env = Probe(pays_goal=1.0, goal_cue=0.7, sees_cue=1.0)
    state, _ = run(env, config, 300)
    assert [best_action(config, env, state, c) for c in (-1.0, 1.0)] == pytest.approx(
        [-0.7, 0.7], abs=0.2
    )


# --- The presets ---

SHRUNKEN = dict(batch_size=64, replay_size=16 * 128, gamma=0.9, activation="tanh")
SHRUNKEN |= dict(actor_hidden=(16,), critic_hidden=(16,), actor_lr=3e-3, critic_lr=3e-3)


def test_fast_td3_solves_a_probe():
    """All of `td3.FAST` that makes it fast: atoms, no target actor, noise of many scales."""
    config = td3.FAST.replace(**SHRUNKEN, num_envs=16, learning_starts=64, updates_per_step=8)
    env = Probe(pays_goal=1.0, goal_cue=0.5, sees_cue=1.0)
    state, _ = run(env, config, 250)
    assert [best_action(config, env, state, c) for c in (-1.0, 1.0)] == pytest.approx(
        [-0.5, 0.5], abs=0.15
    )


def test_rlpd_solves_a_probe_with_prior_data():
    """20 updates on every step of its one environment, half of each batch recorded."""
    config = sac.RLPD.replace(**SHRUNKEN, learning_starts=8, init_alpha=0.1, alpha_lr=3e-3)
    env = Probe(pays_goal=1.0, goal_cue=0.6, sees_cue=1.0)
    learner = sac.make(env, config, recorded())
    loop = jax.jit(lambda s: jax.lax.fori_loop(0, 400, lambda _, s: learner.step(s)[0], s))
    state = loop(learner.init(KEY))
    policy = learner.policy(state)
    obs = lambda cue: jnp.append(cue, jnp.zeros(CLOCK))
    found = [float(policy.act(policy.init_carry(), obs(c), KEY)[0][0]) for c in (-1.0, 1.0)]
    assert found == pytest.approx([-0.6, 0.6], abs=0.2)


# --- The loop ---


def test_two_devices_that_do_not_divide_the_environments_learn_and_report_as_one():
    """An iteration under a named axis, with all environments on each device, against one device."""
    config = SAC.replace(num_envs=3, learning_starts=0, normalize_obs=True)
    config = config.replace(batch_size=32, updates_per_step=2)
    env = Probe(length=3.0, sees_cue=1.0, pays_cue=1.0, truncates=True)
    first, _ = run(env, config, 3)
    whole, metrics = advance(env, config, first, 1)
    learner = module_of(config).make(env, config)
    axes = learner.sharing.env_axis(first)
    cut = lambda x, axis: jnp.stack([x, x] if axis < 0 else jnp.split(x, 2, axis))
    step = jax.jit(jax.vmap(learner.sharing.on_axis("devices").step, axis_name="devices"))
    both, reported = step(jax.tree.map(cut, first, axes))
    for device in range(2):
        mine = lambda x, axis: x if axis < 0 else jnp.split(x, 2, axis)[device]  # noqa: B023
        half = jax.tree.map(lambda x: x[device], (both, reported))  # noqa: B023
        expected = jax.tree.map(mine, whole, axes), metrics
        assert_same(half, expected, rtol=1e-4, atol=1e-4)
    assert_same(*[jax.tree.map(lambda x, i=i: x[i], both.agent) for i in range(2)])


def test_nothing_is_learned_before_learning_starts():
    env, config = Probe(pays=1.0), SAC.replace(learning_starts=32 * 5)
    first = init(env, config, KEY)
    early, metrics = advance(env, config, first, 4)
    assert_same(early.agent, first.agent)
    assert np.isnan(metrics["critic_loss"]) and early.replay.size == 8
    later, _ = advance(env, config, early, 1)
    assert differ(later.agent, first.agent)


@pytest.mark.parametrize("seeds", [0, 2])
def test_no_update_is_computed_before_learning_starts(seeds):
    """Also under `vmap` over seeds, where a `cond` would compute it and throw it away."""
    calls = []
    spy = spying(lambda batch: jax.debug.callback(lambda _: calls.append(1), batch.reward))
    config = SAC.replace(learning_starts=32 * 3)
    learner = off_policy.online(Probe(pays=1.0), config, spy)
    step, state = learner.step, learner.init(KEY)
    if seeds:
        step, state = jax.vmap(step), jax.tree.map(lambda x: jnp.stack([x] * seeds), state)
    step, counts = jax.jit(step), []
    for _ in range(4):
        state, _ = step(state)
        jax.block_until_ready(state)
        jax.effects_barrier()
        counts.append(len(calls))
    updates = max(seeds, 1) * config.updates_per_step
    assert counts == [0, 0, updates, 2 * updates]


def test_the_actor_moves_with_every_policy_delay_th_critic_from_actor_starts_on():
    env = Probe(pays=1.0)
    config = SAC.replace(policy_delay=4, actor_starts=8 * 32)  # learning starts at 2 * 32
    counts = []
    state = init(env, config, KEY)
    for iterations in (1, 6, 1, 1):
        state, _ = advance(env, config, state, iterations)
        agent = state.agent
        counts.append((int(agent.critic.opt.count), int(agent.actor.opt.count)))
    assert counts == [(0, 0), (48, 0), (56, 2), (64, 4)]


def test_before_learning_starts_actions_are_uniform():
    env, config = Probe(pays=1.0), SAC.replace(learning_starts=10**6)
    state, _ = run(env, config, 60)
    action = np.asarray(state.replay.steps.action[:120]).ravel()
    counts = np.histogram(action, 8, (-1, 1))[0] / action.size
    assert np.abs(counts - 1 / 8).max() < 0.03


def test_a_poisoned_environment_reaches_no_gradient_and_no_statistic():
    config = SAC.replace(normalize_obs=True)
    env = Probe(length=3.0, pays=1.0, sees_cue=1.0, plant=jnp.nan, plant_at=1.0)
    state, metrics = run(env, config, 40)
    assert metrics["nonfinite_count"] > 0
    leaves = jax.tree.leaves((state.agent, state.obs_moments, state.replay.steps.reward))
    assert all(np.isfinite(x).all() for x in leaves)
    assert not np.asarray(state.replay.steps.valid[: int(state.replay.size)]).all()


def idle(config, actions):
    """An algorithm that learns nothing and draws uniform actions."""
    act = lambda kept, memory, obs, key, deterministic: (actions.random(key), memory)
    return Algorithm(
        init=lambda key, obs, config: (),
        update=Each(lambda agent, batch, config: (agent, {})),
        act=act,
        keeps=lambda agent: agent,
    )


def test_the_executed_action_is_stored_and_signals_reach_batch_and_metrics():
    env = Probe(length=2.0, truncates=True, bound=2.0, signals=True)
    config = off_policy.Collect(num_envs=3, unroll_length=2, replay_size=12, n_step=2, gamma=0.9)
    learner = off_policy.online(env, config, idle)
    state, metrics = jax.jit(learner.step)(learner.init(KEY))
    steps = jax.tree.map(lambda x: np.asarray(x[:2]), state.replay.steps)
    assert set(steps.signals) == {"cost"}
    action, cost = steps.action[..., 0], steps.signals["cost"]
    np.testing.assert_allclose(cost, 2.0 * np.abs(action), rtol=1e-6)  # in units of the bound
    assert 0.3 < np.abs(action).max() <= 0.5
    np.testing.assert_allclose(metrics["episode_signal_cost"], cost.sum(), rtol=1e-5)
    assert metrics["episodes"] == 3
    w = replay.window(state.replay, jnp.zeros(1, int), jnp.zeros(1, int), 2)
    batch = to_batch(config, n_step(2), w, KEY[None], KEY, state.obs_moments)
    np.testing.assert_allclose(batch.signals["cost"], cost[0, :1] + 0.9 * cost[1, :1], rtol=1e-6)

    recorded = recording.from_replay(jax.tree.map(lambda x: x[None], state), 0, env)
    np.testing.assert_allclose(
        recorded.steps.signals["cost"], np.abs(recorded.steps.action[..., 0]), rtol=1e-6
    )


def test_prior_data_without_a_signal_of_the_environment_are_refused():
    env = Probe(signals=True)
    plain = recording.record(Policy((), lambda: (), lambda *_: (jnp.zeros(1), ())), Probe(), 2, KEY)
    with pytest.raises(ValueError, match="^prior: signal 'cost' was not recorded"):
        sac.make(env, SAC.replace(prior_ratio=0.5), plain)


def test_seeds_are_independent_and_equal_single_runs():
    env = Probe(pays_cue=1.0, sees_cue=1.0)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    many = jax.vmap(lambda k: run_key(env, SAC, k))(keys)
    for i in (0, 2):
        one = run_key(env, SAC, jax.random.key(i))
        assert_same(jax.tree.map(lambda x, i=i: x[i], many), one, rtol=2e-3, atol=2e-4)


@functools.partial(jax.jit)
def run_key(env, config, key):
    state, _ = advance(env, config, init(env, config, key), 5)
    return state.agent.critic


def spying(look):
    """SAC that shows every batch of its critics to `look`."""

    def build(config, actions):
        algorithm = sac.algorithm(config, actions)

        def update_critic(agent, batch, config):
            look(batch)
            return algorithm.update.critic(agent, batch, config)

        update = Delayed(update_critic, algorithm.update.actor)
        return dataclasses.replace(algorithm, update=update)

    return build


def test_every_update_draws_its_set_of_target_critics_anew():
    seen = []
    see = lambda key: seen.append(tuple(np.asarray(key)))
    show = lambda batch: jax.debug.callback(see, jax.random.key_data(batch.shared_key))
    config = SAC.replace(learning_starts=0)
    learner = off_policy.online(Probe(pays=1.0), config, spying(show))
    step, state = jax.jit(learner.step), learner.init(KEY)
    for _ in range(2):
        state, _ = step(state)
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(set(seen)) == 2 * config.updates_per_step


def test_a_batch_mixes_prior_and_own_data_in_the_exact_ratio():
    env = Probe(pays=1.0)
    config = SAC.replace(prior_ratio=0.25, learning_starts=0)
    prior = recorded(reward=7.0)
    seen = []
    see = lambda r: seen.append(np.asarray(r))
    spy = spying(lambda batch: jax.debug.callback(see, batch.reward))
    learner = off_policy.online(env, config, spy, prior)
    state = learner.init(KEY)
    jax.block_until_ready(jax.jit(learner.step)(state))
    jax.effects_barrier()
    assert len(seen) == config.updates_per_step
    for reward in seen:
        assert (reward == 7.0).sum() == 16 and (reward == 1.0).sum() == 48


def test_prior_data_are_drawn_by_their_weights():
    """`Dataset.weighted` with this temperature draws only the better half."""
    prior = recorded()
    halves = np.repeat([0.0, 1.0], 200)
    prior.steps.reward[:, 0] = halves
    seen = []
    keys = jax.random.split(KEY, 500)
    for dataset in (prior, prior.weighted(0.02)):
        read = dataset.source_for(Probe(sees_cue=1.0))
        window = replay.draw_recorded(read, keys, 1)
        seen.append(float(window.steps.reward.mean()))
    assert seen[0] == pytest.approx(0.5, abs=0.1) and seen[1] == 1.0


# --- Offline ---


def recorded(reward=None, good=0.6, size=400, env_actions=1):
    """One-step episodes: the action is random, and -(action - good * cue)^2 is paid."""
    rng = np.random.default_rng(0)
    cue = rng.choice([-1.0, 1.0], size)
    action = rng.uniform(-1, 1, (size, env_actions))
    paid = -((action[:, 0] - good * cue) ** 2) if reward is None else np.full(size, reward)
    obs = np.zeros((size, 1 + CLOCK))
    obs[:, 0] = cue
    ends = np.ones(size, bool)
    return data.from_arrays(obs, action, paid, obs, ends, ~ends)


OFFLINE = {k: v for k, v in DATA.items() if k not in ("tau", "gamma", "critic_lr", "critic_hidden")}


def offline_action(module, config, dataset, iterations=30):
    env = Probe(sees_cue=1.0)
    learner = module.make(env, config, dataset)
    state = learner.init(KEY)
    loop = jax.jit(lambda s: jax.lax.fori_loop(0, iterations, lambda _, s: learner.step(s)[0], s))
    policy = learner.policy(loop(state))
    obs = lambda cue: jnp.append(cue, jnp.zeros(CLOCK))
    return [float(policy.act(policy.init_carry(), obs(c), KEY)[0][0]) for c in (-1.0, 1.0)]


@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_bc_finds_the_mean_action(loss):
    dataset = recorded()
    cue = dataset.steps.obs[:, 0, 0]
    dataset.steps.action[:, 0, 0] = 0.4 * cue + 0.1 * dataset.steps.action[:, 0, 0]
    config = bc.Config(**OFFLINE, loss=loss).replace(updates_per_step=16)
    assert offline_action(bc, config, dataset) == pytest.approx([-0.4, 0.4], abs=0.06)


def stream(length=1, truncates=False, pays=0.0, pays_cue=0.0, pays_last=0.0, sees_clock=False):
    """300 steps of a `Probe` that shows its cue, or its clock, by random actions."""
    rng = np.random.default_rng(0)
    clock = np.arange(300) % length
    cue = np.repeat(rng.choice([-1.0, 1.0], 300 // length), length)
    ends = clock == length - 1
    seen = lambda t: np.c_[cue * (not sees_clock), np.eye(CLOCK)[t] * sees_clock]
    paid = pays + pays_cue * cue + pays_last * ends
    action = rng.uniform(-1, 1, (300, 1))
    terminated, truncated = ends & (not truncates), ends & truncates
    return data.from_arrays(seen(clock), action, paid, seen(clock + 1), terminated, truncated)


@functools.cache
def offline_program(module, config):
    learner = module.make(Probe(), config, stream())
    step = lambda _, loop: (learner.step(loop[0], loop[1])[0], loop[1])
    return jax.jit(lambda state, steps: jax.lax.fori_loop(0, 40, step, (state, steps))[0])


@pytest.mark.parametrize(
    "facts, asked, expected",
    [
        (dict(pays=1.0), [{"cue": 1.0}], [1.0]),
        (dict(pays_cue=1.0), [{"cue": -1.0}, {"cue": 1.0}], [-1.0, 1.0]),
        (dict(length=2, pays_last=1.0, sees_clock=True), [{"clock": 0}, {"clock": 1}], [0.9, 1]),
        (
            dict(length=5, truncates=True, pays_cue=1.0),
            [{"cue": -1.0}, {"cue": 1.0}],
            [-10, 10],
        ),
        (dict(length=5, pays=1.0, sees_clock=True), [{"clock": 0}, {"clock": 3}], [4.0951, 1.9]),
    ],
    ids=["constant", "observed", "discounted", "truncated", "terminated"],
)
@pytest.mark.parametrize("module, config", [(td3_bc, TD3_BC), (iql, IQL)], ids=["td3_bc", "iql"])
def test_offline_critics_know_the_values_of_the_probes(module, config, facts, asked, expected):
    dataset = stream(**facts)
    first = module.make(Probe(), config, dataset).init(KEY)
    source = dataset.source_for(Probe())
    state = offline_program(module, config)(first, source)
    values = [q_value(config, state, **at) for at in asked]
    assert values == pytest.approx(expected, rel=0.1, abs=0.1)


def test_the_actor_rate_of_iql_is_half_a_cosine():
    config = IQL.replace(schedule_steps=96.0, policy_delay=2)  # actor updates count double
    learner = iql.make(Probe(), config, recorded())
    step, state, rates = jax.jit(learner.step), learner.init(KEY), []
    for _ in range(4):
        state, metrics = step(state)
        rates.append(float(metrics["actor_lr"]) / config.actor_lr)
    done = np.minimum(np.arange(64) * 2 / 96, 1.0).reshape(4, 16)  # 16 actor updates a step
    assert rates == pytest.approx((0.5 * (1 + np.cos(np.pi * done))).mean(1), abs=1e-5)
    unscheduled = iql.make(Probe(), IQL, recorded())
    _, metrics = jax.jit(unscheduled.step)(unscheduled.init(KEY))
    assert metrics["actor_lr"] == pytest.approx(IQL.actor_lr)


@pytest.mark.parametrize("module", [td3_bc, iql])
def test_offline_learners_improve_on_random_actions(module):
    """Cloning these data gives 0; the better actions are known only from the rewards."""
    extra = {"beta": 20.0} if module is iql else {"q_coef": 50.0}
    config = module.Config(**DATA, **extra)
    found = offline_action(module, config, recorded(), 40)
    assert found[0] == pytest.approx(-0.6, abs=0.25) and found[1] == pytest.approx(0.6, abs=0.25)


def test_the_actor_loss_of_td3_bc_is_by_hand():
    """-lambda Q1 + (pi - a)^2, lambda = alpha over the mean of |Q1| (Fujimoto & Gu, eq. 4, 5)."""
    algorithm, agent, traced = built(td3_bc, td3_bc.Config(**DATA, q_coef=2.5))
    batch = random_batch()
    _, metrics = algorithm.update.actor(agent, batch, traced)
    action = jnp.tanh(td3.MLP((16,), 2, "tanh", 0.01).apply(agent.actor.params, batch.obs.actor))
    critic = td3.Ensemble(2, (16,), 1, "tanh", False)
    q = critic.apply(agent.critic.params, jnp.concatenate([batch.obs.critic, action], -1))[0, :, 0]
    oracle = -2.5 * q.mean() / jnp.abs(q).mean() + ((action - batch.action) ** 2).mean()
    assert float(metrics["actor_loss"]) == pytest.approx(float(oracle), rel=1e-4)


def test_weighted_sampling_clones_the_better_episodes():
    config = bc.Config(**OFFLINE).replace(updates_per_step=16)
    uniform = offline_action(bc, config, recorded())
    weighted = offline_action(bc, config, recorded().weighted(0.02))
    assert np.abs(uniform).max() < 0.15
    assert weighted == pytest.approx([-0.6, 0.6], abs=0.15)


def test_iqls_value_is_the_expectile():
    """One state, rewards of 0 and 1 alike often: the 0.9-expectile is 0.9."""
    size = 256
    obs, ends = np.zeros((size, 1 + CLOCK)), np.ones(size, bool)
    paid = (np.arange(size) % 2).astype(float)
    action = np.where(paid > 0, 0.5, -0.5)[:, None]  # so that the critic can tell them apart
    dataset = data.from_arrays(obs, action, paid, obs, ends, ~ends)
    config = iql.Config(**DATA, expectile=0.9, normalize_obs=False)
    learner = iql.make(Probe(), config, dataset)
    loop = jax.jit(lambda s: jax.lax.fori_loop(0, 60, lambda _, s: learner.step(s)[0], s))
    state = loop(learner.init(KEY))
    value = iql.MLP((16,), 1, "tanh").apply(state.agent.value.params, jnp.zeros((1, 1 + CLOCK)))
    assert float(value[0, 0]) == pytest.approx(0.9, abs=0.04)


# --- Errors ---


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tau": 2.0}, ("tau=2.0", "between 0 and 1")),
        ({"batch_size": 0}, ("batch_size=0", "at least 1")),
        ({"updates_per_step": 3, "policy_delay": 2}, ("updates_per_step=3", "policy_delay=2")),
        ({"replay_size": 16, "n_step": 3}, ("replay_size=16", "n_step=3")),
        ({"prior_ratio": 1.0}, ("prior_ratio=1.0", "batch_size=")),
        ({"prior_ratio": 0.999}, ("prior_ratio=0.999", "some to what is collected")),
        ({"prior_ratio": 0.001}, ("prior_ratio=0.001", "to the prior")),
        ({"prior_ratio": np.nan}, ("prior_ratio=nan", "between 0 and 1")),
        ({"actor_starts": 64}, ("actor_starts=64", "more than learning_starts=64")),
        ({"target_critics": 3}, ("target_critics=3", "num_critics=2")),
        ({"actor_q": "max"}, ("actor_q='max'", "'min'")),
    ],
)
def test_a_bad_setting_is_named(change, words):
    with pytest.raises(ValueError) as error:
        sac.make(Probe(), SAC.replace(**change))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "module, config, words",
    [
        (td3, TD3.replace(noise_min=0.4), ("noise_min=0.4", "at most noise_max=0.3")),
        (td3, C51.replace(v_min=12.0), ("v_min=12.0", "below v_max=12.0")),
        (td3, TD3.replace(num_atoms=1), ("num_atoms=1", "at least 2")),
        (pmoe, PMOE.replace(router_coef=-1.0), ("router_coef=-1.0", "at least 0")),
    ],
)
def test_a_bad_setting_of_one_learner_is_named(module, config, words):
    with pytest.raises(ValueError) as error:
        module.make(Probe(), config)
    for word in words:
        assert word in str(error.value)


LEARNERS = {
    ppo: ppo.Config(),
    sac: SAC,
    td3: TD3,
    dsac: DSAC,
    mdpo: MDPO,
    pmoe: PMOE,
    bc: bc.Config(),
    iql: IQL,
    td3_bc: TD3_BC,
    imitation: imitation.Config(),
}
FINITE = "reward_shift reward_scale target_entropy init_log_std actor_out_scale v_min v_max"
FINITE += " init_alpha learning_rate actor_lr critic_lr alpha_lr entropy_coef beta"
CASES = [(name, value) for name in FINITE.split() for value in (np.nan, np.inf)]
CASES += [
    (name, value)
    for name in ("hidden", "actor_hidden", "critic_hidden")
    for value in ((16, 0), (16.0,), 16, [16], (True,))
]
CASES += [
    (name, value)
    for name in ("learning_starts", "actor_starts", "num_atoms", "gru_width")
    for value in (-1, 1.5, np.inf, np.nan)
]


@pytest.mark.parametrize("name, value", CASES)
def test_a_value_that_would_end_in_nan_or_a_traceback_is_named(name, value):
    """By every learner that has the setting."""
    having = {m: config for m, config in LEARNERS.items() if hasattr(config, name)}
    assert having
    for config in having.values():
        atoms = {"num_atoms": 11} if name in ("v_min", "v_max") else {}
        with pytest.raises(ValueError, match=f"^{name}="):
            settings.check(config.replace(**(atoms | {name: value})))


def test_discrete_actions_and_missing_data_are_refused():
    with pytest.raises(ValueError, match="continuous"):
        sac.make(Probe(discrete=True), SAC)
    learner = sac.make(Probe(), SAC.replace(prior_ratio=0.5))
    with pytest.raises(ValueError, match="prior_ratio=0.5: no prior data"):
        jax.eval_shape(learner.step, learner.init(KEY))
    offline = bc.make(Probe(), bc.Config(**OFFLINE))
    with pytest.raises(ValueError, match="without a data set"):
        jax.eval_shape(offline.step, offline.init(KEY))


def test_prior_data_with_prior_ratio_0_are_refused():
    with pytest.raises(ValueError, match="^prior_ratio=0.0: must be above 0"):
        sac.make(Probe(), SAC, recorded())


def test_prior_data_beyond_the_bounds_of_actions_are_refused():
    prior = recorded()
    prior.steps.action[7] = 1.7
    with pytest.raises(ValueError, match=r"^data: actions\[7\]\[0\]=1.7 is outside -1 .. 1$"):
        sac.make(Probe(), SAC.replace(prior_ratio=0.5), prior)


def test_prior_data_of_another_task_are_refused():
    with pytest.raises(ValueError, match="actions have shape"):
        sac.make(Probe(), SAC.replace(prior_ratio=0.5), recorded(env_actions=2))
