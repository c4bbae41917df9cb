"""Policies act in Gymnasium's own environments as whoever downloads them would let them act."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.adapters.originals import ORIGINALS, make_original
from envs.registry import GYMNASIUM, TASKS
from experiments import collect
from jaxrl.cli import play, runs
from jaxrl.learners.on_policy import ppo
from jaxrl.originals import evaluate_on_original, play_each
from jaxrl.run import checkpoint
from jaxrl.types import Policy


def alternating(params, carry, obs, key, deterministic):
    """Pushes by the pole's angle, more at every other step: obs and memory both matter."""
    return jnp.clip(params * obs[1:2] + 0.5 * (carry % 2), -3.0, 3.0), carry + 1


PUSH = Policy(jnp.float32(12.0), lambda: jnp.zeros((), jnp.int32), alternating)


def by_hand(seed):
    world = gymnasium.make("InvertedPendulum-v5")
    obs, _ = world.reset(seed=seed)
    total, carry = 0.0, 0
    for length in range(1, 1001):
        action, carry = PUSH.act(carry, obs.astype(np.float32), None)
        obs, reward, terminated, truncated, _ = world.step(np.asarray(action))
        total += reward
        if terminated or truncated:
            return total, length, terminated


def test_making_an_original_prints_no_warning_that_a_user_can_do_nothing_about(capfd):
    """half_cheetah.xml has an attribute that MuJoCo calls deprecated."""
    gymnasium.make("HalfCheetah-v5")
    assert "deprecated" in capfd.readouterr().err
    make_original("half_cheetah")
    assert capfd.readouterr() == ("", "")


def test_every_port_has_an_original_with_its_time_limit():
    ports = {name: task for name, task in TASKS.items() if task.module.startswith(GYMNASIUM)}
    assert ports.keys() == ORIGINALS.keys()
    for name, task in ports.items():
        assert gymnasium.spec(ORIGINALS[name]).max_episode_steps == task.limit


def test_an_episode_is_the_one_that_gymnasium_plays_from_that_seed():
    measured = evaluate_on_original("inverted_pendulum", PUSH, episodes=3, seed=4)
    expected = [by_hand(seed) for seed in (4, 5, 6)]
    assert len({length for _, length, _ in expected}) > 1  # they end one after the other
    np.testing.assert_allclose(measured["return"], [x[0] for x in expected])
    np.testing.assert_array_equal(measured["length"], [x[1] for x in expected])
    assert measured["terminated"].all() and not measured["nonfinite"].any()


@pytest.mark.parametrize("limit, length", [({}, 50), ({"time_limit": 7}, 7)])
def test_the_time_limit_ends_an_episode_without_terminating_it(limit, length):
    still = Policy((), lambda: (), lambda params, carry, obs, key, _: (jnp.zeros(2), carry))
    measured = evaluate_on_original("reacher", still, episodes=2, physics="fast", **limit)
    assert measured["length"].tolist() == [length] * 2 and not measured["terminated"].any()


def test_options_of_the_task_reach_gymnasiums():
    world = make_original("hopper", healthy_z_range=[0.1, 9.0], impl="jax", time_limit=None)
    assert world.unwrapped._healthy_z_range == (0.1, 9.0)
    assert world.spec.max_episode_steps is None


class Breaking(gymnasium.Env):
    """Pays 1, and breaks at the third step if its seed is odd."""

    spec = gymnasium.spec("Reacher-v5")

    def reset(self, *, seed=None, options=None):
        self.odd, self.time = seed % 2, 0
        return np.zeros(2), {}

    def step(self, action):
        self.time += 1
        broken = np.nan if self.odd and self.time == 3 else 0.0
        return np.full(2, broken), 1.0, False, self.time == 5, {}


def test_an_episode_that_broke_is_undefined_and_ends_there():
    still = Policy((), lambda: (), lambda params, carry, obs, key, _: (obs[:1], carry))
    measured = play_each([Breaking(), Breaking()], still)
    np.testing.assert_array_equal(measured["return"], [5.0, np.nan])
    assert measured["nonfinite"].tolist() == [False, True]
    assert measured["length"].tolist() == [5, 3]


