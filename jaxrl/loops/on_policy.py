"""The on-policy engine: collect an unroll, estimate advantages, several epochs of minibatches.

One `step` collects `unroll_length` steps from every environment and makes `num_epochs` passes over
minibatches of single steps, or of whole unrolls, so that recurrent networks see sequences. Normaliser
statistics are renewed after the last update only: at learning rate 0 the ratio is 1. The seams are in
`jaxrl/loops/unroll.py`. Methods never mention a device: the engine takes every mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from envs.types import Env
from envs.vector import fold_keys, vectorize
from jaxrl.config import check
from jaxrl.loops import collect as collecting
from jaxrl.loops import estimate as estimating
from jaxrl.loops.branch import in_any_run
from jaxrl.loops.unroll import (
    Advantage,
    After,
    Clip,
    Loss,
    OnPolicy,
    OnPolicyState,
    Rewards,
    Sample,
    Unroll,
    check_terms,
    generalised,
    mean_over,
    over_minibatch,
    squared,
    total_loss,
)
from jaxrl.nn.actors import Actor, Network, policy_of
from jaxrl.ops import optim, schedules
from jaxrl.ops.moments import Moments, psum_over
from jaxrl.types import Learner, Means, Metrics, Sharing

ADAM = optax.scale_by_adam(eps=1e-5)


def make(
    env: Env,
    config: OnPolicy,
    network: Network,
    actor: Actor,
    policy_loss: Loss,
    value_loss: Loss = squared,
    advantage: Advantage = generalised,
    rewards: Rewards = lambda unroll, extra, config: unroll.reward,
    terms: Mapping[str, Loss] | None = None,
    extra: Callable[[Any], Any] = lambda config: (),  # at the start
    after: After | None = None,
    clip: Clip = optim.clip,
    axis_name: str | None = None,
) -> Learner:
    """A learner that collects unrolls and updates on each of them.

    Args:
      env: one environment instance.
      config: see `OnPolicy`.
      network ... clip: the seams; see the module.
      axis_name: the mapped device axis that environments are sharded over, if any.

    Raises:
      ValueError: a field out of range, or a term without its weight. The first trace of `step`
        also refuses losses and metrics that are not per sample.
    """
    check(config)
    shapes = config  # static fields; inside a step `config` is the state's, whose numbers are data
    terms = dict(terms or {})
    check_terms(terms, config)
    if not shapes.whole_unrolls and jax.tree.leaves(network.init_carry(1)):
        raise ValueError(f"shuffle={shapes.shuffle!r}: a network with memory needs 'unrolls'")
    take = collecting.take_unrolls if shapes.whole_unrolls else collecting.take_steps
    vec = vectorize(env, shapes.num_envs, shapes.resets, shapes.stagger)
    psum = psum_over(axis_name)
    judges = network.critic is not None  # the values are those of the actions drawn
    steps_per_iteration = shapes.num_envs * shapes.unroll_length

    def normalized(moments: Moments, obs: Any) -> Any:
        return moments.normalize(obs) if shapes.normalize_obs else obs

    def forward_one(params, moments, carry, obs, reset):
        """One time step: obs leaves [B, ...]."""
        tick = lambda tree: jax.tree.map(lambda x: x[None], tree)
        obs = tick(normalized(moments, obs))
        carry, outputs, value = network.apply(params, carry, obs, reset[None])
        return carry, *jax.tree.map(lambda x: x[0], (outputs, value))

    def judged(state: OnPolicyState, obs, raw, log_prob):
        """The critic's value of actions drawn where `obs` was seen. Leaves [N, ...]"""
        return network.critic(state.params, normalized(state.obs_moments, obs), raw, log_prob)

    def value_of(state: OnPolicyState, obs, outputs, value, key):
        """The network's value of `obs`, or its critic's of fresh actions. Leaves [N, ...]"""
        if not judges:
            return value
        keys = fold_keys(key, state.env.index)
        return judged(state, obs, *actor.sample(state.params, outputs, keys))

    def init(key: jax.Array, config: OnPolicy = config) -> OnPolicyState:
        k_params, k_env, key = jax.random.split(key, 3)
        env_state = vec.reset(k_env)
        obs = jax.tree.map(lambda x: x[None, :1], env_state.obs)
        moments = Moments.zeros(jax.tree.map(lambda x: x[0, 0], obs))
        params = network.init(k_params, obs, jnp.zeros((1, 1), bool))
        config = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), config)
        return OnPolicyState(
            params=params,
            opt=ADAM.init(params),
            learning_rate=config.learning_rate,
            obs_moments=moments,
            return_moments=Moments.zeros(jnp.zeros(())),
            env=env_state,
            carry=network.init_carry(shapes.num_envs),
            discounted=jnp.zeros(shapes.num_envs),
            iteration=jnp.zeros((), jnp.int32),
            key=key,
            extra=extra(config),
            config=config,
        )

    def collect(state: OnPolicyState) -> tuple[OnPolicyState, Unroll, Metrics]:
        config, forward = state.config, partial(forward_one, state.params, state.obs_moments)

        def one_step(loop, key):
            env_state, carry, discounted = loop
            key, k_final = jax.random.split(key) if judges else (key, None)
            reset = env_state.done | (env_state.episode_length == 0)
            carry_next, outputs, value = forward(carry, env_state.obs, reset)
            raw, log_prob = actor.sample(state.params, outputs, fold_keys(key, env_state.index))
            if judges:
                value = judged(state, env_state.obs, raw, log_prob)
            stepped = vec.step(env_state, actor.to_env(raw))
            truncated = stepped.now.truncated

            def value_of_final():
                obs = stepped.final_obs
                _, outputs, value = forward(carry_next, obs, jnp.zeros_like(reset))
                return value_of(state, obs, outputs, value, k_final)

            final_value = jax.lax.cond(
                in_any_run(truncated.any()),
                value_of_final,
                lambda: jax.tree.map(jnp.zeros_like, value),
            )
            reward = stepped.now.reward
            total = reward.mean(range(1, reward.ndim))  # over agents, if there are several
            discounted = discounted * config.gamma * (1.0 - reset) + total
            unroll = Unroll(
                obs=env_state.obs,
                reset=reset,
                raw=raw,
                log_prob=log_prob,
                outputs=outputs,
                value=value,
                final_value=final_value,
                reward=reward,
                terminated=stepped.now.terminated,
                truncated=truncated,
                valid=~stepped.nonfinite,
                discounted=discounted,
                signals=stepped.now.signals,
            )
            loop = stepped, carry_next, discounted
            return loop, (unroll, collecting.episode_metrics(stepped))

        key, k_act = jax.random.split(state.key)
        loop = (state.env, state.carry, state.discounted)
        keys = jax.random.split(k_act, shapes.unroll_length)
        (env_state, carry, discounted), (unroll, episodes) = jax.lax.scan(one_step, loop, keys)
        state = state.replace(env=env_state, carry=carry, discounted=discounted, key=key)
        return state, unroll, collecting.over_time(episodes, psum)

    def estimate(state: OnPolicyState, unroll: Unroll, key=None) -> tuple[jax.Array, Any]:
        """Returns advantages and value targets, in scaled reward. A critic needs the key."""
        _, outputs, value = forward_one(
            state.params, state.obs_moments, state.carry, state.env.obs, state.env.done
        )
        last_value = value_of(state, state.env.obs, outputs, value, key)
        return estimating.estimate(state, unroll, last_value, rewards, advantage, shapes)

    def loss_fn(params, state: OnPolicyState, batch, carry, progress, keys, loss_keys):
        unroll, obs, advantage, target = batch
        _, outputs, value = network.apply(params, carry, obs, unroll.reset)
        log_prob, entropy = actor.evaluate(params, outputs, unroll.raw, keys)
        chex.assert_equal_shape([log_prob, unroll.log_prob])
        if not judges:
            chex.assert_equal_shape([value, target])
        mean, normal = over_minibatch(advantage, unroll.valid, psum)
        sample = Sample(
            params=params,
            unroll=unroll.replace(obs=obs),
            advantage=normal if shapes.normalize_advantages else advantage,
            target=target,
            value=value,
            outputs=outputs,
            log_prob=log_prob,
            ratio=jnp.exp(log_prob - unroll.log_prob),
            entropy=entropy,
            progress=progress,
            keys=loss_keys,
            extra=state.extra,
        )
        # Without a closed form: Schulman's low-variance estimate.
        log_ratio = log_prob - unroll.log_prob
        kl = actor.kl(unroll.outputs, outputs) if actor.kl else sample.ratio - 1.0 - log_ratio
        loss, metrics = total_loss(sample, policy_loss, value_loss, terms, mean, state.config)
        return loss, metrics | {"kl": mean(kl), "ratio_error": mean(jnp.abs(sample.ratio - 1.0))}

    def update(state: OnPolicyState, carry, unroll: Unroll) -> tuple[OnPolicyState, Means]:
        config, index = state.config, state.env.index
        ids = collecting.step_ids(index, shapes.steps_shuffled)  # one random key each
        key, k_epochs, *k_last = jax.random.split(state.key, 3 if judges else 2)
        obs = normalized(state.obs_moments, unroll.obs)
        estimated = estimate(state, unroll, *k_last)
        progress = state.iteration * (steps_per_iteration / jnp.maximum(config.schedule_steps, 1))

        def one_minibatch(estimated, loop, inputs):
            params, opt, rate = loop
            chosen, key = inputs
            batch = take((unroll.replace(obs=()), obs, *estimated), chosen)
            batch_carry = jax.tree.map(lambda x: jnp.take(x, chosen, 0), carry)
            k_losses = jax.random.fold_in(key, shapes.num_envs * shapes.steps_shuffled)  # no id
            keys = (fold_keys(k, ids[chosen]) for k in (key, k_losses))
            grads, metrics = jax.grad(loss_fn, has_aux=True)(
                params, state, batch, batch_carry, progress, *keys
            )
            grads, metrics = psum((grads, metrics))
            grads, norm = clip(grads, config.max_grad_norm)
            rate = schedules.next_rate(shapes.lr_schedule, rate, metrics["kl"], config, progress)
            params, opt, ok = optim.step(params, grads, opt, rate, tx=ADAM)
            return (params, opt, rate), metrics | {"grad_norm": norm, "skipped": 1.0 - ok}

        def one_epoch(loop, key):
            k_order, k_entropy, *k_last = jax.random.split(key, 3 if judges else 2)
            keys = jax.random.split(k_entropy, shapes.num_minibatches)
            order = collecting.shuffle(
                k_order, index, shapes.num_envs, shapes.num_minibatches, shapes.steps_shuffled
            )
            latest = estimated
            if shapes.advantages == "epoch":
                if judges:
                    value = network.critic(loop[0], obs, unroll.raw, unroll.log_prob)
                else:
                    value = network.apply(loop[0], carry, obs, unroll.reset)[2]
                now = state.replace(params=loop[0])
                latest = estimate(now, unroll.replace(value=value), *k_last)
            return jax.lax.scan(partial(one_minibatch, latest), loop, (order, keys))

        loop = (state.params, state.opt, state.learning_rate)
        keys = jax.random.split(k_epochs, shapes.num_epochs)
        (params, opt, rate), metrics = jax.lax.scan(one_epoch, loop, keys)
        first_ratio_error = metrics.pop("ratio_error")[0, 0]
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics |= {"first_ratio_error": first_ratio_error, "learning_rate": rate}
        share = lambda x: x.sum(1).mean() / shapes.num_envs  # of the mean over all devices
        first_value = jax.tree.leaves(unroll.value)[0]
        metrics |= psum({"value": share(first_value), "reward": share(unroll.reward)})
        state = state.replace(
            params=params, opt=opt, learning_rate=rate, iteration=state.iteration + 1, key=key
        )
        return estimating.renew_moments(state, unroll, shapes, axis_name), metrics

    def step(state: OnPolicyState) -> tuple[OnPolicyState, Metrics]:
        carry = state.carry
        state, unroll, episodes = collect(state)
        state, metrics = update(state, carry, unroll)
        if after is not None:
            mean = mean_over(unroll.valid, psum)
            told = episodes.with_means(metrics)
            new, more = after(state.extra, unroll, told, mean, state.config)
            state, metrics = state.replace(extra=new), metrics | more
        return state, episodes.with_means(metrics)

    def on_axis(axis: str) -> Learner:
        losses = (policy_loss, value_loss, advantage, rewards, terms, extra, after)
        return make(env, shapes, network, actor, *losses, clip, axis_name=axis)

    return Learner(
        init=init,
        step=step,
        policy=policy_of(forward_one, network.init_carry, actor),
        config=config,
        env=env,
        steps_per_iteration=steps_per_iteration,
        sharing=Sharing(collecting.env_axis, on_axis, shapes.num_blocks),
    )
