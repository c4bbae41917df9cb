"""The off-policy engine: collects, stores, draws batches and updates an `Algorithm`.

It owns time, devices and memory. The seams are documented in `jaxrl/loops/algorithm.py`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs.contract import single_agent
from envs.types import Env
from envs.vector import VecState, fold_keys, vectorize
from jaxrl.config import Count, FixedShare, Natural, check, config
from jaxrl.data import replay
from jaxrl.data.replay import Replay
from jaxrl.loops import collect as collecting
from jaxrl.loops.algorithm import (
    Algorithm,
    Batch,
    Build,
    Collected,
    Columns,
    Obs,
    Updates,
    flatten,
    n_step,
    split_each,
    to_batch,
)
from jaxrl.loops.branch import same_in_runs, update_if
from jaxrl.nn import spaces
from jaxrl.ops import optim
from jaxrl.ops.moments import Moments, psum_over
from jaxrl.types import Learner, Metrics, Policy, Sharing, Transition


@config
class Collect(Updates):
    """Settings of learners that collect their own data."""

    num_envs: Count = 32
    unroll_length: Count = 1  # steps between updates
    replay_size: Count = 1_000_000  # transitions
    learning_starts: Natural = 5_000  # random steps before the first update
    # The actor is frozen until this many env steps, random ones included; the critics start at
    # learning_starts. 0: both start together.
    actor_starts: Natural = 0
    prior_ratio: FixedShare = 0.0  # share of every batch that comes from `prior`
    resets: Literal["pool", "fresh", "cached"] = "pool"
    stagger: bool = False

    def rules(self) -> None:
        super().rules()
        if 0 < self.actor_starts <= self.learning_starts:
            raise ValueError(
                f"actor_starts={self.actor_starts}: must be 0, or more than"
                f" learning_starts={self.learning_starts}, which it includes"
            )
        num_prior = round(self.prior_ratio * self.batch_size)
        if self.prior_ratio and not 1 <= num_prior < self.batch_size:
            raise ValueError(
                f"prior_ratio={self.prior_ratio}: must be 0, or leave some of"
                f" batch_size={self.batch_size} to the prior and some to what is collected"
            )


@struct.dataclass
class OnlineState:
    agent: Any
    obs_moments: Moments
    env: VecState  # [N]
    memory: Any  # [N, ...] what acting remembers within an episode
    discounted: Any  # [N] running discounted reward, for `observe`; () without it
    replay: Replay  # [T, N, ...]
    iteration: jax.Array  # [] int32
    key: jax.Array
    config: Collect


def online(
    env: Env,
    config: Collect,
    build: Build,
    prior: Any = None,
    axis_name: str | None = None,
) -> Learner:
    """A learner that collects, stores and updates.

    Args:
      env: one environment instance with bounded continuous or discrete actions.
      config: see `Collect`.
      build: makes the method.
      prior: a `jaxrl.data.dataset.Dataset` that `config.prior_ratio` (above 0) of every batch
        comes from.
      axis_name: the mapped device axis that shares batches, and environments if they divide
        evenly. None: one device.

    Raises:
      ValueError: a field out of range, unbounded actions, a replay smaller than a window, a
        prior that does not fit the environment.
    """
    check(config)
    env = single_agent(env)
    shapes = config  # static fields; inside a step `config` is the state's, whose numbers are data
    actions = spaces.actions(env.action_space)
    vec = vectorize(env, shapes.num_envs, shapes.resets, shapes.stagger)
    psum = psum_over(axis_name)
    algorithm = build(config, actions)
    cut = algorithm.cut or n_step(shapes.n_step)
    explore = algorithm.explore or sampled(algorithm)
    steps_per_iteration = shapes.num_envs * shapes.unroll_length
    num_online, num_prior = sources(shapes)
    if prior is not None and not num_prior:
        raise ValueError(
            f"prior_ratio={shapes.prior_ratio}: must be above 0 where prior data are given"
        )
    example = example_transition(env, actions)
    prior_data = None if prior is None else with_signals(prior.source_for(env), example)
    rows = shapes.replay_size // steps_per_iteration * shapes.unroll_length
    if rows < cut.length or rows < 1:
        raise ValueError(
            f"replay_size={shapes.replay_size}: holds {rows} steps of {shapes.num_envs}"
            f" environments, fewer than a window of n_step={cut.length}"
        )
    # Each sample is drawn from one block of columns, so samples do not depend on the number of
    # devices. With a single block every device steps all environments, and only batches are shared.
    num_blocks = math.gcd(shapes.num_envs, batch_parts(shapes))
    block = shapes.num_envs // num_blocks
    envs_axis = axis_name if num_blocks > 1 else None
    # Counted in iterations, because the number of steps can exceed an int32.
    starts_at = lambda steps: math.ceil(steps / steps_per_iteration)
    learning_at, actor_at = starts_at(shapes.learning_starts), starts_at(shapes.actor_starts)

    def init(key: jax.Array, config: Collect = config) -> OnlineState:
        k_agent, k_env, k_memory, key = jax.random.split(key, 4)
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        env_state = vec.reset(k_env)
        moments = Moments.zeros(jax.tree.map(lambda x: x[0], env_state.obs))
        memory_keys = fold_keys(k_memory, env_state.index)
        return OnlineState(
            agent=algorithm.init(k_agent, flatten_one(shapes, moments, example.obs), config),
            obs_moments=moments,
            env=env_state,
            memory=jax.vmap(algorithm.memory, (0, None))(memory_keys, config),
            discounted=jnp.zeros(shapes.num_envs) if algorithm.observe else (),
            replay=replay.empty(example, rows, shapes.num_envs),
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            config=config,
        )

    def collect(state: OnlineState, key: jax.Array) -> tuple[OnlineState, Transition, Metrics]:
        config = state.config
        started = state.iteration >= learning_at

        def action_of(obs, memory, key):
            seen = jax.tree.map(lambda x: x[0], flatten_one(shapes, state.obs_moments, obs))
            explored, memory = explore(state.agent, memory, seen, key, config)
            random = actions.random(jax.random.clone(key))  # of the two only one is carried out
            return jnp.where(started, explored, random), memory

        def one_step(loop, key):
            env_state, memory = loop
            k_act, k_memory = jax.random.split(key)
            action_keys = fold_keys(k_act, env_state.index)
            action, memory = jax.vmap(action_of)(env_state.obs, memory, action_keys)
            stepped = vec.step(env_state, actions.to_env(action))
            memory_keys = fold_keys(k_memory, env_state.index)
            fresh = jax.vmap(algorithm.memory, (0, None))(memory_keys, config)
            restart = lambda new, old: jnp.where(
                stepped.done.reshape((-1,) + (1,) * (old.ndim - 1)), new, old
            )
            step = transition(env_state, action, stepped, actions)
            loop = stepped, jax.tree.map(restart, fresh, memory)
            return loop, (step, collecting.episode_metrics(stepped))

        keys = jax.random.split(key, shapes.unroll_length)
        loop, (steps, episodes) = jax.lax.scan(one_step, (state.env, state.memory), keys)
        return state.replace(env=loop[0], memory=loop[1]), steps, episodes

    def observed(state: OnlineState, steps: Transition) -> OnlineState:
        """The state after `algorithm.observe` of `steps` [T, N]."""

        config = state.config
        reward = steps.reward * config.reward_scale + config.reward_shift
        reward = jnp.where(steps.valid, reward, 0.0)
        ended = steps.terminated | steps.truncated | ~steps.valid

        def one(discounted, step):
            reward, ended = step
            returns = config.gamma * discounted + reward
            return jnp.where(ended, 0.0, returns), returns

        discounted, returns = jax.lax.scan(one, state.discounted, (reward, ended))
        seen = Collected(returns, steps.valid, envs_axis)
        agent = algorithm.observe(state.agent, seen, config)
        return state.replace(agent=agent, discounted=discounted)

    def draw(state: OnlineState, data: Any, key: jax.Array) -> Batch:
        """One batch. Sample i depends on `key` and i, not on how devices share the samples."""
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        mine = lambda n: device * (n // devices) + jnp.arange(n // devices)
        ids = mine(num_online)
        k_window, keys = split_each(fold_keys(key, ids))
        columns = Columns((ids - ids[0]) // (num_online // num_blocks) * block, block)
        window = algorithm.window(state.replay, k_window, columns, cut.length, state.config)
        if num_prior:
            ids = shapes.batch_size + mine(num_prior)
            k_start, prior_keys = split_each(fold_keys(key, ids))
            prior_window = replay.draw_recorded(data, k_start, cut.length)
            join = lambda a, b: jnp.concatenate([a, b], 1)
            window = jax.tree.map(join, window, prior_window)
            keys = jnp.concatenate([keys, prior_keys])
        return to_batch(state.config, cut, window, keys, key, state.obs_moments, axis_name)

    def step(state: OnlineState, data: Any = None) -> tuple[OnlineState, Metrics]:
        # --- Collect and store ---
        data = prior_data if data is None else data
        if num_prior and data is None:
            raise ValueError(f"prior_ratio={shapes.prior_ratio}: no prior data was given")
        k_collect, k_update, key = jax.random.split(state.key, 3)
        state, steps, episodes = collect(state.replace(key=key), k_collect)
        state = state.replace(replay=replay.insert(state.replay, steps))

        if algorithm.observe:
            state = observed(state, steps)

        # --- Update, with the normaliser as it was while collecting ---
        iteration = same_in_runs(state.iteration)

        def learn(agent):
            agent, metrics = algorithm.update(
                agent,
                lambda key: draw(state, data, key),
                jax.random.clone(k_update),  # `update_if` is a loop, of one turn at most
                state.config,
                iteration + 1 >= actor_at if shapes.actor_starts else None,
            )
            return agent, psum(metrics) | {"skipped": skipped_share(state.agent, agent, shapes)}

        agent, metrics = update_if(iteration + 1 >= learning_at, learn, state.agent)
        moments = state.obs_moments
        if shapes.normalize_obs:
            moments = moments.update(steps.obs, steps.valid.astype(jnp.float32), envs_axis)
        state = state.replace(agent=agent, obs_moments=moments, iteration=state.iteration + 1)
        return state, collecting.over_time(episodes, psum_over(envs_axis)).with_means(metrics)

    def env_axis(state: OnlineState) -> Any:
        axis = lambda tree, i: jax.tree.map(lambda _: i, tree)
        if num_blocks == 1:
            return axis(state, -1)
        rings = axis(state.replay, -1).replace(steps=axis(state.replay.steps, 1))
        return axis(state, -1).replace(
            env=axis(state.env, 0).replace(key=-1, time=-1),
            memory=axis(state.memory, 0),
            discounted=axis(state.discounted, 0),
            replay=rings,
        )

    return Learner(
        init=init,
        step=step,
        policy=policy_of(config, algorithm, actions),
        config=config,
        env=env,
        steps_per_iteration=steps_per_iteration,
        sharing=Sharing(
            env_axis, lambda axis: online(env, config, build, prior, axis), num_parts(shapes)
        ),
        data=prior_data if num_prior else None,
    )


def skipped_share(before: Any, after: Any, config: Updates) -> jax.Array:
    """The share of updates that were left out because a gradient was not finite. []"""
    return (optim.skipped(after) - optim.skipped(before)) / config.updates_per_step


def sampled(algorithm: Algorithm):
    """The default exploration: actions sampled as the policy samples them."""

    def explore(agent, memory, obs, key, config):
        return algorithm.act(algorithm.keeps(agent), memory, obs, key, False)

    return explore


def transition(
    before: VecState, action: jax.Array, after: VecState, actions: spaces.Actions
) -> Transition:
    """Returns what the replay stores of a step [N]; see `collect.stored`."""
    action, signals = collecting.stored(action, after.now.signals, actions)
    return Transition(
        obs=before.obs,
        action=action,
        reward=after.now.reward,
        next_obs=after.final_obs,
        terminated=after.now.terminated,
        truncated=after.now.truncated,
        valid=~after.nonfinite,
        signals=signals,
    )


def sources(config: Collect) -> tuple[int, int]:
    """Returns how many samples of a batch are collected, and how many are prior data."""
    num_prior = round(config.prior_ratio * config.batch_size)
    return config.batch_size - num_prior, num_prior


def batch_parts(config: Collect) -> int:
    """Returns the largest number of equal parts, at most 8, that divides both sources of a batch."""
    return math.gcd(*sources(config), 8)


def num_parts(config: Collect) -> int:
    """The number of equal parts of one run: blocks of environments with their part of a batch, or
    parts of the batch alone. The number of devices must divide it."""
    blocks = math.gcd(config.num_envs, batch_parts(config))
    return blocks if blocks > 1 else batch_parts(config)


def example_transition(env: Env, actions: spaces.Actions) -> Transition:
    """Returns zeros shaped like one stored step."""

    def step(key: jax.Array) -> Transition:
        state, no = env.reset(key), jnp.zeros((), bool)
        action, signals = collecting.stored(jnp.asarray(actions.example), state.signals, actions)
        return Transition(state.obs, action, state.reward, state.obs, no, no, no, signals)

    shapes = jax.eval_shape(step, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def with_signals(data: tuple[Transition, Any], example: Transition) -> tuple[Transition, Any]:
    """Returns recorded data with only the signals of `example`.

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


def flatten_one(config: Updates, moments: Moments, obs: Any) -> Obs:
    """The observations [1, obs] of one environment."""
    return flatten(config, moments, jax.tree.map(lambda x: x[None], obs), 1)


def policy_of(config: Any, algorithm: Algorithm, actions: spaces.Actions):
    """`Learner.policy` of a state with `agent` and `obs_moments`."""
    shapes = config

    # Defined once: functions are static fields of a Policy, and a new function causes a retrace.
    def init_carry():
        return algorithm.memory(jax.random.key(0), config)

    def apply(params, carry, obs, key, deterministic):
        kept, moments = params
        seen = jax.tree.map(lambda x: x[0], flatten_one(shapes, moments, obs))
        action, carry = algorithm.act(kept, carry, seen, key, deterministic)
        return actions.to_env(action), carry

    def policy(state: Any) -> Policy:
        return Policy((algorithm.keeps(state.agent), state.obs_moments), init_carry, apply)

    return policy
