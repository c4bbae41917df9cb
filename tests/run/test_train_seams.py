"""What can be replaced in `train`: where runs begin, how they are measured, what happens between."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, assert_same, differ
from test_train import CONFIG, ENV, LEARNER, PER, TOTAL, go

from jaxrl.episodes import evaluate
from jaxrl.learners.on_policy import ppo
from jaxrl.run import checkpoint, program

SHORT = 4 * PER


@pytest.fixture(scope="module")
def trained():
    return go(total=SHORT, seeds=2)


# --- start ---


def test_runs_begin_from_the_states_that_are_given(trained):
    again = go(total=SHORT, seeds=2, start=trained.state)
    assert_same(again.evals[0]["return"], trained.evals[-1]["return"])
    assert int(again.state.iteration[0]) == 8


def test_a_function_of_one_run_begins_it_with_another_policy(trained):
    """As online learning begins from an offline policy, which it equals at step 0."""
    params = jax.tree.map(lambda x: x[1], trained.state.params)
    moments = jax.tree.map(lambda x: x[1], trained.state.obs_moments)

    def start(key, config):
        return LEARNER.init(key, config).replace(params=params, obs_moments=moments)

    result = go(total=PER, num_evals=1, start=start, seed=7)
    assert result.evals[0]["return"][0] == trained.evals[-1]["return"][1]


def test_a_state_of_another_shape_is_refused_by_name(trained):
    with pytest.raises(ValueError, match=r"start: .* must be .*\[1\b"):
        go(total=SHORT, start=trained.state)
    with pytest.raises(ValueError, match="start: is not a state of this learner"):
        go(total=SHORT, start={"params": 1})


# --- evaluate ---


def test_an_evaluation_of_ones_own_gives_a_regret_curve():
    """One step, paid -(action - 0.5)^2: the regret of the mode is known exactly."""
    env = Probe(pays_goal=1.0, goal=0.5)
    learner = ppo.make(env, CONFIG.replace(learning_rate=1e-2))

    def regret(learner, state, keys):
        policy = learner.policy(state)
        act = lambda key: policy.act(policy.init_carry(), env.reset(key).obs, key)[0][0]
        return {"regret": (jax.vmap(act)(keys) - 0.5) ** 2, "iteration": state.iteration}

    result = go(learner=learner, total=10 * learner.steps_per_iteration, seeds=2, evaluate=regret)
    curve = np.array([e["regret"] for e in result.evals])
    assert curve.shape == (4, 2) and set(result.evals[0]) == {"env_steps", "regret", "iteration"}
    assert (curve[-1] < 0.3 * curve[0]).all()
    np.testing.assert_array_equal(result.evals[-1]["iteration"], [10, 10])


# --- hooks ---


def test_hooks_look_after_every_line_of_metrics_and_may_replace_the_state():
    seen = []

    def stopped_clock(look):
        seen.append((look.env_steps, look.metrics["episode_return"].shape, len(look.evals)))
        if look.env_steps == 6 * PER:
            return look.state.replace(iteration=jnp.zeros_like(look.state.iteration))

    result = go(hooks=[stopped_clock])
    assert seen == [(6 * PER, (1,), 2), (12 * PER, (1,), 3)]
    assert int(result.state.iteration[0]) == 6  # of 12, the first 6 forgotten


# --- Sweeps over numbers of the environment ---


def test_a_sweep_over_a_number_of_the_environment_equals_separate_runs():
    make = lambda env: ppo.make(env, CONFIG)
    goals = [0.8, -0.3]
    swept = go(total=SHORT, sweep={"env.goal": goals}, make=make, num_evals=1)
    assert swept.evals[-1]["return"].shape == (2, 1)
    for i, goal in enumerate(goals):
        alone = go(learner=make(ENV.replace(goal=goal)), total=SHORT, num_evals=1)
        of_run = jax.tree.map(lambda x, i=i: x[i : i + 1], swept.state)
        assert_same(of_run.params, alone.state.params, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            swept.evals[-1]["return"][i], alone.evals[-1]["return"], rtol=1e-3, atol=1e-4
        )
    assert differ(*(jax.tree.map(lambda x, i=i: x[i], swept.state.params) for i in (0, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweep": {"env.goal": [1.0]}}, "needs make="),
        ({"sweep": {"env.nothing": [1.0]}}, r"the numbers of this environment are .*goal"),
    ],
)
def test_what_cannot_be_swept_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        go(total=SHORT, **options)


# --- Stopping and keeping ---


def test_a_run_ends_where_its_return_is_reached_and_is_not_interrupted():
    result = go(stop_at_return=-1e9)
    assert result.env_steps == 0 and not result.interrupted
    result = go(stop_at_return=1e9)
    assert result.env_steps == TOTAL


def test_the_checkpoint_of_the_best_return_stays(tmp_path):
    scored = lambda learner, state, keys: {"return": jnp.where(state.iteration == 4, 5.0, 1.0)}
    go(tmp_path, evaluate=scored, keep_checkpoints=1, keep_best=True)
    assert checkpoint.steps(tmp_path / "checkpoints") == [4 * PER, 12 * PER]


# --- Broken runs ---


@dataclasses.dataclass(frozen=True)
class Planted:
    """`LEARNER`, whose parameters of run `which` turn NaN after the first evaluation."""

    which: tuple[int, ...]

    def __call__(self, look):
        spoil = lambda x: x.at[jnp.array(self.which)].set(jnp.nan)
        return look.state.replace(params=jax.tree.map(spoil, look.state.params))


def test_non_finite_parameters_end_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    with pytest.raises(RuntimeError, match=rf"parameters are not finite.* {4 * PER} steps is the"):
        go(tmp_path, hooks=[Planted((0,))])
    assert checkpoint.steps(tmp_path / "checkpoints") == [4 * PER]


def test_a_broken_run_is_undefined_and_the_others_go_on(capsys):
    result = go(seeds=2, hooks=[Planted((1,))], quiet=False)
    returns = result.evals[-1]["return"]
    assert np.isfinite(returns[0]) and np.isnan(returns[1])
    said = capsys.readouterr().out
    assert said.count("warning: the parameters are not finite in run 1") == 1


def test_a_simulation_that_always_breaks_ends_the_run_with_advice():
    env = ENV.replace(plant=jnp.inf, plant_at=0.0, pays=jnp.nan)
    found = r"\((obs\[0\] is inf|reward is nan) after \w+"
    with pytest.raises(
        RuntimeError, match=f"all steps broke the simulation {found}.*no checkpoint"
    ):
        go(learner=ppo.make(env, CONFIG), num_logs=12)


def test_a_slow_compilation_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(program, "SLOW_SECONDS", 0.0)
    go(quiet=False)
    assert capsys.readouterr().out.count("still compiling after 0 s: large models") == 1


def test_a_share_of_broken_steps_is_shown_and_warned_of(capsys):
    env = ENV.replace(plant=jnp.nan, plant_at=1.0)  # where the cue is 1: half of all episodes
    result = go(learner=ppo.make(env, CONFIG), quiet=False)
    said = capsys.readouterr().out
    assert "of steps broke the simulation" in said and "broken steps" in said
    last = result.evals[-1]
    assert 0.0 < last["nonfinite"][0] < 1.0 and np.isfinite(last["return"]).all()


def test_a_broken_episode_is_undefined():
    env = ENV.replace(plant=jnp.nan, plant_at=1.0)
    policy = LEARNER.policy(LEARNER.init(jax.random.key(0)))
    episodes = evaluate(env, policy, jax.random.split(jax.random.key(1), 8))
    assert episodes["nonfinite"].any() and not episodes["nonfinite"].all()
    np.testing.assert_array_equal(np.isnan(episodes["return"]), episodes["nonfinite"])
    np.testing.assert_array_equal(np.isnan(episodes["reward_paid"]), episodes["nonfinite"])
