"""Networks shared by the learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrl.nn.product import product

Activation = Literal["swish", "tanh", "relu", "elu", "gelu"]
ACTIVATIONS = {"swish": nn.swish, "tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "gelu": nn.gelu}


Start = Literal["lecun", "orthogonal", "torch"]


def orthogonal(scale: float) -> Callable:
    """An initialiser: rows or columns, whichever are fewer, are orthogonal and `scale` long.

    By Gram-Schmidt on normal columns, each made orthogonal twice ("twice is enough", Giraud et al.
    2005). A QR factorisation would do, but batched LAPACK calls at once (several layers, seeds under
    `vmap`) can deadlock on a CPU with few cores.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = shape
        normal = jax.random.normal(key, (min(shape), max(shape)), dtype)

        def next_row(i, basis):
            row = basis[i]
            earlier = jnp.where(jnp.arange(len(basis))[:, None] < i, basis, 0.0)
            for _ in range(2):
                row = row - (earlier @ row) @ earlier
            return basis.at[i].set(row / jnp.linalg.norm(row))

        with jax.default_matmul_precision("highest"):
            basis = jax.lax.fori_loop(0, len(normal), next_row, normal)
        return scale * (basis if rows <= columns else basis.T)

    return init


def kernel_init(start: Start, scale: float | None = None) -> Callable:
    """The initialiser of a kernel: of a hidden layer, or of the last one, which has a `scale`.

    "lecun": uniform with variance 1 / fan-in. "orthogonal": Saxe et al. 2014, hidden layers times
    the square root of 2, as in PPO's first implementations. "torch": PyTorch's default, uniform with
    variance 1 / (3 fan-in).
    """
    if scale == 0:
        return nn.initializers.zeros
    if start == "orthogonal":
        return orthogonal(math.sqrt(2.0) if scale is None else scale)
    variance = (1.0 if scale is None else scale**2) / (3.0 if start == "torch" else 1.0)
    return nn.initializers.variance_scaling(variance, "fan_in", "uniform")


def bias_init(start: Start, fan_in: int, scale: float = 1.0) -> Callable:
    """The initialiser of a bias: 0, or PyTorch's default, uniform within 1 / sqrt(fan-in)."""
    if start != "torch":
        return nn.initializers.zeros
    limit = scale / math.sqrt(fan_in)
    return lambda key, shape: jax.random.uniform(key, shape, minval=-limit, maxval=limit)


class Dense(nn.Module):
    """Maps x [*B, in] to [*B, features], like flax's `Dense`, but with `product`."""

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        return product(x, kernel) + bias


class MLP(nn.Module):
    """Hidden layers with an activation after each, then one linear layer of `out` units."""

    hidden: Sequence[int]
    out: int
    activation: str = "swish"
    out_scale: float = 1.0
    layer_norm: bool = False
    start: Start = "lecun"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = lambda scale: bias_init(self.start, x.shape[-1], scale)
        for width in self.hidden:
            x = Dense(width, kernel_init(self.start), bias(1.0))(x)
            x = nn.LayerNorm()(x) if self.layer_norm else x
            x = ACTIVATIONS[self.activation](x)
        return Dense(self.out, kernel_init(self.start, self.out_scale), bias(self.out_scale))(x)


class Ensemble(nn.Module):
    """`size` MLPs with separate parameters on the same input: [B, in] to [size, B, out]."""

    size: int
    hidden: Sequence[int]
    out: int
    activation: str = "relu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        members = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            axis_size=self.size,
        )
        # Each member gets its own copy of the input, because XLA on a CPU is slower if they share one.
        x = jnp.broadcast_to(x, (self.size, *x.shape))
        return members(self.hidden, self.out, self.activation, 1.0, self.layer_norm)(x)


def of_each(module: nn.Module, params: Any, x: jax.Array) -> jax.Array:
    """`module` of each member of `params` [size, ...] on the same input [B, in]: [size, B, out]."""
    size = jax.tree.leaves(params)[0].shape[0]
    x = jnp.broadcast_to(x, (size, *x.shape))  # copies, as in `Ensemble`
    return jax.vmap(module.apply)(params, x)


class Transformer(nn.Module):
    """Pre-norm blocks of self-attention and a two-layer MLP. x [*B, tokens, width] to the same.

    `seen` [*B, tokens] bool says which tokens are looked at. None: all of them.
    """

    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        mask = None if seen is None else seen[..., None, None, :]  # the same for all heads, queries
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            x = x + MLP((4 * self.width,), self.width, "gelu")(nn.LayerNorm()(x))
        return nn.LayerNorm()(x)


class GRU(nn.Module):
    """A GRU over time that resets its carry at the start of an episode.

    carry [*B, width], x [T, *B, in], reset [T, *B] bool (True: x[t] begins an episode).
    Returns the last carry and the outputs [T, *B, width].
    """

    width: int

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, reset: jax.Array):
        def step(cell, carry, inputs):
            x, reset = inputs
            return cell(jnp.where(reset[..., None], 0.0, carry), x)

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        cell = nn.GRUCell(self.width, recurrent_kernel_init=kernel_init("lecun"))
        return scan(cell, carry, (x, reset))

    def start(self, *batch: int) -> jax.Array:
        """The carry of an episode's start, for `batch` axes."""
        return jnp.zeros((*batch, self.width))


