"""General policy composition: one plan of two parents by hand, its ends, the search, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import drawn
from probes import Probe

from jaxrl.learners.imitation import chunks as imitation
from jaxrl.policies.composed import Parent, composed, searched

KEY = jax.random.key(0)
ENV = Probe(length=2.0, split=True, sees_cue=1.0, sees_clock=1.0, pays_goal=1.0, goal=0.3)
SMALL = imitation.Config(hidden=(), horizon=3, execute=2, denoise_steps=2)


def parent(seed=0, **changes):
    """A policy with drawn numbers."""
    config = SMALL.replace(**changes)
    learner = imitation.make(ENV, config)
    state = drawn(jax.eval_shape(learner.init, KEY), seed)
    scale = imitation.Scale(jnp.array([0.1]), jnp.array([0.7]))
    return Parent(config, learner.policy(state.replace(action_scale=scale)))


def constant(action):
    """A flow of one step that leads from any noise to this action: its velocity is action - x."""
    made = parent(denoise_steps=1)
    params = jax.tree.map(jnp.zeros_like, made.policy.params["net"])
    layer = params["params"]["MLP_0"]["Dense_0"]
    tokens = 1 + 2 * 4  # per action: the action and the waves of its level
    first = layer["kernel"].shape[0] - 3 * tokens
    rows = first + tokens * jnp.arange(3)
    kernel = layer["kernel"].at[rows, jnp.arange(3)].set(-1.0)
    bias = jnp.full(3, (action - 0.1) / 0.7)
    params = {"params": {"MLP_0": {"Dense_0": {"kernel": kernel, "bias": bias}}}}
    return Parent(made.config, made.policy.replace(params=made.policy.params | {"net": params}))


def steps(policy, count=4):
    """Actions and plans of a policy that sees a new observation at every step."""
    carry, found = policy.init_carry(), []
    act = jax.jit(policy.act)
    for t in range(count):
        obs = {"cue": jnp.full(1, 0.3 * t), "clock": jax.nn.one_hot(t, 6)}
        action, carry = act(carry, obs, jax.random.key(t))
        found.append((action, carry["plan"]))
    return found


@pytest.mark.parametrize("head", ["flow", "diffusion"])
def test_a_weight_of_1_or_0_is_one_of_the_parents(head):
    """They see other entries of the observation, and other histories."""
    one = parent(1, head=head, obs_keys=("cue",))
    two = parent(2, head=head, history=3)
    for weight, own in ((1.0, one), (0.0, two)):
        for mine, alone in zip(
            steps(composed(ENV, one, two, weight)), steps(own.policy), strict=True
        ):
            np.testing.assert_allclose(mine[0], alone[0], rtol=1e-5)
            np.testing.assert_allclose(mine[1], alone[1], rtol=1e-5)


def test_outputs_are_mixed_at_every_step_of_the_denoising_by_hand():
    one, two = parent(1), parent(2)
    obs = {"cue": jnp.ones(1), "clock": jnp.zeros(6)}
    policy = composed(ENV, one, two, 0.3)
    _, carry = jax.jit(policy.act)(policy.init_carry(), obs, KEY)
    k_plan, _ = jax.random.split(KEY)
    x = jax.random.normal(k_plan, (3, 1))
    predict = jax.jit(imitation.head_of(SMALL, 1).predict)
    for level in (0.0, 0.5):
        speeds = []
        for each in (one, two):
            seen = each.policy.params["obs"].normalize(obs)
            seen = jnp.concatenate([seen["clock"], seen["cue"]])[None]
            speeds.append(predict(each.policy.params["net"], seen, x, jnp.full(3, level)))
        x = x + 0.5 * (0.3 * speeds[0] + 0.7 * speeds[1])
    np.testing.assert_allclose(carry["plan"], jnp.clip(x, -1, 1), atol=1e-5)


def test_the_search_finds_the_weight_between_two_parents():
    """Actions 0.8 and -0.2, and 0.3 is paid: half of each. The return is -(0.2 - 0.5 + w)^2."""
    policy = composed(ENV, constant(0.8), constant(-0.2), 0.0)
    keys = jax.random.split(KEY, 2)
    weights = jnp.array([0.0, 0.25, 0.5, 1.0])
    best, table = searched(ENV, policy, weights, keys, "return")
    assert best == 0.5
    np.testing.assert_allclose(table, -((np.asarray(weights) - 0.5) ** 2), atol=1e-5)
    with pytest.raises(ValueError, match="^metric='success': the task measures cue, length"):
        searched(ENV, policy, weights[:1], keys[:1])


@pytest.mark.parametrize(
    ("changes", "weight", "message"),
    [
        ({}, 1.5, "weight=1.5: must be between 0 and 1"),
        ({"horizon": 4}, 0.5, "horizon=3 and horizon=4: parents must share it"),
        ({"head": "diffusion"}, 0.5, "head='flow' and head='diffusion': parents must share it"),
        ({"denoise_steps": 5}, 0.5, "denoise_steps=2 and denoise_steps=5: parents must share it"),
    ],
)
def test_parents_that_do_not_fit_are_refused(changes, weight, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        composed(ENV, parent(), parent(**changes), weight)


def test_parents_of_other_scales_and_gaussian_ones_are_refused():
    other = parent()
    scale = imitation.Scale(jnp.array([0.0]), jnp.array([0.7]))
    params = other.policy.params | {"action": scale}
    other = Parent(other.config, other.policy.replace(params=params))
    with pytest.raises(ValueError, match="the scales of the parents' actions differ$"):
        composed(ENV, parent(), other)
    gaussian = parent(head="gaussian")
    with pytest.raises(
        ValueError, match="^head='gaussian', mode='open_loop': parents must denoise"
    ):
        composed(ENV, gaussian, gaussian)
    with pytest.raises(ValueError, match="^weights: must be at least one"):
        searched(ENV, gaussian.policy, jnp.zeros(0), jax.random.split(KEY, 1))
