"""`vectorize`: from one instance to `num_envs`, with an auto-reset that loses nothing.

- The final observation is kept beside the observation to act on next.
- `terminated` and `truncated` are separate.
- Fresh starts cost as little as cached ones.
- A non-finite state ends one episode, not the run.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.contract import check
from envs.transforms.base import check_count
from envs.types import Env, State, is_sound, summed, team_reward, typed_key

POOL_PERIOD = 16  # steps in which every restart state is renewed once


@struct.dataclass
class VecState:
    """The state of `num_envs` environments (leading axis N) after one step.

    If an episode ended, `now.data`, `now.obs` and `now.info` already belong to the next one. `now.reward`, `terminated`, `truncated`, `metrics` and `signals` belong to the
    step just taken. `now.terminated` and `now.truncated` are never both True. Reward,
    metrics and signals are 0 where the step was `nonfinite`.
    """

    now: State  # [N]
    final_obs: Any  # [N, ...] the observation after the last action, before any reset
    nonfinite: jax.Array  # [N] bool: the simulation broke (`is_sound`); give the step weight 0
    # [N] of the last step's episode, that step included; the mean over agents
    episode_return: jax.Array
    episode_length: jax.Array  # [N] int32
    episode_signals: dict[str, jax.Array]  # [N, ...] float32, summed like `episode_return`
    restart: State  # [N] the first state of each environment's next episode
    index: jax.Array  # [N] int32, the environment's number among all devices
    key: jax.Array  # [] the same on every device
    time: jax.Array  # [] int32

    @property
    def obs(self) -> Any:
        return self.now.obs

    @property
    def done(self) -> jax.Array:
        return self.now.terminated | self.now.truncated


@struct.dataclass
class VecEnv:
    """`num_envs` instances of `env`; see `vectorize`."""

    env: Env
    num_envs: int = struct.field(pytree_node=False)
    resets: str = struct.field(pytree_node=False, default="pool")
    stagger: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self):
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key: jax.Array) -> VecState:
        """Starts every environment. Environment i depends on `key` and i only."""
        n, key = self.num_envs, typed_key(key)
        index = jnp.arange(n, dtype=jnp.int32)
        key, k_first, k_restart, k_clock = jax.random.split(key, 4)
        keys = fold_keys(k_first, index)
        if self.resets == "pool":  # one call to reset for both: half as much to compile
            keys = jnp.concatenate([keys, fold_keys(k_restart, index)])
        drawn = jax.vmap(self.env.reset)(keys)
        first = jax.tree.map(lambda x: x[:n], drawn)
        restart = jax.tree.map(lambda x: x[-n:], drawn)
        if self.stagger:
            first = jax.vmap(self.env.stagger)(first, fold_keys(k_clock, index))
        return VecState(
            now=first,
            final_obs=first.obs,
            nonfinite=jnp.zeros(n, bool),
            episode_return=jnp.zeros(n),
            episode_length=jnp.zeros(n, jnp.int32),
            episode_signals=jax.tree.map(lambda x: jnp.zeros(x.shape), summed(first.signals)),
            restart=restart,
            index=index,
            key=key,
            time=jnp.zeros((), jnp.int32),
        )

    def step(self, state: VecState, action: jax.Array) -> VecState:
        """Steps every environment with `action` [N, ...] and restarts those that ended."""
        last, was_done = state.now, state.done
        new = jax.vmap(self.env.step)(last, action)
        bad = ~jax.vmap(lambda s: is_sound(self.env, s))(new)
        terminated = new.terminated & ~bad
        zeros_where_bad = lambda tree: _where(bad, jax.tree.map(jnp.zeros_like, tree), tree)
        new = new.replace(
            obs=_where(bad, last.obs, new.obs),
            reward=zeros_where_bad(new.reward),
            terminated=terminated,
            truncated=(new.truncated & ~terminated) | bad,
            metrics=zeros_where_bad(new.metrics),
            signals=zeros_where_bad(new.signals),
        )
        done = new.terminated | new.truncated
        key, k_reset = jax.random.split(state.key)
        sums = state.episode_signals
        restart = self._renew(state, k_reset)
        start = restart
        if hasattr(self.env, "carry_over"):
            start = jax.vmap(self.env.carry_over)(new, restart)
        return state.replace(
            now=restart_where(done, new, start),
            final_obs=new.obs,
            nonfinite=bad,
            episode_return=jnp.where(was_done, 0.0, state.episode_return)
            + team_reward(new.reward, 1),
            episode_length=jnp.where(was_done, 0, state.episode_length) + 1,
            episode_signals=jax.tree.map(
                jnp.add,
                _where(was_done, jax.tree.map(jnp.zeros_like, sums), sums),
                summed(new.signals),
            ),
            restart=restart,
            key=key,
            time=state.time + 1,
        )

    def _renew(self, state: VecState, key: jax.Array) -> State:
        """Returns the restart states for this step. Some of them are renewed at every step."""
        if self.resets == "cached":
            return state.restart
        if self.resets == "fresh":
            return jax.vmap(self.env.reset)(fold_keys(key, state.index))
        # Environment i is renewed if time = i modulo POOL_PERIOD, whatever the number of
        # environments and devices. A slot past the last environment is dropped.
        first = (state.time - state.index[0]) % POOL_PERIOD
        slots = first + jnp.arange(0, state.index.shape[0], POOL_PERIOD)
        fresh = jax.vmap(self.env.reset)(fold_keys(key, state.index[slots]))
        return jax.tree.map(
            lambda old, new: old.at[slots].set(new, mode="drop"), state.restart, fresh
        )


def vectorize(env: Env, num_envs: int, resets: str = "pool", stagger: bool = False) -> VecEnv:
    """Batches `env` and restarts every episode that ends.

    Args:
      env: one instance. Its `carry_over`, if it has one, hands something to the next episode
        (`envs.types.CarriesOver`).
      num_envs: how many; >= 1.
      resets: where a new episode starts. "pool": every environment keeps a restart state, which is
        renewed every `POOL_PERIOD` steps. Two episodes that end within one period have the same
        start. The cost is `num_envs / POOL_PERIOD` resets per step. "fresh": every step resets
        all environments, and those that ended use the result. "cached": always the environment's
        first start, like Brax.
      stagger: start the clocks of the outermost time limit at random, so that
        environments do not all time out together.

    Raises:
      ValueError: `num_envs` < 1, unknown `resets`, `stagger` without a time limit, or an
        environment that does not keep the contract (`envs.check`).
    """
    check_count("num_envs", num_envs, 1)
    if resets not in ("pool", "fresh", "cached"):
        raise ValueError(f"resets={resets!r}: allowed are 'pool', 'fresh', 'cached'")
    if stagger and not hasattr(env, "stagger"):
        raise ValueError("stagger=True: the environment has no time limit to stagger")
    return VecEnv(check(env), num_envs, resets, stagger)


def restart_where(done: jax.Array, state: State, start: State) -> State:
    """Returns `state` [N], replaced by the first state `start` of an episode where `done` [N].

    Reward, flags, metrics and signals of the last step are kept.
    """
    return state.replace(
        data=_where(done, start.data, state.data),
        obs=_where(done, start.obs, state.obs),
        info=_where(done, start.info, state.info),
    )


def fold_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns one key per environment, which depends on its global number and not on the batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point leaf is finite. []"""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves] or [jnp.array(True)]).all()


def _where(mask: jax.Array, a: Any, b: Any) -> Any:
    """Chooses whole environments: mask [N], leaves [N, ...]."""
    pick = lambda x, y: jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, y)
    return jax.tree.map(pick, a, b)
