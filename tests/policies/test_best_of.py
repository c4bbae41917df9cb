"""Best-of-N on frozen policies: what is chosen and when, one sample, plans, NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import drawn
from probes import Probe

from envs.types import Box
from jaxrl.learners.imitation.chunks import Scale
from jaxrl.learners.off_policy import sac
from jaxrl.nn import heads
from jaxrl.ops.moments import Moments
from jaxrl.policies import chunks
from jaxrl.policies.best_of import Value, best_of_n, critic_value
from jaxrl.types import Policy

KEY = jax.random.key(0)
SPACE = Box((2,), -2.0, 2.0)
HORIZON, EXECUTE, SIZE = 3, 2, 2


def normal():
    """A policy that samples a normal action around the observation and remembers it."""

    def apply(params, carry, obs, key, deterministic):
        action = params + obs + jnp.where(deterministic, 0.0, jax.random.normal(key, (2,)))
        return action, action

    return Policy(jnp.asarray(0.5), lambda: jnp.zeros(2), apply)


FIRST = Value(jnp.asarray(1.0), lambda sign, obs, actions: sign * actions[:, 0])


def samples(n, key, obs=0.0):
    """The candidates of `best_of_n(normal(), ..., n)`."""
    keys = jax.random.split(jax.random.split(key)[0], n)
    return np.asarray(jax.vmap(lambda k: normal().act(jnp.zeros(2), obs, k, False)[0])(keys))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_sample_of_the_highest_value_is_carried_out_with_its_own_carry(sign):
    policy = best_of_n(normal(), FIRST.replace(params=jnp.asarray(sign)), 5)
    action, carry = policy.act(policy.init_carry(), 1.0, KEY, True)
    of_all = samples(5, KEY, 1.0)
    np.testing.assert_allclose(action, of_all[(sign * of_all[:, 0]).argmax()], rtol=1e-6)
    np.testing.assert_array_equal(carry, action)
    assert len(np.unique(of_all)) == 10  # candidates differ


def test_one_sample_is_the_base_bit_for_bit():
    policy, base = best_of_n(normal(), FIRST, 1), normal()
    for mine, own in zip(
        policy.act(policy.init_carry(), 1.0, KEY),
        base.act(jnp.zeros(2), 1.0, KEY, False),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, own)


def test_a_high_temperature_draws_every_sample():
    draw = lambda t: best_of_n(normal(), FIRST, 2, t)
    keys = jax.random.split(KEY, 200)
    chosen = lambda p: jax.vmap(lambda k: p.act(p.init_carry(), 0.0, k)[0][0])(keys)
    best = jax.vmap(lambda k: jax.random.split(jax.random.split(k)[0], 2))(keys)
    of_all = jax.vmap(jax.vmap(lambda k: normal().act(jnp.zeros(2), 0.0, k, False)[0][0]))(best)
    np.testing.assert_allclose(chosen(draw(0.0)), of_all.max(1), rtol=1e-6)
    share = float((chosen(draw(1e3)) == of_all.max(1)).mean())
    assert share == pytest.approx(0.5, abs=0.12)


def test_a_sample_that_is_not_finite_is_never_carried_out():
    def apply(params, carry, obs, key, deterministic):
        x = jax.random.normal(key, (2,))
        return jnp.where(x > 1.5, jnp.nan, x), carry

    policy = best_of_n(Policy((), lambda: (), apply), FIRST, 8)
    act = jax.vmap(lambda k: policy.act((), 0.0, k)[0])
    assert jnp.isfinite(act(jax.random.split(KEY, 50))).all()


def test_no_samples_and_a_negative_temperature_are_refused():
    with pytest.raises(ValueError, match="^n=0: must be a whole number, at least 1"):
        best_of_n(normal(), FIRST, 0)
    with pytest.raises(ValueError, match="^temperature=-1.0: must be at least 0"):
        best_of_n(normal(), FIRST, 2, -1.0)


# --- Plans ---


def chunk_policy():
    """A flow that draws plans of three actions and carries out two of each."""
    head = heads.denoising(heads.FLOW, heads.FlatTrunk((), SIZE), HORIZON, SIZE, 2, False)
    carry, apply = chunks.chunked(
        head,
        SPACE,
        1,
        obs_keys=(),
        history=1,
        horizon=HORIZON,
        execute=EXECUTE,
        mode="open_loop",
    )
    shapes = jax.eval_shape(head.init, KEY, jnp.zeros((1, 1)))
    params = {
        "net": drawn(shapes),
        "obs": Moments(jnp.ones(()), jnp.zeros(1), jnp.ones(1)),
        "action": Scale(jnp.array([0.1, 0.0]), jnp.array([0.5, 1.0])),
    }
    return Policy(params, carry, apply)


def test_a_plan_is_chosen_when_it_is_made_and_carried_out_to_its_end():
    """The value is that of the second action of a plan, in the environment's units."""
    second = Value((), lambda _, obs, plans: plans[:, 1, 0])
    base = chunk_policy()
    policy = best_of_n(base, second, 4, plan=chunks.planned(SPACE, EXECUTE))
    act = jax.jit(policy.act)
    carry, obs = policy.init_carry(), jnp.zeros(1)
    first, carry = act(carry, obs, KEY)
    keys = jax.random.split(jax.random.split(KEY)[0], 4)
    plans = [base.act(base.init_carry(), obs, k, False)[1]["plan"] for k in keys]
    units = [np.clip(0.1 + 0.5 * float(p[1, 0]), -1, 1) * 2 for p in plans]
    np.testing.assert_allclose(carry["plan"], plans[int(np.argmax(units))], rtol=1e-4)
    again, after = act(carry, obs, jax.random.key(1))
    np.testing.assert_array_equal(after["plan"], carry["plan"])  # other keys, the same plan
    assert float(again[0]) == pytest.approx(max(units), rel=1e-4)
    _, new = act(after, obs, jax.random.key(2))
    assert (new["plan"] != carry["plan"]).any() and int(new["age"]) == 1


# --- A learner's critic ---


def test_a_learners_value_is_its_least_target_critic_of_normalised_inputs():
    env = Probe(bound=4.0)
    config = sac.Config(critic_hidden=(), num_critics=2, normalize_obs=True)
    learner = sac.make(env, config.replace(num_envs=2, replay_size=8, learning_starts=2))
    state = drawn(jax.eval_shape(learner.init, KEY))
    value = critic_value(env, config, state)
    obs = jnp.arange(7.0)
    actions = jnp.array([[4.0], [-2.0]])
    found = value.apply(value.params, obs, actions)
    seen = np.asarray(state.obs_moments.normalize(obs))
    layer = state.agent.critic.target["params"]["VmapMLP_0"]["Dense_0"]
    each = lambda a: [
        float(np.append(seen, a) @ k[:, 0] + b[0])
        for k, b in zip(np.asarray(layer["kernel"]), np.asarray(layer["bias"]), strict=True)
    ]
    np.testing.assert_allclose(found, [min(each(1.0)), min(each(-0.5))], rtol=1e-4)
