"""Model-predictive path integral control (MPPI) on the true simulator, as a policy.

Williams et al. 2017, "Information Theoretic MPC for Model-Based Reinforcement Learning",
Algorithm 2; the cost of controls with `alpha` is that of Williams et al. 2018 (IEEE T-RO).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Box, Env, State, is_sound
from jaxrl.nn import spaces
from jaxrl.types import Policy


def mppi(
    env: Env,
    horizon: int = 20,
    samples: int = 64,
    temperature: float = 1.0,
    noise: float = 0.5,
    alpha: float = 0.0,
    iterations: int = 1,
) -> Policy:
    """A policy that plans with `env` itself at every step and needs no learning.

    `act` takes the environment's `State`. The carry is the last plan, shifted by one step: the warm
    start of the next. The cost of a sampled plan is its negative return until it terminates. A
    plan that breaks the simulation (`envs.types.is_sound`) has weight 0.

    Args:
      env: one instance with bounded continuous actions. It is the model, too.
      horizon: control steps of a plan.
      samples: plans sampled for one update, each simulated.
      temperature: lambda, in units of return. Near 0 the best sample alone counts. Above 0.
      noise: standard deviation of the samples' controls, in shares of half the action range.
        Above 0.
      alpha: in [0, 1]; 1 leaves out the cost lambda u' Sigma^-1 epsilon of moving away from 0.
      iterations: updates of the plan per control step.

    Raises:
      ValueError: a number out of range, or actions that are discrete or without bounds.
    """
    space = env.action_space
    if not isinstance(space, Box) or not np.isfinite([space.lows, space.highs]).all():
        raise ValueError(f"mppi: the action space is {space}: must be a bounded Box")
    for name, count in (("horizon", horizon), ("samples", samples), ("iterations", iterations)):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    for name, number in (("temperature", temperature), ("noise", noise)):
        if not number > 0:
            raise ValueError(f"{name}={number}: must be above 0")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be 0 .. 1")
    to_env = spaces.to_env(space)
    size = math.prod(space.shape)

    def returns(state: State, controls: jax.Array) -> jax.Array:
        """Returns the return of one plan [horizon, A], or -inf if the simulation breaks."""

        def step(loop, control):
            state, total, alive = loop
            new = env.step(state, to_env(control))
            sound = is_sound(env, new)
            total += jnp.where(alive, jnp.where(sound, new.reward, -jnp.inf), 0.0)
            return (new, total, alive & sound & ~new.terminated), None

        loop = (state, jnp.zeros(()), jnp.ones((), bool))
        return jax.lax.scan(step, loop, controls)[0][1]

    def apply(params, plan, state, key, deterministic):
        def improve(plan, key):
            scale = params["noise"]
            epsilon = scale * jax.random.normal(key, (samples, horizon, size))
            # Controls are clipped before the simulation, so epsilon is what the clipping leaves of it.
            controls = jnp.clip(plan + epsilon, -1.0, 1.0)
            epsilon = controls - plan
            cost = -jax.vmap(returns, (None, 0))(state, controls)
            cost += control_cost(plan, epsilon, params["temperature"] * (1 - alpha), scale)
            return update(plan, epsilon, cost, params["temperature"]), None

        plan, _ = jax.lax.scan(improve, plan, jax.random.split(key, iterations))
        return to_env(plan[0]), jnp.concatenate([plan[1:], jnp.zeros((1, size))])

    params = {"temperature": jnp.float32(temperature), "noise": jnp.float32(noise)}
    return Policy(params, lambda: jnp.zeros((horizon, size)), apply, sees_state=True)


def control_cost(
    plan: jax.Array, epsilon: jax.Array, gamma: jax.Array, noise: jax.Array
) -> jax.Array:
    """gamma sum_t u_t' Sigma^-1 epsilon_t with Sigma = noise^2 I.

    plan [T, A]; epsilon [K, T, A]; returns [K].
    """
    return gamma * (plan * epsilon).sum((-2, -1)) / noise**2


def weights(cost: jax.Array, temperature: jax.Array) -> jax.Array:
    """softmax(-cost / lambda), [K]; 0 for every plan if none has a finite cost."""
    broken = ~jnp.isfinite(cost)
    w = jnp.where(
        broken, 0.0, jnp.exp(-(cost - cost.min(where=~broken, initial=jnp.inf)) / temperature)
    )
    return w / jnp.maximum(w.sum(), jnp.finfo(w.dtype).tiny)


def update(
    plan: jax.Array, epsilon: jax.Array, cost: jax.Array, temperature: jax.Array
) -> jax.Array:
    """u_t + sum_k w_k epsilon_t^k: plan [T, A], epsilon [K, T, A], cost [K]."""
    return plan + jnp.tensordot(weights(cost, temperature), epsilon, 1)
