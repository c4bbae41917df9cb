"""Learning from images: what trains the encoder, what is stored, and a cue that only pictures show."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import batch_of
from probes import PICTURES, Lamp, Probe, assert_same, differ

from envs.transforms import pixels
from envs.types import Box
from jaxrl.data import replay
from jaxrl.learners.off_policy import drq
from jaxrl.learners.on_policy import ppo
from jaxrl.loops.algorithm import Obs, flatten
from jaxrl.nn import spaces

KEY = jax.random.key(0)
SHAPE = dict(actor_hidden=(8,), critic_hidden=(8,))
TINY = drq.Config(
    **SHAPE,
    channels=(4,),
    features=4,
    shift=1,
    num_envs=8,
    unroll_length=2,
    updates_per_step=4,
    batch_size=32,
    replay_size=8 * 64,
    learning_starts=32,
    actor_lr=1e-2,
    critic_lr=1e-2,
    init_alpha=1e-3,
    alpha_lr=0.0,
    tau=0.1,
    actor_obs=("pixels",),
)
# One step, whose best action is half of the cue, and only the picture tells the cue.
CUE = pixels(Lamp(length=1.0, pays_goal=1.0, goal_cue=0.5), 4)


@functools.cache
def built():
    """The method, an agent and four samples of random pictures."""
    config = jax.tree.map(jnp.asarray, TINY)
    algorithm = drq.of(PICTURES.observation_space, TINY)(TINY, spaces.actions(Box((1,), -1, 1)))
    rng = np.random.default_rng(0)

    def obs():
        picture = rng.integers(0, 256, (4, 4, 4, 3)).astype(np.uint8)
        raw = {"pixels": jnp.asarray(picture), "state": jnp.asarray(rng.normal(size=(4, 7)))}
        return flatten(TINY, None, raw, 1)

    batch = batch_of(np.zeros(4), np.zeros((4, 1)), np.ones(4), np.zeros(4), np.full(4, 0.9))
    batch = batch.replace(obs=obs(), next_obs=obs())
    agent = algorithm.init(KEY, jax.tree.map(lambda x: x[:1], batch.obs), config)
    return algorithm, agent, batch, config


def test_critics_train_the_encoder_and_the_actor_does_not():
    algorithm, agent, batch, config = built()
    update = algorithm.update
    after, _ = jax.jit(update.critic)(agent, batch, config)
    assert differ(after.critic.params["encoder"], agent.critic.params["encoder"])
    assert_same(after.actor, agent.actor)
    after, _ = jax.jit(update.actor)(agent, batch, config)
    assert_same(after.critic, agent.critic)
    assert differ(after.actor.params, agent.actor.params)


def test_the_actor_sees_pictures_only_and_through_the_critics_encoder():
    algorithm, agent, batch, _ = built()
    obs = jax.tree.map(lambda x: x[0], batch.obs)
    assert obs.actor.shape == (48,) and obs.critic.shape == (48 + 7,)
    act = lambda agent, obs: float(algorithm.act(algorithm.keeps(agent), (), obs, KEY, False)[0][0])
    action = act(agent, obs)
    assert act(agent, Obs(obs.actor, obs.critic * jnp.nan)) == action
    assert act(agent, obs.replace(actor=1.0 - obs.actor)) != action
    blind = jax.tree.map(jnp.zeros_like, agent.critic.params["encoder"])
    critic = agent.critic.replace(params=agent.critic.params | {"encoder": blind})
    assert act(agent.replace(critic=critic), obs) != action


def test_the_replay_holds_bytes():
    state = jax.eval_shape(drq.make(PICTURES, TINY).init, KEY)
    held = state.replay.steps.obs["pixels"]
    assert held.dtype == jnp.uint8 and held.shape == (64, 8, 4, 4, 3)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), state.replay.steps)
    # Two pictures, two states, action, reward and three flags.
    assert replay.num_bytes(one, 64, 8) == 64 * 8 * (2 * 48 + 2 * 28 + 4 + 4 + 3)


def chosen(learner, state):
    """The actions for the cues -1 and 1."""
    policy = learner.policy(state)
    actions = []
    for cue in (-1.0, 1.0):
        first = CUE.reset(KEY)
        seen = first.replace(data=first.data.replace(cue=jnp.asarray(cue)))
        obs = {"state": first.obs["state"], "pixels": CUE.draw(seen, 4, 4)}
        actions.append(float(policy.act(policy.init_carry(), obs, KEY)[0][0]))
    return actions


def trained(learner, iterations):
    step = lambda _, state: learner.step(state)[0]
    run = jax.jit(lambda key: jax.lax.fori_loop(0, iterations, step, learner.init(key)))
    return chosen(learner, run(KEY))


def test_drq_learns_a_cue_that_only_the_picture_shows():
    assert trained(drq.make(CUE, TINY), 100) == pytest.approx([-0.5, 0.5], abs=0.15)


def test_ppo_learns_a_cue_that_only_the_picture_shows():
    config = ppo.Config(
        **SHAPE,
        num_envs=64,
        unroll_length=1,
        num_minibatches=2,
        learning_rate=1e-2,
        actor_obs=("pixels",),
        critic_obs=("state",),
    )
    assert trained(ppo.make(CUE, config), 100) == pytest.approx([-0.5, 0.5], abs=0.2)


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (Probe(), {"actor_obs": ()}, "^observation_space: has no image"),
        (PICTURES, {"critic_obs": ("state",)}, "^actor_obs=.*critic_obs=.*the same images"),
    ],
)
def test_an_observation_without_images_is_refused(env, changes, message):
    with pytest.raises(ValueError, match=message):
        drq.make(env, TINY.replace(**changes))