def test_an_action_that_is_no_number_breaks_its_episode():
    """MuJoCo would replace it by 0 and go on."""
    act = lambda params, carry, obs, key, _: (jnp.log(obs[1:2]), carry)
    measured = evaluate_on_original("inverted_pendulum", Policy((), lambda: (), act), 6)
    assert measured["nonfinite"].any() and np.isnan(measured["return"][measured["nonfinite"]]).all()


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("push_t", {}, "env='push_t': not a task of Gymnasium; allowed are ant, half_cheetah"),
        ("hopper", {"healthy_range": 1}, "Hopper-v5 has no option 'healthy_range', did you mean"),
        ("hopper", {"episodes": 0}, "episodes=0: must be at least 1"),
        ("hopper", {"seed": -1}, "seed=-1: must be at least 0"),
    ],
)
def test_a_task_or_option_that_gymnasium_has_not_is_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError) as caught:
        evaluate_on_original(name, PUSH, **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_planner_on_mjx_is_refused():
    with pytest.raises(ValueError, match="^policy: plans on MJX's state"):
        evaluate_on_original("hopper", PUSH.replace(sees_state=True))


# --- A run ---


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Two seeds, which differ in how they balance."""
    return saved(tmp_path_factory.mktemp("runs") / "pole", "inverted_pendulum", physics="fast")


def saved(folder, name, **overrides):
    config = ppo.Config(num_envs=2, unroll_length=2, num_minibatches=1, actor_hidden=(4,))
    learner = ppo.make(envs.make(name, **overrides), config)
    train = {"total_steps": 4, "seeds": 2, "seed": 0, "sweep": {}, "num_evals": 1}
    train |= {"eval_episodes": 2, "devices": 1}
    runs.write_config(folder, runs.describe("ppo", name, overrides, config, train))
    like = jax.eval_shape(learner.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def value(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), (2, *x.shape))
        return jnp.asarray(rng.uniform(size=(2, *x.shape)).astype(x.dtype))  # variances, too

    checkpoint.save(folder / "checkpoints", 4, {"learner": jax.tree.map(value, like)})
    return folder


def test_play_shows_the_physics_of_training_beside_gymnasiums(run_dir, monkeypatch, capsys):
    own = {"return": np.full(3, 77.0), "length": np.full(3, 5), "terminated": np.ones(3, bool)}
    monkeypatch.setattr(play, "evaluate", lambda *_: own)
    monkeypatch.setattr(play.jax, "jit", lambda f, **_: f)
    measured = play.play_on_gymnasium(run_dir, episodes=3, seed_index=1)
    policy = runs.load(run_dir).policy(1)
    expected = evaluate_on_original("inverted_pendulum", policy, 3)
    np.testing.assert_array_equal(measured["return"], expected["return"])
    printed = capsys.readouterr().out
    assert "MJX, fast" in printed and "InvertedPendulum-v5" in printed
    (row,) = [line for line in printed.splitlines() if "return" in line]
    assert "77" in row and play.terminal.number(expected["return"].mean()) in row


def test_the_command_refuses_a_task_that_gymnasium_has_not(tmp_path, monkeypatch):
    monkeypatch.setattr(play.runtime, "setup", lambda: None)
    folder = saved(tmp_path, "pendulum_swingup")
    with pytest.raises(ValueError, match="^env='pendulum_swingup': not a task of Gymnasium"):
        play.main([str(folder), "--on", "gymnasium"])
    with pytest.raises(ValueError, match="^video: shows the run's own environment"):
        play.main([str(folder), "--on", "gymnasium", "--video", "film.mp4"])


def test_what_collect_keeps_is_the_mean_of_every_seed(run_dir):
    kept = collect.on_original(run_dir, episodes=2)
    each = [
        evaluate_on_original("inverted_pendulum", runs.load(run_dir).policy(i), 2)["return"].mean()
        for i in range(2)
    ]
    assert kept == {"id": "InvertedPendulum-v5", "episodes": 2, "return": pytest.approx(each)}
    assert each[0] != each[1]


def test_the_table_shows_v5_first_and_says_where_it_is_missing():
    result = {
        "learner": "ppo",
        "env": "hopper",
        "env_overrides": {"physics": "fast"},
        "seconds": 12.0,
        "env_steps": [2_000_000],
        "return": [[10.0, 20.0, 30.0, 40.0]],
        "original": {"id": "Hopper-v5", "episodes": 32, "return": [1.0, 2.0, 4.0, 9.0]},
    }
    bare = result | {"env": "swimmer", "original": None}
    row, missing = collect.table([("ppo", result), ("ppo", bare)]).splitlines()[-2:]
    assert row.startswith("| hopper | ppo | 3.0 |") and "| 1.0 | fast | 25.0 |" in row
    assert missing.startswith("| swimmer | ppo | not measured |  |  | fast | 25.0 |")
    head, _, alone = collect.table([("ppo", bare)]).splitlines()
    assert alone.startswith("| swimmer | ppo | fast | 25.0 |") and "Gymnasium" not in head
