"""Proximal policy optimisation (Schulman et al. 2017) on vectorised environments.

One `step`: collect `unroll_length` steps from every environment, compute GAE(lambda)
once, then `num_epochs` passes over minibatches of whole unrolls, so that recurrent
networks see sequences. Normaliser statistics are frozen from collection to the last
update and renewed after it: at learning rate 0 the ratio is 1.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.types import Discrete, Env
from envs.vector import VecState, fold_keys, vectorize
from jaxrl import checks
from jaxrl.loops import collect as rollout
from jaxrl.nn import spaces as acting
from jaxrl.nn.layers import ACTIVATIONS, ActorCritic
from jaxrl.ops import optim, schedules
from jaxrl.ops.moments import Moments, psum_over
from jaxrl.ops.returns import gae
from jaxrl.run import runtime
from jaxrl.types import Learner, Metrics, Policy


@struct.dataclass
class Config:
    """PPO's settings: plain numbers can be swept in one program, the others shape it."""

    learning_rate: float = 3e-4  # Adam's; the first value when `lr_schedule` changes it
    gamma: float = 0.99  # discount
    gae_lambda: float = 0.95
    clip_ratio: float = 0.2
    value_clip: float = math.inf  # PPO2's clipping of the value loss; inf: off
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    max_grad_norm: float = 0.5  # global norm; inf: off
    reward_scale: float = 1.0
    target_kl: float = 0.01  # what `lr_schedule="adaptive"` steers to
    schedule_steps: float = 0.0  # env steps until a linear or cosine schedule, or mdpo's, ends

    num_envs: int = struct.field(pytree_node=False, default=1024)
    unroll_length: int = struct.field(pytree_node=False, default=16)
    num_minibatches: int = struct.field(pytree_node=False, default=8)  # must divide num_envs
    num_epochs: int = struct.field(pytree_node=False, default=4)
    actor_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    critic_hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(128, 128))
    activation: str = struct.field(pytree_node=False, default="swish")
    actor_out_scale: float = struct.field(pytree_node=False, default=0.01)  # 0: starts at no action
    init_log_std: float = struct.field(pytree_node=False, default=0.0)  # distribution="normal"
    objective: str = struct.field(pytree_node=False, default="clip")  # or "mdpo"
    gru_width: int = struct.field(pytree_node=False, default=0)  # 0: no recurrence
    distribution: str = struct.field(pytree_node=False, default="tanh_normal")  # or "normal"
    lr_schedule: str = struct.field(pytree_node=False, default="constant")
    normalize_obs: bool = struct.field(pytree_node=False, default=True)
    normalize_reward: bool = struct.field(pytree_node=False, default=False)
    actor_obs: tuple[str, ...] = struct.field(pytree_node=False, default=())  # (): every key
    critic_obs: tuple[str, ...] = struct.field(pytree_node=False, default=())  # (): every key
    resets: str = struct.field(pytree_node=False, default="pool")
    stagger: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class PPOState:
    params: Any
    opt_state: Any
    learning_rate: jax.Array  # [] what the adaptive schedule has arrived at
    obs_moments: Moments
    return_moments: Moments  # of discounted returns, for `normalize_reward`
    env: VecState  # [N]
    carry: Any  # recurrent state [N, ...]
    discounted: jax.Array  # [N] running discounted reward
    iteration: jax.Array  # [] int32
    key: jax.Array
    config: Config


@struct.dataclass
class Unroll:
    """What collection stores, [T, N]."""

    obs: Any
    reset: jax.Array  # this observation begins an episode
    raw_action: jax.Array
    log_prob: jax.Array
    dist_params: jax.Array
    value: jax.Array
    final_value: jax.Array  # value of the final observation where truncated, else 0
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array  # False: the simulation was not finite; weight 0
    discounted: jax.Array


