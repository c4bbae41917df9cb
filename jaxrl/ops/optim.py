"""Adam with a learning rate that is data, so that sweeps are a `vmap`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def init(params: Any) -> optax.OptState:
    return optax.scale_by_adam().init(params)


def adam(
    params: Any,
    grads: Any,
    opt_state: Any,
    learning_rate: Any,
    weight_decay: Any = 0.0,
    eps: float = 1e-8,
) -> tuple[Any, Any]:
    """One step of AdamW (Loshchilov & Hutter 2019). Returns new params and optimiser state."""
    updates, opt_state = optax.scale_by_adam(eps=eps).update(grads, opt_state)
    move = lambda p, u: p - learning_rate * (u + weight_decay * p)
    return jax.tree.map(move, params, updates), opt_state


def polyak(target: Any, params: Any, tau: Any) -> Any:
    """The target moved by a share `tau` towards `params`."""
    return jax.tree.map(lambda t, p: t + tau * (p - t), target, params)


def clip(grads: Any, max_norm: Any) -> tuple[Any, jax.Array]:
    """Gradients scaled down to a global norm of `max_norm` (infinite: off), and their norm before."""
    norm = optax.global_norm(grads)
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * scale, grads), norm
