"""What off-policy learners share: collect, store, sample, and the order of updates.

An algorithm (`jaxrl/learners/off_policy/sac.py`, td3, iql, ...) says how to act and how to update from a
batch; it sees flat, normalised observations and actions in [-1, 1] only. This file gives it
batches, from its own environments and, if there are any, from prior data (`online`); from
recorded data alone they come in `jaxrl/loops/offline.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.types import Box, Env
from envs.vector import VecState, fold_keys, vectorize
from jaxrl import checks
from jaxrl.data import replay
from jaxrl.data.replay import Replay
from jaxrl.loops import collect as rollout
from jaxrl.nn import spaces as acting
from jaxrl.ops.moments import Moments, psum_over
from jaxrl.run import runtime
from jaxrl.types import Learner, Metrics, Policy, Transition


@struct.dataclass
class Config:
    """Settings of every off-policy learner, which each extends by its own."""

    gamma: float = 0.99  # discount
    reward_scale: float = 1.0
    reward_shift: float = 0.0  # added after scaling; -1 turns a reward of 1 for success to -1/0

    num_envs: int = struct.field(pytree_node=False, default=32)
    unroll_length: int = struct.field(pytree_node=False, default=1)  # steps between updates
    updates_per_step: int = struct.field(pytree_node=False, default=16)  # per unroll of every env
    policy_delay: int = struct.field(pytree_node=False, default=1)  # critic updates per actor's
    batch_size: int = struct.field(pytree_node=False, default=256)
    replay_size: int = struct.field(pytree_node=False, default=1_000_000)  # transitions
    learning_starts: int = struct.field(pytree_node=False, default=5_000)  # random steps before
    # Steps, random ones included, before the actor learns: from learning_starts on, the critics do
    # alone. 0: it learns with them.
    actor_starts: int = struct.field(pytree_node=False, default=0)
    n_step: int = struct.field(pytree_node=False, default=1)  # rewards summed before bootstrapping
    prior_ratio: float = struct.field(pytree_node=False, default=0.0)  # of a batch, from `prior`
    normalize_obs: bool = struct.field(pytree_node=False, default=False)
    actor_obs: tuple[str, ...] = struct.field(pytree_node=False, default=())  # (): every key
    critic_obs: tuple[str, ...] = struct.field(pytree_node=False, default=())  # (): every key
    resets: str = struct.field(pytree_node=False, default="pool")
    stagger: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Batch:
    """Transitions to learn from, [B, ...]; an n-step return counts as one transition."""

    actor_obs: jax.Array
    critic_obs: jax.Array
    action: jax.Array  # [B, A] in [-1, 1]
    reward: jax.Array  # [B]
    next_actor_obs: jax.Array
    next_critic_obs: jax.Array
    discount: jax.Array  # [B] gamma^n, 0 where the MDP terminated
    valid: jax.Array  # [B] bool; False: its simulation was not finite, counts as 0 in every mean
    key: jax.Array  # [B] one key per transition, for whatever noise the update draws
    shared_key: jax.Array  # [] the same on every device
    signals: dict[str, jax.Array] = struct.field(default_factory=dict)  # [B, ...], as `reward`
    share: float = struct.field(pytree_node=False, default=1.0)  # of the batch, on this device

    def mean(self, x: jax.Array) -> jax.Array:
        """This device's share of the mean of x [..., B] over the batch."""
        return jnp.where(self.valid, x, 0.0).sum(-1) * (self.share / self.valid.shape[0])


@dataclass(frozen=True)
class Algorithm:
    """An algorithm's own part. `agent` is a tree whose `actor` is what a policy keeps, `hp` the
    config with its numbers traced.

    `init(key, actor_obs, critic_obs, hp) -> agent` from example observations [1, obs];
    `update_critic` and `update_actor`: `(agent, batch, hp) -> (agent, metrics)`;
    `act(agent.actor, actor_obs, key, deterministic) -> action` in [-1, 1] for one environment;
    `explore(agent, actor_obs, noise, key, hp) -> action` while collecting, by default `act`;
    `new_noise(key, hp)`: that environment's `noise` for its next episode.
    """

    init: Callable[..., Any]
    update_critic: Callable[..., tuple[Any, Metrics]]
    update_actor: Callable[..., tuple[Any, Metrics]]
    act: Callable[..., jax.Array]
    explore: Callable[..., jax.Array] | None = None
    new_noise: Callable[..., jax.Array] = lambda key, hp: jnp.zeros(())


