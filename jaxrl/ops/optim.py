"""Optimisers whose learning rate is data, so that a sweep over it is a `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

ADAM = optax.scale_by_adam()  # any transformation works: the learning rate is applied outside
SMALL = 4096  # entries of an array whose gradients are looked at together
LARGEST = 1e15  # of a gradient, whose square is still far from what float32 holds


@struct.dataclass
class Net:
    """Parameters, the state of their optimiser and, if wanted, a target copy."""

    params: Any
    opt: Any
    target: Any = ()
    skipped: Any = 0  # [] int32, how many steps were left out because a gradient was not finite

    def step(
        self,
        grads: Any,
        learning_rate: Any,
        weight_decay: Any = 0.0,
        tx: optax.GradientTransformation = ADAM,
    ) -> Net:
        """One step along `grads`, with decoupled weight decay (Loshchilov & Hutter 2019)."""
        params, opt, ok = step(self.params, grads, self.opt, learning_rate, weight_decay, tx)
        return self.replace(params=params, opt=opt, skipped=self.skipped + ~ok)

    def follow(self, tau: Any) -> Net:
        """The target moves a share `tau` towards the parameters."""
        return self.replace(target=polyak(self.target, self.params, tau))


def net(params: Any, target: bool = False, tx: optax.GradientTransformation = ADAM) -> Net:
    """Returns a `Net` that starts at `params`. With `target` it has a copy that follows."""
    return Net(params, tx.init(params), params if target else (), jnp.zeros((), jnp.int32))


def skipped(tree: Any) -> jax.Array:
    """The largest `skipped` of the `Net`s in a tree; 0 if it has none. [] int32"""
    is_net = lambda x: isinstance(x, Net)
    nets = [x for x in jax.tree.leaves(tree, is_leaf=is_net) if is_net(x)]
    return jnp.stack([jnp.max(x.skipped) for x in nets] or [jnp.zeros((), jnp.int32)]).max()


def step(
    params: Any,
    grads: Any,
    opt: Any,
    learning_rate: Any,
    weight_decay: Any = 0.0,
    tx: optax.GradientTransformation = ADAM,
) -> tuple[Any, Any, jax.Array]:
    """One step of `tx` times `learning_rate`.

    Returns new parameters, the optimiser's new state, and whether the step was taken. It is not if
    a gradient of a small array (a bias, which every sample of a batch reaches) is not finite: the
    parameters stay, and the optimiser sees gradients of 0. One bad batch does not end a run. A single
    gradient of a large array that is not finite, or beyond `LARGEST`, counts as 0 by itself. A sum
    over all gradients, and a choice between old and new for each number, would slow SAC on a CPU.
    """
    leaves = jax.tree.leaves(grads)
    taken = jnp.isfinite(optax.global_norm([g for g in leaves if g.size <= SMALL] or leaves))
    grads = jax.tree.map(lambda g: jnp.where((jnp.abs(g) < LARGEST) & taken, g, 0.0), grads)
    updates, opt = tx.update(grads, opt, params)
    rate = learning_rate * taken
    params = jax.tree.map(lambda p, u: p - rate * (u + weight_decay * p), params, updates)
    return params, opt, taken


def polyak(target: Any, params: Any, tau: Any) -> Any:
    """Returns the target moved by a share `tau` towards `params`."""
    return optax.incremental_update(params, target, tau)


def clip(grads: Any, max_norm: Any) -> tuple[Any, jax.Array]:
    """Returns gradients with a global norm of at most `max_norm`, and their norm before clipping."""
    norm = optax.global_norm(grads)
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * scale, grads), norm


def clip_apart(grads: dict[str, Any], max_norm: Any) -> tuple[dict[str, Any], jax.Array]:
    """Returns gradients whose entries have a norm of at most `max_norm` each, and the largest norm before."""
    clipped = {name: clip(tree, max_norm) for name, tree in grads.items()}
    largest = jnp.stack([norm for _, norm in clipped.values()]).max()
    return {name: tree for name, (tree, _) in clipped.items()}, largest