class Context(nn.Module):
    """A transformer over the last `length` steps of an episode, the present one included.

    It takes and returns what a `GRU` does. The carry holds the embedded inputs of the last
    `length` - 1 steps [*B, length - 1, width] and which of them are this episode's
    [*B, length - 1] bool. The output of a step depends on no later step. Every step looks at its
    own `length` tokens, so that a sequence equals its steps one by one, which costs `length` times
    the evaluations of a band of attention: meant for windows of some 8 to 32 steps.
    """

    length: int
    width: int
    layers: int = 1
    heads: int = 2

    @nn.compact
    def __call__(self, carry: Any, x: jax.Array, reset: jax.Array):
        tokens, known = carry
        steps, past = x.shape[0], self.length - 1
        episode = jnp.cumsum(reset, 0, dtype=jnp.int32)  # [T, *B]
        earlier = jnp.where(jnp.moveaxis(known, -1, 0), 0, -1)
        tokens = jnp.concatenate([jnp.moveaxis(tokens, -2, 0), Dense(self.width)(x)])
        episode = jnp.concatenate([earlier, episode])  # [past + T, *B]
        taken = jnp.arange(steps)[:, None] + jnp.arange(self.length)  # [T, length]
        window = jnp.moveaxis(tokens[taken], 1, -2)  # [T, *B, length, width]
        same = jnp.moveaxis(episode[taken] == episode[past:, None], 1, -1)  # [T, *B, length]
        place = self.param("place", nn.initializers.normal(0.02), (self.length, self.width))
        out = Transformer(self.width, self.layers, self.heads)(window + place, same)[..., -1, :]
        same = episode[steps:] == episode[-1]
        return (jnp.moveaxis(tokens[steps:], 0, -2), jnp.moveaxis(same, 0, -1)), out

    def start(self, *batch: int) -> tuple[jax.Array, jax.Array]:
        """The carry of an episode's start, for `batch` axes."""
        shape = (*batch, self.length - 1)
        return jnp.zeros((*shape, self.width)), jnp.zeros(shape, bool)


class ActorCritic(nn.Module):
    """Separate actor and critic, recurrent where `gru_width` > 0 or with a `memory`. Time-major
    inputs. `memory` makes a module that takes and returns what a `GRU` does, such as `Context`.
    `eyes` makes two modules from observations [*B, obs] to features, for actor and critic.

    Returns (carry, actor output [T, B, actor_out], value [T, B]); with `free_log_std`
    the actor output is [T, B, 2 * actor_out], and its second half is a parameter that does not
    depend on the observation. With several `values` the value is [T, B, values].
    """

    actor_hidden: Sequence[int]
    critic_hidden: Sequence[int]
    actor_out: int
    activation: str
    free_log_std: bool = False
    gru_width: int = 0
    actor_out_scale: float = 0.01
    init_log_std: float = 0.0
    values: int = 1
    start: Start = "lecun"
    memory: Callable[[], nn.Module] | None = None
    eyes: Callable[[], tuple[nn.Module, nn.Module]] | None = None

    def setup(self):
        scale, start = self.actor_out_scale, self.start
        self.actor = MLP(self.actor_hidden, self.actor_out, self.activation, scale, start=start)
        self.critic = MLP(self.critic_hidden, self.values, self.activation, start=start)
        if self.free_log_std:
            self.log_std = self.param(
                "log_std", nn.initializers.constant(self.init_log_std), (self.actor_out,)
            )
        if self.gru_width:
            self.actor_gru = GRU(self.gru_width)
            self.critic_gru = GRU(self.gru_width)
        if self.memory:
            self.actor_memory, self.critic_memory = self.memory(), self.memory()
        if self.eyes:
            self.actor_eyes, self.critic_eyes = self.eyes()

    def __call__(self, carry, actor_obs: jax.Array, critic_obs: jax.Array, reset: jax.Array):
        if self.eyes:
            actor_obs, critic_obs = self.actor_eyes(actor_obs), self.critic_eyes(critic_obs)
        if self.gru_width:
            actor_carry, actor_obs = self.actor_gru(carry[0], actor_obs, reset)
            critic_carry, critic_obs = self.critic_gru(carry[1], critic_obs, reset)
            carry = (actor_carry, critic_carry)
        if self.memory:
            actor_carry, actor_obs = self.actor_memory(carry[0], actor_obs, reset)
            critic_carry, critic_obs = self.critic_memory(carry[1], critic_obs, reset)
            carry = (actor_carry, critic_carry)
        # One flat batch: XLA on a CPU is far slower on [T, B, d] @ [d, h].
        flat = lambda x: x.reshape(-1, x.shape[-1])
        out = self.actor(flat(actor_obs)).reshape(*reset.shape, -1)
        if self.free_log_std:
            out = jnp.concatenate([out, jnp.broadcast_to(self.log_std, out.shape)], -1)
        shape = reset.shape if self.values == 1 else (*reset.shape, self.values)
        return carry, out, self.critic(flat(critic_obs)).reshape(shape)

    @nn.nowrap
    def init_carry(self, batch: int):
        """The carry of an episode's start; an empty tuple where there is no recurrence."""
        if self.memory:
            return (self.memory().start(batch),) * 2
        return (jnp.zeros((batch, self.gru_width)),) * 2 if self.gru_width else ()