@struct.dataclass
class OnlineState:
    agent: Any
    obs_moments: Moments
    env: VecState  # [N]
    noise: jax.Array  # [N, ...] exploration noise that lasts an episode
    replay: Replay  # [T, N, ...]
    iteration: jax.Array  # [] int32
    key: jax.Array
    config: Config


def online(
    env: Env,
    config: Config,
    build: Callable[..., Algorithm],
    check: Callable[[Config], None],
    prior: Any = None,
    axis_name: str | None = None,
) -> Learner:
    """A learner that collects, stores and updates.

    Args:
      env: one environment instance with bounded continuous actions.
      config: see `Config`.
      build: `build(config, action_size, psum) -> Algorithm`.
      check: raises ValueError for a config out of range; the algorithm's `validate`.
      prior: a `jaxrl.data.Dataset` that `config.prior_ratio` (above 0) of every batch comes from.
      axis_name: the mapped device axis that shares the batches, and the environments where these
        divide, if any.

    Raises:
      ValueError: a field out of range, discrete actions, a replay smaller than a window, a
        prior that does not fit the environment.
    """
    check(config)
    c = config
    size = action_size_of(env)
    vec = vectorize(env, c.num_envs, c.resets, c.stagger)
    to_env = acting.to_env(env.action_space)
    psum = psum_over(axis_name)
    algorithm = build(c, size, psum)
    act = lambda agent, obs, noise, key, hp: algorithm.act(agent.actor, obs, key, False)
    explore = algorithm.explore or act
    steps_per_iteration = c.num_envs * c.unroll_length
    num_online, num_prior = sources(c)
    if prior is not None and not num_prior:
        raise ValueError(f"prior_ratio={c.prior_ratio}: must be above 0 where prior data are given")
    prior_data = None if prior is None else prior.source_for(env)
    rows = c.replay_size // steps_per_iteration * c.unroll_length
    if rows < c.n_step or rows < 1:
        raise ValueError(
            f"replay_size={c.replay_size}: holds {rows} steps of {c.num_envs} environments,"
            f" fewer than a window of n_step={c.n_step}"
        )
    # Columns are drawn from within blocks, so that devices which share them draw alike. A single
    # block is whole on every device, stepped alike by all; they share the batches alone.
    num_blocks = math.gcd(c.num_envs, batch_parts(c))
    block = c.num_envs // num_blocks
    envs_axis = axis_name if num_blocks > 1 else None
    psum_envs = psum_over(envs_axis)
    # In iterations: steps taken would in time be more than an int32 holds.
    starts_at = lambda steps: math.ceil(steps / steps_per_iteration)
    learning_at, actor_at = starts_at(c.learning_starts), starts_at(c.actor_starts)

    example = example_step(env)
    obs = example.obs
    if prior_data is not None:
        prior_data = with_signals(prior_data, example)
    to_batch = batcher(c)

    def init(key: jax.Array, config: Config = config) -> OnlineState:
        k_agent, k_env, k_noise, key = jax.random.split(key, 4)
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        env_state = vec.reset(k_env)
        moments = Moments.zeros(jax.tree.map(lambda x: x[0], env_state.obs))
        agent = algorithm.init(k_agent, *flatten_one(c, moments, obs), config)
        noise_keys = fold_keys(k_noise, env_state.index)
        return OnlineState(
            agent=agent,
            obs_moments=moments,
            env=env_state,
            noise=jax.vmap(algorithm.new_noise, (0, None))(noise_keys, config),
            replay=replay.empty(example, rows, c.num_envs),
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            config=config,
        )

    def collect(state: OnlineState, key: jax.Array) -> tuple[OnlineState, Transition, Metrics]:
        hp = state.config
        started = state.iteration >= learning_at

        def action_of(obs, noise, key):
            actor_obs, _ = flatten_one(c, state.obs_moments, obs)
            explored = explore(state.agent, actor_obs[0], noise, key, hp)
            return jnp.where(started, explored, jax.random.uniform(key, (size,), minval=-1.0))

        def one_step(loop, key):
            env_state, noise = loop
            k_act, k_noise = jax.random.split(key)
            action_keys = fold_keys(k_act, env_state.index)
            action = jax.vmap(action_of)(env_state.obs, noise, action_keys)
            stepped = vec.step(env_state, to_env(action))
            fresh = jax.vmap(algorithm.new_noise, (0, None))(
                fold_keys(k_noise, env_state.index), hp
            )
            done = stepped.done.reshape((-1,) + (1,) * (noise.ndim - 1))
            kept, signals = rollout.stored(action, stepped.now.signals, env.action_space)
            step = Transition(
                obs=env_state.obs,
                action=kept,
                reward=stepped.now.reward,
                next_obs=stepped.final_obs,
                terminated=stepped.now.terminated,
                truncated=stepped.now.truncated,
                valid=~stepped.nonfinite,
                signals=signals,
            )
            return (stepped, jnp.where(done, fresh, noise)), (
                step,
                rollout.episode_metrics(stepped),
            )

        keys = jax.random.split(key, c.unroll_length)
        loop, (steps, episodes) = jax.lax.scan(one_step, (state.env, state.noise), keys)
        return state.replace(env=loop[0], noise=loop[1]), steps, episodes

    def draw(state: OnlineState, data: Any, key: jax.Array) -> Batch:
        """One batch. Sample i depends on `key` and i, not on how devices share the samples."""
        hp = state.config
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        mine = lambda n: device * (n // devices) + jnp.arange(n // devices)
        ids = mine(num_online)
        k_start, keys = split_each(fold_keys(key, ids))
        first_env = (ids - ids[0]) // (num_online // num_blocks) * block
        age, column = replay.uniform(state.replay, k_start, first_env, block)
        window = replay.window(state.replay, age, column, c.n_step)
        if num_prior:
            ids = c.batch_size + mine(num_prior)
            k_start, prior_keys = split_each(fold_keys(key, ids))
            prior_window = replay.draw_recorded(data, k_start, c.n_step)
            join = lambda a, b: jnp.concatenate([a, b], 1)
            window = jax.tree.map(join, window, prior_window)
            keys = jnp.concatenate([keys, prior_keys])
        return to_batch(window, keys, key, state.obs_moments, hp)

    def step(state: OnlineState, data: Any = None) -> tuple[OnlineState, Metrics]:
        # --- Collect and store ---
        data = prior_data if data is None else data
        if num_prior and data is None:
            raise ValueError(f"prior_ratio={c.prior_ratio}: no prior data was given")
        k_collect, k_update, key = jax.random.split(state.key, 3)
        state, steps, episodes = collect(state.replace(key=key), k_collect)
        state = state.replace(replay=replay.insert(state.replay, steps))

        # --- Update, with the normaliser as it was while collecting ---
        iteration = of_any_run(state.iteration)

        def learn(agent):
            agent, metrics = update_loop(
                algorithm,
                agent,
                lambda key: draw(state, data, key),
                k_update,
                c,
                state.config,
                learn_actor=iteration + 1 >= actor_at if c.actor_starts else None,
            )
            return agent, psum(metrics)

        agent, metrics = update_if(iteration + 1 >= learning_at, learn, state.agent)
        moments = state.obs_moments
        if c.normalize_obs:
            moments = moments.update(steps.obs, steps.valid.astype(jnp.float32), envs_axis)
        return state.replace(
            agent=agent, obs_moments=moments, iteration=state.iteration + 1
        ), metrics | rollout.over_time(episodes, psum_envs)

    def env_axis(state: OnlineState) -> Any:
        axis = lambda tree, i: jax.tree.map(lambda _: i, tree)
        if num_blocks == 1:
            return axis(state, -1)
        rings = axis(state.replay, -1).replace(steps=axis(state.replay.steps, 1))
        return axis(state, -1).replace(
            env=axis(state.env, 0).replace(key=-1, time=-1),
            noise=axis(state.noise, 0),
            replay=rings,
        )

    return Learner(
        init=init,
        step=step,
        policy=policy_of(env, c, algorithm),
        config=config,
        env=env,
        steps_per_iteration=steps_per_iteration,
        env_axis=env_axis,
        validate=check,
        on_axis=lambda axis: online(env, config, build, check, prior, axis),
        parts=num_parts(c),
        data=prior_data if num_prior else None,
    )


def sources(c: Config) -> tuple[int, int]:
    """How many transitions of a batch are the learner's own, and how many prior data."""
    num_prior = round(c.prior_ratio * c.batch_size)
    return c.batch_size - num_prior, num_prior


def batch_parts(c: Config) -> int:
    """Into how many parts, at most 8, batches can be cut so that all are alike."""
    return math.gcd(*sources(c), 8)


def num_parts(c: Config) -> int:
    """What devices that share a run divide: blocks of environments and their part of a batch, or
    parts of the batch alone."""
    blocks = math.gcd(c.num_envs, batch_parts(c))
    return blocks if blocks > 1 else batch_parts(c)


def default_devices(num_runs: int, config: Config, eval_episodes: int) -> int:
    """As `runtime.default_devices`, by the transitions of a batch: on two cores one run of SAC with
    layers of 256 and one environment makes 1.2 times as many updates on two devices as on one (in
    bfloat16 1.4), of the presets on hopper and pendulum_swingup 1.3."""
    parts = math.gcd(num_parts(config), eval_episodes)
    return runtime.default_devices(num_runs, config.batch_size, parts)


@jax.custom_batching.custom_vmap
def of_any_run(x: jax.Array) -> jax.Array:
    """`x`, which is alike in all runs side by side, once for all of them: what it decides is then
    not computed for nothing, nor is every new value chosen element by element."""
    return x


@of_any_run.def_vmap
def _(axis_size, batched, x):
    return x[0], False


def update_if(
    condition: jax.Array, update: Callable[[Any], tuple[Any, Metrics]], agent: Any
) -> tuple[Any, Metrics]:
    """`update(agent)`, or the agent as it is and metrics of NaN: a loop of one turn or none, which
    works in place."""
    shapes = jax.eval_shape(update, agent)[1]
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
    turns = condition.astype(jnp.int32)
    return jax.lax.fori_loop(0, turns, lambda _, loop: update(loop[0]), (agent, nothing))


def example_obs(env: Env) -> Any:
    """Zeros shaped like one observation."""
    return example_step(env).obs


def example_step(env: Env) -> Transition:
    """Zeros shaped like one stored step."""

    def step(key):
        state, no = env.reset(key), jnp.zeros((), bool)
        action = jnp.zeros(action_size_of(env), jnp.float32)
        action, signals = rollout.stored(action, state.signals, env.action_space)
        return Transition(state.obs, action, state.reward, state.obs, no, no, no, signals)

    shapes = jax.eval_shape(step, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def with_signals(data: tuple[Transition, Any], example: Transition) -> tuple[Transition, Any]:
    """Recorded data with the signals of `example` alone.

    Raises:
      ValueError: one of them was not recorded.
    """
    steps, trajectories = data
    missing = sorted(example.signals.keys() - steps.signals.keys())
    if missing:
        raise ValueError(
            f"prior: signal {missing[0]!r} was not recorded, the environment gives it;"
            f" recorded are {sorted(steps.signals)}"
        )
    return steps.replace(signals={k: steps.signals[k] for k in example.signals}), trajectories


def update_loop(
    algorithm: Algorithm, agent, draw, key, c: Config, hp, learn_actor: jax.Array | None = None
) -> tuple[Any, Metrics]:
    """`updates_per_step` critic updates, each on a batch of its own, with an actor update on
    the last of every `policy_delay` of them, where `learn_actor` (None: always). Returns mean
    metrics."""

    def critic_update(agent, key):
        batch = draw(key)
        agent, metrics = algorithm.update_critic(agent, batch, hp)
        return agent, metrics

    def round_of_updates(agent, key):
        keys = jax.random.split(key, c.policy_delay)
        critic_metrics: Metrics = {}
        if c.policy_delay > 1:
            agent, critic_metrics = jax.lax.scan(critic_update, agent, keys[:-1])
        batch = draw(keys[-1])
        agent, metrics = algorithm.update_critic(agent, batch, hp)
        for name, x in critic_metrics.items():
            metrics[name] = (x.sum(0) + metrics[name]) / c.policy_delay
        improve = lambda agent: algorithm.update_actor(agent, batch, hp)
        agent, more = (
            improve(agent) if learn_actor is None else update_if(learn_actor, improve, agent)
        )
        return agent, metrics | more

    keys = jax.random.split(key, c.updates_per_step // c.policy_delay)
    agent, metrics = jax.lax.scan(round_of_updates, agent, keys)
    return agent, jax.tree.map(lambda x: x.mean(0), metrics)


def split_each(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent keys [B] from each of keys [B]."""
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def flatten_one(c: Config, moments: Moments, obs: Any) -> tuple[jax.Array, jax.Array]:
    """Actor's and critic's observation [1, obs] of one environment."""
    return flatten(c, moments, jax.tree.map(lambda x: x[None], obs))


def flatten(c: Config, moments: Moments, obs: Any) -> tuple[jax.Array, jax.Array]:
    """Actor's and critic's observations [B, obs]."""
    obs = moments.normalize(obs) if c.normalize_obs else obs
    return acting.select(obs, c.actor_obs, 1), acting.select(obs, c.critic_obs, 1)


def batcher(c: Config) -> Callable[..., Batch]:
    """From windows to what algorithms see."""

    def to_batch(window, keys, shared_key, moments: Moments, hp: Config) -> Batch:
        scaled = window.steps.reward * hp.reward_scale + hp.reward_shift
        window = window.replace(steps=window.steps.replace(reward=scaled))
        b = replay.n_step(window, hp.gamma)
        actor_obs, critic_obs = flatten(c, moments, b.obs)
        next_actor_obs, next_critic_obs = flatten(c, moments, b.next_obs)
        return Batch(
            actor_obs,
            critic_obs,
            b.action,
            b.reward,
            next_actor_obs,
            next_critic_obs,
            b.discount,
            b.weight > 0,
            keys,
            jax.random.fold_in(shared_key, 2 * c.batch_size),
            signals=b.signals,
            share=b.weight.shape[0] / c.batch_size,
        )

    return to_batch


def policy_of(env: Env, c: Config, algorithm: Algorithm) -> Callable[[Any], Policy]:
    to_env = acting.to_env(env.action_space)

    # Defined once: functions are part of a Policy's type, and a new one would compile anew.
    def init_carry():
        return ()

    def apply(params, carry, obs, key, deterministic):
        actor, moments = params
        actor_obs, _ = flatten_one(c, moments, obs)
        return to_env(algorithm.act(actor, actor_obs[0], key, deterministic)), carry

    def policy(state) -> Policy:
        return Policy((state.agent.actor, state.obs_moments), init_carry, apply)

    return policy


def action_size_of(env: Env) -> int:
    space = env.action_space
    if not isinstance(space, Box):
        raise ValueError(f"action_space={space}: off-policy learners need continuous actions")
    if not (np.isfinite(space.lows).all() and np.isfinite(space.highs).all()):
        raise ValueError("action_space has no bounds: off-policy learners need bounded actions")
    return math.prod(space.shape)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    checks.positive(
        c,
        *("num_envs", "unroll_length", "updates_per_step", "policy_delay"),
        *("batch_size", "replay_size", "n_step"),
    )
    checks.whole(c, 0, "learning_starts", "actor_starts")
    checks.in_range(c, 0.0, 1.0, "gamma", "prior_ratio")
    checks.above(c, 0.0, "reward_scale")
    checks.finite(c, "reward_scale", "reward_shift")
    if 0 < c.actor_starts <= c.learning_starts:
        raise ValueError(
            f"actor_starts={c.actor_starts}: must be 0, or more than"
            f" learning_starts={c.learning_starts}, which it includes"
        )
    if c.prior_ratio and not 1 <= round(c.prior_ratio * c.batch_size) < c.batch_size:
        raise ValueError(
            f"prior_ratio={c.prior_ratio}: must be 0, or leave some of batch_size={c.batch_size}"
            " to the prior and some to what is collected"
        )
    if c.updates_per_step % c.policy_delay:
        raise ValueError(
            f"updates_per_step={c.updates_per_step}: must be a multiple of"
            f" policy_delay={c.policy_delay} (a longer unroll_length spreads them over more steps)"
        )
