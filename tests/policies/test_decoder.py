"""A latent action: the identity is the plain environment; a flow's noise makes its own action."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from by_hand import drawn
from probes import Probe, assert_same

from envs.transforms.latent import latent
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.policies.decoder import Decoder, noise_decoder, steered

KEY = jax.random.key(0)
ENV = Probe(length=3.0, pays_goal=1.0, goal=0.5, sees_cue=1.0, sees_clock=1.0, bound=2.0)
CONFIG = imitation.Config(hidden=(), horizon=1, execute=1, denoise_steps=2)
IDENTITY = Decoder((), lambda params, obs, z: z, 1)


def trained():
    learner = imitation.make(ENV, CONFIG)
    return learner.policy(drawn(jax.eval_shape(learner.init, KEY)))


def test_the_identity_is_the_plain_environment_bit_for_bit():
    env, step = latent(ENV, IDENTITY), jax.jit(lambda env, state, a: env.step(state, a))
    plain, mine = ENV.reset(KEY), env.reset(KEY)
    for action in (0.3, -0.8, 1.0):
        action = jnp.full(1, action)
        plain, mine = step(ENV, plain, action), step(env, mine, action)
        assert_same(mine.replace(info=plain.info), plain)


def test_the_noise_of_a_sample_gives_the_sample_and_other_parameters_no_new_program():
    policy = trained()
    env, traces = steered(ENV, CONFIG, policy, magnitude=4.0), []

    @jax.jit
    def reward(env, state, action):
        traces.append(1)
        return env.step(state, action).reward

    # At its last step the task pays -(action - 0.5)^2.
    state = env.reset(KEY)
    state = state.replace(data=state.data.replace(t=jnp.asarray(2.0)))
    k_plan, _ = jax.random.split(KEY)
    noise = jax.random.normal(k_plan, (1, 1))[0]
    sample, _ = jax.jit(policy.act)(policy.init_carry(), state.obs, KEY)
    for scale in (1.0, 0.5):
        params = policy.params | {
            "net": jax.tree.map(lambda x, s=scale: s * x, policy.params["net"])
        }
        decoder = env.decoder.replace(params=params)
        found = reward(env.replace(decoder=decoder), state, noise / 4.0)
        if scale == 1.0:
            expected = -((float(sample[0]) - 0.5) ** 2)
        else:
            expected = -((float(decoder.decode(state.obs, noise)[0]) - 0.5) ** 2)
        assert float(found) == pytest.approx(expected, rel=1e-4)
    assert len(traces) == 1


def test_what_does_not_fit_is_refused():
    policy = trained()
    with pytest.raises(ValueError, match="^horizon=4: must be 1"):
        noise_decoder(ENV, CONFIG.replace(horizon=4), policy)
    with pytest.raises(ValueError, match="^head='gaussian', mode='open_loop': a decoder of noise"):
        noise_decoder(ENV, CONFIG.replace(head="gaussian"), policy)
    with pytest.raises(ValueError, match="^magnitude=0.0: must be above 0"):
        latent(ENV, IDENTITY, 0.0)
    with pytest.raises(ValueError, match=r"^latent: the decoder's actions have shape \(2,\)"):
        latent(ENV, IDENTITY.replace(size=2))
    with pytest.raises(ValueError, match="^latent: the decoder cannot decode"):
        latent(ENV, SimpleNamespace(size=1, decode=lambda obs, z: obs @ z[:0]))
