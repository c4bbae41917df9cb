"""Imitation of recorded episodes by chunks of actions: Gaussian, flow matching or diffusion.

Flow matching as in FQL and Q-chunking (Park et al. 2025; Li et al. 2025), diffusion as in
Diffusion Policy (Chi et al. 2023). The policy acts by an average of the weights over training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from envs.contract import single_agent
from envs.types import Env
from envs.vector import fold_keys
from jaxrl.config import Count, Duration, NonNegative, Share, Sizes, check, config
from jaxrl.data import replay
from jaxrl.loops.algorithm import split_each
from jaxrl.nn import heads, pixels, spaces
from jaxrl.ops import optim, schedules
from jaxrl.ops.moments import Moments
from jaxrl.policies import chunks
from jaxrl.types import Learner, Metrics, Policy, Transition

MIN_HALF_RANGE = 0.05  # least half range of an action dimension that hardly varies in the data


@config
class Config:
    """Settings of imitation by chunks."""

    learning_rate: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    ema_decay: Share = 0.999  # of the weights that act, reached within the first updates
    schedule_steps: Duration = 0.0  # updates until the learning rate has fallen to 0; 0: never

    head: heads.Kind = "flow"
    trunk: Literal["mlp", "transformer"] = "mlp"
    history: Count = 1  # observations a plan sees
    horizon: Count = 16  # actions a plan holds
    execute: Count = 8  # of them, before a new plan
    mode: Literal["open_loop", "ensemble", "streaming"] = "open_loop"  # jaxrl/policies/chunks.py
    denoise_steps: Count = 10
    batch_size: Count = 256
    updates_per_step: Count = 100
    hidden: Sizes = (256, 256, 256)  # of an mlp
    width: Count = 64  # of a transformer
    layers: Count = 3
    attention_heads: Count = 4
    obs_keys: tuple[str, ...] = ()  # entries of a dict observation; (): every one

    def rules(self) -> None:
        if self.execute > self.horizon:
            raise ValueError(f"execute={self.execute}: must be at most horizon={self.horizon}")
        if self.mode == "streaming" and self.head == "gaussian":
            raise ValueError("mode='streaming': needs head='flow' or 'diffusion'")
        if self.width % self.attention_heads:
            raise ValueError(
                f"width={self.width}: must be a multiple of attention_heads={self.attention_heads}"
            )


@struct.dataclass
class Scale:
    """Maps actions to [-1, 1] over their range in the data, per dimension."""

    center: jax.Array  # [A]
    half: jax.Array  # [A]

    def normalize(self, action: jax.Array) -> jax.Array:
        return (action - self.center) / self.half

    def restore(self, action: jax.Array) -> jax.Array:
        return self.center + self.half * action


@struct.dataclass
class Episodes:
    """Recorded steps [T, 1, ...] and, per row, the first and last row of its episode."""

    steps: Transition
    start: jax.Array  # [T] int32
    end: jax.Array  # [T] int32, the last row
    trajectories: Any  # the probability of each episode; None: rows are uniform


@struct.dataclass
class ImitationState:
    params: Any
    ema: Any
    opt_state: Any
    obs_moments: Moments
    action_scale: Scale
    updates: jax.Array  # [] int32
    key: jax.Array
    config: Config


def make(env: Env, config: Config, dataset: Any = None) -> Learner:
    """Imitates a `jaxrl.data.Dataset`. One `step` is `config.updates_per_step` updates.

    Args:
      env: for spaces and evaluation.
      config: see `Config`.
      dataset: what to imitate, weighted or not. None: the learner can only act.

    Raises:
      ValueError: a field is out of range, actions are discrete, the data do not fit `env`, or they
        hold no success although the task measures it.
    """
    check(config)
    env = single_agent(env)
    c = config
    size = spaces.actions(env.action_space).continuous()
    data = None if dataset is None else episodes_of(dataset, env)
    if dataset is not None:
        warn_of_unreached(c, dataset)
    head = head_of(c, size, pixels.eyes(env.observation_space, c.obs_keys))
    example = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(env.reset, jax.random.key(0)).obs
    )
    obs_size = spaces.select(example, c.obs_keys, 0).size
    init_carry, apply = chunks.chunked(
        head,
        env.action_space,
        obs_size,
        obs_keys=c.obs_keys,
        history=c.history,
        horizon=c.horizon,
        execute=c.execute,
        mode=c.mode,
    )

    def init(key: jax.Array, config: Config = config) -> ImitationState:
        k_params, key = jax.random.split(key)
        params = head.init(k_params, jnp.zeros((c.history, obs_size)))
        moments, scale = Moments.zeros(example), Scale(jnp.zeros(size), jnp.ones(size))
        if dataset is not None:
            moments = jax.tree.map(jnp.asarray, dataset.obs_moments())
            scale = action_scale(np.asarray(data.steps.action[:, 0]))
        return ImitationState(
            params=params,
            ema=params,
            opt_state=optim.ADAM.init(params),
            obs_moments=moments,
            action_scale=scale,
            updates=jnp.zeros((), jnp.int32),
            key=key,
            config=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config),
        )

    def step(state: ImitationState, data: Episodes | None = data) -> tuple[Any, Metrics]:
        if data is None:
            raise ValueError("this learner was made without a data set: it can only act")
        data, hp = jax.tree.map(jnp.asarray, data), state.config

        def update(state: ImitationState, key: jax.Array):
            k_rows, keys = split_each(fold_keys(key, jnp.arange(c.batch_size)))
            rows = draw_rows(data, k_rows)
            obs, action, mask = examples(data, rows, c.history, c.horizon)
            seen = spaces.select(state.obs_moments.normalize(obs), c.obs_keys, 2)
            action = state.action_scale.normalize(action)

            def loss_fn(params):
                each = jax.vmap(head.loss, (None, 0, 0, 0, 0))(params, seen, action, mask, keys)
                return each.mean()

            loss, grads = jax.value_and_grad(loss_fn)(state.params)
            n = state.updates.astype(jnp.float32)
            params, opt_state, ok = optim.step(
                state.params,
                grads,
                state.opt_state,
                schedules.linear(hp.learning_rate, schedules.progress(n, hp.schedule_steps)),
                hp.weight_decay,
            )
            decay = jnp.minimum(hp.ema_decay, (1.0 + n) / (10.0 + n))
            return state.replace(
                params=params,
                ema=optim.polyak(state.ema, params, 1.0 - decay),
                opt_state=opt_state,
                updates=state.updates + 1,
            ), {"loss": loss, "skipped": 1.0 - ok}

        key, k_updates = jax.random.split(state.key)
        state, metrics = jax.lax.scan(
            update, state.replace(key=key), jax.random.split(k_updates, c.updates_per_step)
        )
        return state, Metrics(means=jax.tree.map(lambda x: x.mean(0), metrics))

    def policy(state: ImitationState) -> Policy:
        params = {"net": state.ema, "obs": state.obs_moments, "action": state.action_scale}
        return Policy(params, init_carry, apply)

    return Learner(
        init=init,
        step=step,
        policy=policy,
        config=config,
        env=env,
        steps_per_iteration=c.updates_per_step,
        data=data,
        unit="updates",
        about={"network evaluations per control step": evaluations_per_action(config, env)},
    )


def head_of(
    c: Config, action_size: int, eyes: Callable[[], tuple[nn.Module, ...]] | None = None
) -> heads.Head:
    """The head on observations, whose images are seen through `eyes`."""
    if c.trunk == "mlp":
        trunk = heads.FlatTrunk(c.hidden, action_size)
    else:
        trunk = heads.TokenTrunk(c.width, c.layers, c.attention_heads, action_size)
    trunk = heads.SeeingTrunk(trunk, eyes) if eyes else trunk
    return heads.of_kind(
        c.head, trunk, c.horizon, action_size, c.denoise_steps, c.mode == "streaming"
    )


def evaluations_per_action(c: Config, env: Env) -> float:
    """Returns network evaluations per control step, without the first plan of an episode."""
    head = head_of(c, env.action_space.lows.size)
    return chunks.evaluations_per_action(head, c.execute, c.mode)


def episodes_of(dataset: Any, env: Env) -> Episodes:
    """Returns the data that `step` reads, on the host."""
    if "success" in dataset.extras and not (dataset.extras["success"] > 0).any():
        raise ValueError(
            f"{dataset.name}: success rate 0 in {len(dataset.lengths)} episodes: nothing to imitate"
        )
    spread = lambda rows: np.repeat(rows, dataset.lengths).astype(np.int32)
    start, end = spread(dataset.starts), spread(dataset.ends)
    return Episodes(dataset.steps_for(env), start, end, dataset.trajectories)


def warn_of_unreached(c: Config, dataset: Any) -> None:
    """Warns in one line if executed plans reach beyond the longest demonstration.

    Actions there have no weight in any loss, so they are noise.
    """
    longest = int(dataset.lengths.max())
    field = "execute" if c.mode == "open_loop" else "horizon"
    used = getattr(c, field)
    if used > longest:
        print(
            f"{dataset.name}: the longest demonstration has {longest} steps, so no data say what"
            f" actions {longest + 1} .. {used} of a plan are ({field}={used}); choose"
            f" {field}={longest} or less"
        )


def draw_rows(data: Episodes, keys: jax.Array) -> jax.Array:
    """Draws one row per key [B]."""
    if data.trajectories is not None:
        return replay.weighted(data.trajectories, keys)
    rows = data.start.shape[0]
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, rows))(keys)


def examples(data: Episodes, rows: jax.Array, history: int, horizon: int):
    """Returns the observations up to each row [B] and the actions from it on, within its episode.

    - obs [B, history, ...], oldest first; the episode's first one is repeated before its start.
    - actions [B, horizon, A]; the last one is repeated past the end.
    - mask [B, horizon], 1 for actions of the episode.
    """
    start, end = data.start[rows][:, None], data.end[rows][:, None]
    past = jnp.maximum(rows[:, None] + jnp.arange(1 - history, 1), start)
    future = rows[:, None] + jnp.arange(horizon)
    obs = jax.tree.map(lambda x: x[past, 0], data.steps.obs)
    action = data.steps.action[jnp.minimum(future, end), 0]
    return obs, action, (future <= end).astype(jnp.float32)


def action_scale(action: np.ndarray) -> Scale:
    """Returns the scale of action [T, A] in [-1, 1]."""
    low, high = action.min(0), action.max(0)
    half = np.maximum((high - low) / 2, MIN_HALF_RANGE)
    return Scale(jnp.asarray((low + high) / 2), jnp.asarray(half))