def make(env: Env, config: Config, axis_name: str | None = None) -> Learner:
    """PPO on `env`.

    Args:
      env: one environment instance; actions continuous (bounded or, as "normal", not) or
        discrete, observations an array [obs] or a dict of arrays.
      config: see `Config`.
      axis_name: the mapped device axis that environments are sharded over, if any.

    Raises:
      ValueError: a field out of range, or actions that `config.distribution` does not fit.
    """
    validate(config)
    c = config
    vec = vectorize(env, c.num_envs, c.resets, c.stagger)
    discrete = isinstance(env.action_space, Discrete)
    free_log_std = not discrete and c.distribution == "normal"
    size = env.action_space.n if discrete else math.prod(env.action_space.shape)
    network = ActorCritic(
        c.actor_hidden,
        c.critic_hidden,
        size * (2 if not discrete and not free_log_std else 1),
        c.activation,
        free_log_std,
        c.gru_width,
        c.actor_out_scale,
        c.init_log_std,
    )
    distribution = acting.distribution(env.action_space, c.distribution)
    to_env = acting.to_env(env.action_space)
    psum = psum_over(axis_name)

    def forward(params, moments: Moments, carry, obs, reset):
        """obs leaves [T, B, ...], reset [T, B]."""
        obs = moments.normalize(obs) if c.normalize_obs else obs
        actor_obs = acting.select(obs, c.actor_obs, reset.ndim)
        critic_obs = acting.select(obs, c.critic_obs, reset.ndim)
        carry, dist_params, value = network.apply(params, carry, actor_obs, critic_obs, reset)
        return carry, dist_params, value

    def forward_one(params, moments, carry, obs, reset):
        """One time step: obs leaves [B, ...]."""
        tick = lambda tree: jax.tree.map(lambda x: x[None], tree)
        carry, dist_params, value = forward(params, moments, carry, tick(obs), reset[None])
        return carry, dist_params[0], value[0]

    def init(key: jax.Array, config: Config = config) -> PPOState:
        k_params, k_env, key = jax.random.split(key, 3)
        env_state = vec.reset(k_env)
        obs = jax.tree.map(lambda x: x[None, :1], env_state.obs)
        moments = Moments.zeros(jax.tree.map(lambda x: x[0, 0], obs))
        one = acting.select(obs, c.actor_obs, 2), acting.select(obs, c.critic_obs, 2)
        params = network.init(k_params, network.init_carry(1), *one, jnp.zeros((1, 1), bool))
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        return PPOState(
            params=params,
            opt_state=optim.init(params),
            learning_rate=config.learning_rate,
            obs_moments=moments,
            return_moments=Moments.zeros(jnp.zeros(())),
            env=env_state,
            carry=network.init_carry(c.num_envs),
            discounted=jnp.zeros(c.num_envs),
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            config=config,
        )

    def collect(state: PPOState) -> tuple[PPOState, Unroll, Metrics]:
        hp = state.config

        def one_step(loop, key):
            env_state, carry, discounted = loop
            reset = env_state.done | (env_state.episode_length == 0)
            carry_next, dist_params, value = forward_one(
                state.params, state.obs_moments, carry, env_state.obs, reset
            )
            dist = distribution(dist_params)
            keys = fold_keys(key, env_state.index)
            raw_action = jax.vmap(lambda d, k: d.sample(k))(dist, keys)
            stepped = vec.step(env_state, to_env(dist.squash(raw_action)))
            truncated = stepped.now.truncated

            def value_of_final():
                no_reset = jnp.zeros_like(reset)
                return forward_one(
                    state.params, state.obs_moments, carry_next, stepped.final_obs, no_reset
                )[2]

            final_value = jax.lax.cond(
                truncated.any(), value_of_final, lambda: jnp.zeros_like(value)
            )
            discounted = discounted * hp.gamma * (1.0 - reset) + stepped.now.reward
            unroll = Unroll(
                obs=env_state.obs,
                reset=reset,
                raw_action=raw_action,
                log_prob=dist.log_prob(raw_action),
                dist_params=dist_params,
                value=value,
                final_value=final_value,
                reward=stepped.now.reward,
                terminated=stepped.now.terminated,
                truncated=truncated,
                valid=~stepped.nonfinite,
                discounted=discounted,
            )
            return (stepped, carry_next, discounted), (unroll, rollout.episode_metrics(stepped))

        key, k_act = jax.random.split(state.key)
        loop = (state.env, state.carry, state.discounted)
        keys = jax.random.split(k_act, c.unroll_length)
        (env_state, carry, discounted), (unroll, episodes) = jax.lax.scan(one_step, loop, keys)
        state = state.replace(env=env_state, carry=carry, discounted=discounted, key=key)
        return state, unroll, episodes

    def advantages(state: PPOState, unroll: Unroll) -> tuple[jax.Array, jax.Array]:
        """Advantages and value targets, [T, N], in scaled reward."""
        hp = state.config
        reset = state.env.done
        _, _, last_value = forward_one(
            state.params, state.obs_moments, state.carry, state.env.obs, reset
        )
        scale = hp.reward_scale
        if c.normalize_reward:
            moments = state.return_moments
            scale *= jnp.where(moments.count > 0, jax.lax.rsqrt(moments.var + 1e-8), 1.0)
        next_value = jnp.concatenate([unroll.value[1:], last_value[None]])
        advantage = gae(
            reward=unroll.reward * scale,
            value=unroll.value,
            next_value=jnp.where(unroll.truncated, unroll.final_value, next_value),
            terminated=unroll.terminated,
            done=unroll.terminated | unroll.truncated,
            gamma=hp.gamma,
            gae_lambda=hp.gae_lambda,
            valid=unroll.valid,
        )
        return advantage, advantage + unroll.value

    def loss_fn(params, hp: Config, moments, batch, progress, keys):
        unroll, carry, advantage, target = batch
        _, dist_params, value = forward(params, moments, carry, unroll.obs, unroll.reset)
        dist, old_dist = distribution(dist_params), distribution(unroll.dist_params)
        weight = unroll.valid.astype(jnp.float32)
        total, center = psum((weight.sum(), jnp.where(unroll.valid, advantage, 0.0).sum()))
        total = jnp.maximum(total, 1.0)
        center = center / total
        mean = lambda x: jnp.where(unroll.valid, x, 0.0).sum() / total  # this device's share
        spread = jnp.sqrt(psum(mean((advantage - center) ** 2)))
        advantage = (advantage - center) / (spread + 1e-8)
        ratio = jnp.exp(dist.log_prob(unroll.raw_action) - unroll.log_prob)
        clipped = jnp.clip(ratio, 1.0 - hp.clip_ratio, 1.0 + hp.clip_ratio)
        if c.objective == "mdpo":  # on-policy, Tomar et al. 2022: 1 / t_k grows as t_k falls to 0
            proximity = mean(dist.kl(old_dist)) / jnp.maximum(1.0 - progress, 1e-2)
            policy_loss = proximity - mean(ratio * advantage)
        else:
            policy_loss = -mean(jnp.minimum(ratio * advantage, clipped * advantage))

        near = unroll.value + jnp.clip(value - unroll.value, -hp.value_clip, hp.value_clip)
        value_loss = 0.5 * mean(jnp.maximum((value - target) ** 2, (near - target) ** 2))

        # By environment, so that devices which share them draw alike.
        entropy = mean(jax.vmap(lambda d, k: d.entropy(k), (1, 0), 1)(dist, keys))
        loss = policy_loss + hp.value_coef * value_loss - hp.entropy_coef * entropy
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": mean(old_dist.kl(dist)),
            "clip_fraction": mean(jnp.abs(ratio - 1.0) > hp.clip_ratio),
            "ratio_error": mean(jnp.abs(ratio - 1.0)),
        }

    def update(state: PPOState, carry, unroll: Unroll) -> tuple[PPOState, Metrics]:
        hp, index = state.config, state.env.index
        advantage, target = advantages(state, unroll)
        progress = state.iteration * (
            c.num_envs * c.unroll_length / jnp.maximum(hp.schedule_steps, 1)
        )

        def one_minibatch(loop, inputs):
            params, opt_state, rate = loop
            chosen, key = inputs
            take = lambda tree: jax.tree.map(lambda x: jnp.take(x, chosen, 1), tree)
            batch_carry = jax.tree.map(lambda x: jnp.take(x, chosen, 0), carry)
            batch = (take(unroll), batch_carry, take(advantage), take(target))
            grads, metrics = jax.grad(loss_fn, has_aux=True)(
                params, hp, state.obs_moments, batch, progress, fold_keys(key, index[chosen])
            )
            grads, metrics = psum((grads, metrics))
            grads, norm = optim.clip(grads, hp.max_grad_norm)
            rate = schedules.next_rate(c.lr_schedule, rate, metrics["kl"], hp, progress)
            params, opt_state = optim.adam(params, grads, opt_state, rate, eps=1e-5)
            return (params, opt_state, rate), metrics | {"grad_norm": norm}

        def one_epoch(loop, key):
            k_order, k_entropy = jax.random.split(key)
            keys = jax.random.split(k_entropy, c.num_minibatches)
            order = rollout.shuffle_unrolls(k_order, index, c.num_envs, c.num_minibatches)
            return jax.lax.scan(one_minibatch, loop, (order, keys))

        key, k_epochs = jax.random.split(state.key)
        loop = (state.params, state.opt_state, state.learning_rate)
        keys = jax.random.split(k_epochs, c.num_epochs)
        (params, opt_state, rate), metrics = jax.lax.scan(one_epoch, loop, keys)

        weight = unroll.valid.astype(jnp.float32)
        obs_moments, return_moments = state.obs_moments, state.return_moments
        if c.normalize_obs:
            obs_moments = obs_moments.update(unroll.obs, weight, axis_name)
        if c.normalize_reward:
            return_moments = return_moments.update(
                unroll.discounted, weight, axis_name, robust=False
            )
        first_ratio_error = metrics.pop("ratio_error")[0, 0]
        metrics = jax.tree.map(jnp.mean, metrics)
        share = lambda x: x.sum(1).mean() / c.num_envs  # this device's, of the mean of x [T, n]
        metrics |= {
            "first_ratio_error": first_ratio_error,
            "learning_rate": rate,
        } | psum({"value": share(unroll.value), "reward": share(unroll.reward)})
        state = state.replace(
            params=params,
            opt_state=opt_state,
            learning_rate=rate,
            obs_moments=obs_moments,
            return_moments=return_moments,
            iteration=state.iteration + 1,
            key=key,
        )
        return state, metrics

    def step(state: PPOState) -> tuple[PPOState, Metrics]:
        carry = state.carry
        state, unroll, episodes = collect(state)
        state, metrics = update(state, carry, unroll)
        return state, metrics | rollout.over_time(episodes, psum)

    def act(params, carry, obs, key, deterministic):
        weights, moments = params
        obs = jax.tree.map(lambda x: x[None], obs)
        carry, dist_params, _ = forward_one(weights, moments, carry, obs, jnp.zeros(1, bool))
        dist = jax.tree.map(lambda x: x[0], distribution(dist_params))
        raw = dist.mode() if deterministic else dist.sample(key)
        return to_env(dist.squash(raw)), carry

    # Defined once: functions are part of a Policy's type, and a new one would compile anew.
    def init_carry():
        return network.init_carry(1)

    def policy(state: PPOState) -> Policy:
        return Policy((state.params, state.obs_moments), init_carry, act)

    def env_axis(state: PPOState) -> Any:
        none = jax.tree.map(lambda _: -1, state)
        every = lambda tree: jax.tree.map(lambda _: 0, tree)
        env_leaves = every(state.env).replace(key=-1, time=-1)
        return none.replace(
            env=env_leaves, carry=every(state.carry), discounted=every(state.discounted)
        )

    return Learner(
        init=init,
        step=step,
        policy=policy,
        config=config,
        env=env,
        steps_per_iteration=c.num_envs * c.unroll_length,
        env_axis=env_axis,
        validate=validate,
        on_axis=lambda axis: make(env, config, axis),
        parts=rollout.num_blocks(c.num_envs, c.num_minibatches),
    )


