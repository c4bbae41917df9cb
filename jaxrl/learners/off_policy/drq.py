"""SAC from pixels: DrQ (Yarats et al. 2021, "Image Augmentation Is All You Need", arXiv:2004.13649).

Images of a batch are shifted at random by a few pixels. As in DrQ-v2 (Yarats et al. 2022,
arXiv:2107.09645) every sample is shifted once (K = M = 1), and one encoder serves actor and critics:
the critics train it, and the actor sees its features as constants.

Deviations: SAC in place of DrQ-v2's DDPG. A smaller encoder (`jaxrl/nn/pixels.py`), whose last layer is
shared, too. Shifts are whole pixels, and what comes in repeats the border. Targets use a target
encoder, as in DrQ.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from envs.contract import single_agent
from envs.types import Env, Space
from jaxrl.config import Count, Natural, Sizes, config
from jaxrl.learners.off_policy import sac
from jaxrl.loops import off_policy
from jaxrl.loops.algorithm import Algorithm, Batch, Build, Delayed, Obs, UpdateOnBatch
from jaxrl.nn import pixels, spaces
from jaxrl.ops import optim
from jaxrl.types import Learner, Means


@config
class Config(sac.Config):
    """SAC's settings, and the encoder's. `actor_obs=("pixels",)` makes an actor that sees pixels only."""

    shift: Natural = 2  # pixels, at most, in both directions; 0: no augmentation
    channels: Sizes = (16, 32, 32)  # of the convolutions, each of which halves the image
    features: Count = 64  # of an image


def of(space: Space, shapes: Config) -> Build:
    """The method for observations of `space`.

    Raises:
      ValueError: the actor or the critics see no image.
    """
    layouts = Obs(*(pixels.layout(space, keys) for keys in (shapes.actor_obs, shapes.critic_obs)))
    eyes = {
        who: pixels.Eyes(getattr(layouts, who), shapes.channels, shapes.features)
        for who in ("actor", "critic")
    }
    if [image.shape for image in layouts.actor.images] != [i.shape for i in layouts.critic.images]:
        raise ValueError(
            f"actor_obs={shapes.actor_obs}, critic_obs={shapes.critic_obs}: must have the same images"
        )
    if not layouts.actor.images:
        raise ValueError("observation_space: has no image (bytes [H, W, C]); see envs.pixels")

    def shown(encoder: Any, obs: Obs) -> Obs:
        """The actor's observation as features, which are constants for it."""
        features = eyes["actor"].apply(encoder, obs.actor)
        return obs.replace(actor=jax.lax.stop_gradient(features))

    def build(config: Config, actions: spaces.Actions) -> Algorithm:
        size = actions.continuous()
        plain = sac.networks(config, size)  # on features

        def init(key: jax.Array, obs: Obs, config: Config) -> sac.Agent:
            k_encoder, key = jax.random.split(key)
            encoder = eyes["critic"].init(k_encoder, obs.critic)
            features = shown(encoder, obs)
            critic = eyes["critic"].apply(encoder, obs.critic)
            agent = plain.init(key, features.replace(critic=critic), config)
            critic = {"encoder": encoder, "body": agent.critic.params}
            return agent.replace(critic=optim.net(critic, target=True))

        def values(params: Any, obs: Obs, action: jax.Array) -> jax.Array:
            features = eyes["critic"].apply(params["encoder"], obs.critic)
            return plain.values(params["body"], obs.replace(critic=features), action)

        def act(params, memory, obs: Obs, key, deterministic):
            obs = shown(params["encoder"], obs)
            return plain.act(params["actor"], memory, obs, key, deterministic)

        def keeps(agent: sac.Agent) -> dict[str, Any]:
            return {"actor": agent.actor.params, "encoder": agent.critic.params["encoder"]}

        nets = dataclasses.replace(plain, init=init, values=values, act=act)
        return Algorithm(
            init=nets.init,
            update=Delayed(
                augmented(sac.critic_update(nets)), augmented(sac.actor_update(nets, size))
            ),
            act=nets.act,
            keeps=keeps,
        )

    def augmented(update: UpdateOnBatch) -> UpdateOnBatch:
        """`update` on a batch with shifted images, of which the actor sees features."""

        def update_shifted(agent: sac.Agent, batch: Batch, config: Config) -> tuple[Any, Means]:
            def view(obs: Obs, number: int) -> Obs:
                keys = jax.vmap(jax.random.fold_in, (0, None))(batch.key, number)
                move = lambda x, layout: pixels.shifted(
                    x, layout, config.shift, jax.random.clone(keys)
                )
                obs = Obs(move(obs.actor, layouts.actor), move(obs.critic, layouts.critic))
                return shown(agent.critic.params["encoder"], obs)

            seen = batch.replace(obs=view(batch.obs, 2), next_obs=view(batch.next_obs, 3))
            return update(agent, seen, config)

        return update_shifted

    return build


def make(env: Env, config: Config, prior: Any = None) -> Learner:
    """DrQ on `env`.

    Args:
      env, prior: as for `jaxrl.learners.off_policy.sac.make`. Observations have an image: an entry of
        bytes [H, W, C], such as those of `envs.transforms.pixels`.
      config: see `Config`.

    Raises:
      ValueError: as for `jaxrl.learners.off_policy.sac.make`, or no image.
    """
    env = single_agent(env)
    return off_policy.online(env, config, of(env.observation_space, config), prior)
