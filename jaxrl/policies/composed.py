"""General Policy Composition (GPC, Cao et al. 2025, arXiv:2510.01068): two policies as one, at test time.

Two chunk policies that denoise share one plan. At each step of the denoising the output of the
composed network is a convex combination of theirs:

    v = w v_1(x, t, obs_1) + (1 - w) v_2(x, t, obs_2)

`w` is searched by rollouts. This is the rule of the authors' code (envs/base_task.py,
get_composed_action) with weights that sum to 1. The parents share the process (flow or diffusion),
the number of steps, the horizon and the scale of actions. They may see other entries of the
observation, other histories, and have other networks, normalisers and demonstrations. The paper
also composes by logical operators on scores, which are not here.

    policy = composed(env, Parent(config_1, policy_1), Parent(config_2, policy_2), weight=0.5)
    best, table = searched(env, policy, jnp.linspace(0, 1, 11), jax.random.split(key, 64))

Report the best weight on other episodes than those of the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Env
from jaxrl.config import Real
from jaxrl.episodes import evaluate_runs
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.nn import heads, spaces
from jaxrl.policies.chunks import chunked
from jaxrl.types import Policy

SHARED = ("head", "denoise_steps", "horizon", "execute", "mode")


@dataclass(frozen=True)
class Parent:
    """A policy of `jaxrl.learners.imitation.chunks`, with the config of its learner."""

    config: imitation.Config
    policy: Policy


def composed(env: Env, first: Parent, second: Parent, weight: float = 0.5) -> Policy:
    """Returns the policy that denoises one plan by both parents.

    Its `params["net"]["weight"]` is data: policies of several weights share one program. With a
    weight of 1 it is `first`, with 0 it is `second`.

    Args:
      env: of both parents.
      first, second: flow or diffusion policies. The scale of their actions must be the same. Give
        one to both learners by `compose.warm_start(learner, {"action_scale": scale})`, with
        `scale = imitation.chunks.action_scale(actions)` of the union of the demonstrations.
      weight: of `first`, 0 .. 1.

    Raises:
      ValueError: a weight outside 0 .. 1, Gaussian or streaming parents, or parents that differ in
        what they must share.
    """
    Real(0.0, 1.0).check("weight", weight)
    a, b = first.config, second.config
    _check_shared(first, second)
    size = spaces.actions(env.action_space).continuous()
    parents = imitation.head_of(a, size), imitation.head_of(b, size)
    process = heads.PROCESSES[a.head]
    example = jax.eval_shape(env.reset, jax.random.key(0)).obs
    flat = lambda config: (
        jax.eval_shape(lambda obs: spaces.select(obs, config.obs_keys, 0), example).size
    )
    sizes, history = (flat(a), flat(b)), max(a.history, b.history)

    def see(params, obs):
        each = zip((a, b), params["obs"], strict=True)
        seen = [spaces.select(moments.normalize(obs), c.obs_keys, 0) for c, moments in each]
        return jnp.concatenate(seen)

    def sample(params, seen, key, deterministic):
        of_first = seen[history - a.history :, : sizes[0]]
        of_second = seen[history - b.history :, sizes[0] :]
        weight = params["weight"]

        def predict(chunk, level):
            one = parents[0].predict(params["first"], of_first, chunk, level)
            other = parents[1].predict(params["second"], of_second, chunk, level)
            return weight * one + (1.0 - weight) * other

        noise = jax.random.normal(key, (a.horizon, size))
        return heads.denoised(process, predict, noise, a.denoise_steps)

    def no_loss(*_: Any):
        raise ValueError("a composed policy is not trained: train its parents")

    head = heads.Head(no_loss, no_loss, sample, 2 * a.denoise_steps)
    init_carry, apply = chunked(
        head,
        env.action_space,
        sum(sizes),
        obs_keys=(),
        history=history,
        horizon=a.horizon,
        execute=a.execute,
        mode=a.mode,
        see=see,
    )
    of_first, of_second = first.policy.params, second.policy.params
    params = {
        "net": {
            "first": of_first["net"],
            "second": of_second["net"],
            "weight": jnp.asarray(weight, jnp.float32),
        },
        "obs": (of_first["obs"], of_second["obs"]),
        "action": of_first["action"],
    }
    return Policy(params, init_carry, apply)


def searched(
    env: Env, policy: Policy, weights: jax.Array, keys: jax.Array, metric: str = "success"
) -> tuple[float, np.ndarray]:
    """Returns the weight of the highest mean of `metric`, and the means of all [W].

    All weights are tried on the same episodes, in one program. Among equal weights the first wins;
    one whose episodes all broke is never chosen.

    Args:
      policy: of `composed`.
      weights: [W], each 0 .. 1.
      keys: [episodes].
      metric: of `jaxrl.episodes.evaluate`.

    Raises:
      ValueError: no weights, one outside 0 .. 1, or a metric that the task does not measure.
    """
    weights = np.atleast_1d(np.asarray(weights, np.float32))
    if not weights.size:
        raise ValueError("weights: must be at least one")
    Real(0.0, 1.0).check("weights", weights)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(weights), *jnp.shape(x))), policy)
    net = many.params["net"] | {"weight": jnp.asarray(weights)}
    many = many.replace(params=many.params | {"net": net})
    episodes = jax.jit(lambda policies, keys: evaluate_runs(env, policies, keys))(many, keys)
    if metric not in episodes:
        raise ValueError(f"metric={metric!r}: the task measures {', '.join(sorted(episodes))}")
    found = np.asarray(episodes[metric], np.float64)
    ran = np.isfinite(found)
    means = np.where(ran, found, 0.0).sum(1) / np.maximum(ran.sum(1), 1)
    means = np.where(ran.any(1), means, -np.inf)
    return float(weights[means.argmax()]), means


def _check_shared(first: Parent, second: Parent) -> None:
    for name in SHARED:
        mine, other = getattr(first.config, name), getattr(second.config, name)
        if mine != other:
            raise ValueError(f"{name}={mine!r} and {name}={other!r}: parents must share it")
    if first.config.head == "gaussian" or first.config.mode == "streaming":
        raise ValueError(
            f"head={first.config.head!r}, mode={first.config.mode!r}: parents must denoise whole"
            " plans, by head='flow' or 'diffusion' and mode='open_loop' or 'ensemble'"
        )
    scales = [jax.tree.leaves(parent.policy.params["action"]) for parent in (first, second)]
    for mine, other in zip(*scales, strict=True):
        if not np.allclose(mine, other, atol=1e-5):
            raise ValueError("params['action']: the scales of the parents' actions differ")
