"""PPO whose actor and critic are transformers over the last steps of the episode, in place of a GRU.

A small `Context` (`jaxrl/nn/layers.py`) each, of which an MLP reads the newest token. It forgets what
is older than `context` steps, and gradients reach no further. A minibatch is a set of whole unrolls.
Memories at the start of an unroll are those of its collection, as PPO's GRU has them.
"""

from __future__ import annotations

from functools import partial

from envs.contract import single_agent
from envs.types import Env
from jaxrl.config import Count, config
from jaxrl.learners.on_policy import ppo
from jaxrl.loops import on_policy
from jaxrl.nn.layers import Context
from jaxrl.types import Learner


@config
class Config(ppo.Config):
    """PPO's settings, and the transformers'. `gru_width` stays 0."""

    context: Count = 16  # steps that a policy looks at, the present one included
    width: Count = 64  # of a token
    layers: Count = 1
    attention_heads: Count = 2

    @property
    def recurrent(self) -> bool:
        return True

    def rules(self) -> None:
        super().rules()
        if self.gru_width:
            raise ValueError(f"gru_width={self.gru_width}: must be 0, the transformer remembers")
        if self.width % self.attention_heads:
            raise ValueError(
                f"width={self.width}: must be a multiple of attention_heads={self.attention_heads}"
            )


def make(env: Env, config: Config) -> Learner:
    """PPO with transformers on `env`; see `jaxrl.learners.on_policy.ppo.make`."""
    env = single_agent(env)
    memory = partial(Context, config.context, config.width, config.layers, config.attention_heads)
    nets = ppo.networks(env, config, memory=memory)
    return on_policy.make(env, config, *nets, ppo.clipped, ppo.clipped_value)