def default_devices(num_runs: int, config: Config, eval_episodes: int) -> int:
    """As `runtime.default_devices`; what shares environments shares blocks of minibatches and
    evaluation episodes, too."""
    parts = math.gcd(rollout.num_blocks(config.num_envs, config.num_minibatches), eval_episodes)
    return runtime.default_devices(num_runs, config.num_envs, parts)


def validate(config: Config) -> None:
    """Raises ValueError naming the first bad field, its value and what is allowed."""
    c = config
    checks.positive(c, "num_envs", "unroll_length", "num_minibatches", "num_epochs")
    checks.in_range(
        c, 0.0, math.inf, "learning_rate", "value_coef", "entropy_coef", "schedule_steps"
    )
    checks.in_range(c, 0.0, 1.0, "gamma", "gae_lambda")
    checks.finite(c, "learning_rate", "value_coef", "entropy_coef", "reward_scale")
    checks.finite(c, "init_log_std", "actor_out_scale")
    checks.whole(c, 0, "gru_width")
    checks.sizes(c, "actor_hidden", "critic_hidden")
    checks.above(c, 0.0, "clip_ratio", "value_clip", "max_grad_norm", "reward_scale", "target_kl")
    checks.one_of(c, "activation", ACTIVATIONS)
    checks.one_of(c, "distribution", ("tanh_normal", "normal"))
    checks.one_of(c, "lr_schedule", schedules.KINDS)
    checks.one_of(c, "objective", ("clip", "mdpo"))
    if c.num_envs % c.num_minibatches:
        raise ValueError(
            f"num_minibatches={c.num_minibatches}: must divide num_envs={c.num_envs}"
            " (a minibatch is a set of whole unrolls)"
        )
    if c.lr_schedule in ("linear", "cosine") or c.objective == "mdpo":
        checks.above(c, 0.0, "schedule_steps")
