"""Environments with an agent axis: batching, restarts, transforms, reports, and who refuses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Pair
from toys import rollout

from envs import check, vectorize
from envs.adapters.gymnasium import to_gymnasium, to_gymnasium_vector
from envs.transforms import action_repeat, delay, history, noise, residual, time_limit
from envs.types import sample_actions
from jaxrl.episodes import evaluate
from jaxrl.learners.imitation import chunks
from jaxrl.learners.off_policy import sac
from jaxrl.learners.offline import bc
from jaxrl.learners.on_policy import dpo, ppo, reinflow, reppo
from jaxrl.learners.safe import ppo_lagrangian
from jaxrl.types import Policy

KEY = jax.random.key(0)
N, T = 6, 8
ENV = Pair(length=3.0, pays_own=1.0, pays_team=0.5)
FOLLOW = Policy(
    (), lambda: (), lambda p, carry, obs, key, d: ((obs["obs"][:, 0] > 0).astype(jnp.int32), carry)
)


@pytest.fixture(scope="module")
def run():
    keys = jax.random.split(KEY, (T, N))
    actions = jax.vmap(jax.vmap(lambda key: sample_actions(ENV, key)))(keys)
    assert actions.shape == (T, N, 2) and actions.dtype == jnp.int32
    return rollout(vectorize(ENV, N), KEY, actions), np.asarray(actions)


def test_rewards_are_per_agent_and_flags_per_environment(run):
    run, actions = run
    cue = np.asarray(run.obs["obs"][:-1, ..., 0])
    same = actions[..., :1] == actions[..., 1:]
    expected = 1.0 * (2 * actions - 1 == cue) + 0.5 * same
    np.testing.assert_array_equal(run.now.reward[1:], expected)
    np.testing.assert_array_equal(
        run.now.terminated[1:], np.arange(1, T + 1)[:, None] % 3 == [0] * N
    )


def test_the_return_of_an_episode_is_that_of_the_mean_agent(run):
    run, _ = run
    team = np.asarray(run.now.reward).mean(-1)
    for t in (3, 6):
        np.testing.assert_allclose(run.episode_return[t], team[t - 2 : t + 1].sum(0), rtol=1e-6)


def test_evaluation_has_the_closed_form_return():
    """Following one's cue earns 1, and 0.5 more where the cues are the same."""
    keys = jax.random.split(KEY, 8)
    cues = np.stack([ENV.reset(key).obs["state"] for key in keys])
    expected = 3 * (1.0 + 0.5 * (cues[:, 0] == cues[:, 1]))
    np.testing.assert_allclose(evaluate(ENV, FOLLOW, keys)["return"], expected)


def test_a_broken_step_pays_no_agent():
    class Breaks(Pair):
        def step(self, state, action):
            new = super().step(state, action)
            return new.replace(reward=jnp.where(action[0] == 1, jnp.nan, new.reward))

    vec = vectorize(Breaks(), 2)
    state = vec.step(vec.reset(KEY), jnp.array([[1, 0], [0, 0]]))
    np.testing.assert_array_equal(state.nonfinite, [True, False])
    assert state.now.reward.shape == (2, 2) and (np.asarray(state.now.reward[0]) == 0).all()


def test_transforms_keep_the_agent_axis():
    env = noise(delay(time_limit(ENV, 5), 1, 2), obs_std={"obs": 0.1}, reward_std=0.1)
    env = history(action_repeat(env, 2), 2)
    check(env)
    state = env.step(env.reset(KEY), jnp.zeros(2, jnp.int32))
    assert state.reward.shape == (2,) and state.obs["obs"].shape == (2, 2)
    assert state.obs["mask"].shape == (2, 2) and state.obs["alive"].dtype == bool


@pytest.mark.parametrize(
    "use",
    [
        lambda: ppo.make(ENV, ppo.Config()),
        lambda: dpo.make(ENV, dpo.Config()),
        lambda: ppo_lagrangian.make(ENV, ppo_lagrangian.Config()),
        lambda: reinflow.make(ENV, reinflow.Config()),
        lambda: reppo.make(ENV, reppo.Config()),
        lambda: sac.make(ENV, sac.Config()),
        lambda: bc.make(ENV, bc.Config(), None),
        lambda: chunks.make(ENV, chunks.Config()),
        lambda: to_gymnasium(ENV),
        lambda: to_gymnasium_vector(ENV, 2),
        lambda: residual(ENV, FOLLOW),
    ],
)
def test_what_acts_for_one_agent_refuses_in_one_line(use):
    with pytest.raises(ValueError, match="^num_agents=2: this acts for one agent without an agent"):
        use()
