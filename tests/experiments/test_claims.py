"""What the claim scripts share."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from probes import Probe

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "experiments/claims")]

import collect  # noqa: E402
import common  # noqa: E402

import envs  # noqa: E402
from jaxrl.data import recording  # noqa: E402
from jaxrl.learners.off_policy import sac  # noqa: E402
from jaxrl.learners.on_policy import ppo  # noqa: E402
from jaxrl.policies.scripted import scripted  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")


def learner():
    config = ppo.Config(num_envs=8, unroll_length=2, actor_hidden=(4,), critic_hidden=(4,))
    return ppo.make(Probe(pays=1.0), config)


def test_a_measurement_is_kept_whole_and_not_made_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options = dict(seeds=2, num_evals=1, eval_episodes=2, learner_name="ppo")
    assert common.measure("c", "probe", "a", learner, 32, **options) is not None
    assert common.measure("c", "probe", "a", learner, 32, **options) is None
    common.measure("c", "probe", "b", learner, 32, **options)
    first, second = common.load("c")
    assert first["steps"] == [0, 32] and np.shape(first["values"]) == (2, 2)
    assert first["values"][-1] == [1.0, 1.0] and second["variant"] == "b"
    monkeypatch.setitem(collect.CLAIMS, "c", (("a", "b"),))
    common.report("c", "title")
    printed = capsys.readouterr().out
    assert "probe" in printed and "inconclusive" in printed


def test_an_entry_of_other_settings_is_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options = dict(seeds=2, num_evals=1, eval_episodes=2, learner_name="ppo", about={"scale": 0.5})
    common.measure("c", "probe", "a", learner, 32, **options)
    entries = common.load("c")
    del entries[0]["config"]["init_log_std"]  # as if the setting were newer: it has its default
    common.save("c", entries)
    common.measure("c", "probe", "a", learner, 32, **options)
    bolder = lambda: ppo.make(Probe(pays=1.0), learner().config.replace(init_log_std=-1.0))
    for make, steps, change, words in (
        (learner, 64, {}, "total_steps=32, now 64"),
        (learner, 32, {"seeds": 3}, "seeds=2, now 3"),
        (learner, 32, {"about": {"scale": 0.3}}, r"scale=0\.5, now 0\.3"),
        (bolder, 32, {}, r"init_log_std=0\.0, now -1\.0"),
    ):
        with pytest.raises(ValueError, match=f"probe, a: kept with {words}; delete"):
            common.measure("c", "probe", "a", make, steps, **(options | change))


def test_the_readme_s_table_shows_what_the_claim_is_about(tmp_path, monkeypatch):
    entry = lambda variant, values: {
        "task": "maze",
        "variant": variant,
        "values": [[0.0] * 5, values],
        "steps": [0, 10],
    }
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    seeds = [0.8, 0.9, 0.9, 0.9, 1.0]
    common.save("rlpd_sparse", [entry("rlpd", seeds), entry("bc", [0.4] * 5)])
    rows = collect.claims_table(tmp_path).splitlines()[2:]
    *unmeasured, row = [row for row in rows if "rlpd_sparse" in row]
    assert "| 0.9 (0.8 .. 1) | bc | 0.4 (0.4 .. 0.4) | +0.4" in row and "| holds | 5 |" in row
    cells = lambda row: [cell.strip() for cell in row.split("|")]
    assert [cells(r)[5] for r in unmeasured] == ["sac", "sac with RLPD's critics"]
    assert {row.split(" | ")[0].strip("| ") for row in rows} == set(collect.CLAIMS)
    assert sum("not run" in row for row in rows) == len(collect.CLAIMS) - 1 + 2


def test_a_claim_that_does_not_say_what_it_compares_is_named():
    with pytest.raises(ValueError, match=r"mine: say in experiments/collect\.py"):
        collect.compared("mine", [])


def test_not_worse_by_more_than_a_share(tmp_path, monkeypatch):
    entry = lambda variant, value: {
        "task": "t", "variant": variant, "values": [[value] * 5], "steps": [10]
    }  # fmt: skip
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    for value, word in ((96.0, "holds"), (94.0, "does not hold")):
        common.save("mdpo", [entry("mdpo, on policy", value), entry("ppo", 100.0)])
        (row,) = [r for r in collect.claims_table(tmp_path).splitlines() if "ppo less" in r]
        assert f"| {value:g} ({value:g} .. {value:g}) | ppo less 5% | 95 (" in row
        assert f"| {word} |" in row


def claim(name: str):
    """The script of that claim; scripts elsewhere have the same names."""
    spec = importlib.util.spec_from_file_location(
        f"claim_{name}", ROOT / f"experiments/claims/{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_ppo_from_a_clone_begins_with_what_was_shown():
    env = envs.make("point_maze_open")
    demos = recording.record(scripted(env), env, 16, jax.random.key(0))
    config = ppo.Config(num_envs=8, unroll_length=2, actor_hidden=(32,), critic_hidden=(4,))
    learner = ppo.make(env, config.replace(distribution="normal"))
    steps = demos.steps_for(env)
    shown = jax.tree.map(lambda x: x[:, 0], steps.obs)

    def error(learner):
        policy = learner.policy(learner.init(jax.random.key(1), config))
        act = lambda obs: policy.act(policy.init_carry(), obs, jax.random.key(0))[0]
        return float(((jax.vmap(act)(shown) - steps.action[:, 0]) ** 2).mean())

    assert error(claim("residual").cloned(learner, demos, 500)) < 0.3 * error(learner)


def test_steps_to_a_success_are_those_of_the_first_evaluation_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    entry = lambda variant, steps, values: dict(
        task="peg",
        variant=variant,
        metric="success",
        seeds=2,
        seconds=1,
        steps=steps,
        values=values,
    )
    slow = entry("residual PPO", [0, 500, 1000], [[0.0, 0.0], [0.95, 0.0], [0.5, 0.8]])
    fast = entry("residual SAC", [0, 50, 100], [[0.0, 0.91], [0.9, 1.0], [1.0, 1.0]])
    common.save("residual", [slow, fast])
    claim("residual").steps_to_reach("peg")
    last = {e["variant"]: e["values"][-1] for e in common.load("residual")}
    assert last["residual PPO, steps to 0.9 / 5"] == [100.0, 200.0]
    assert last["residual SAC, steps to 0.9"] == [50.0, 0.0]


@pytest.mark.slow
def test_the_way_round_the_block_is_that_of_the_expert():
    """Where the pusher goes, not what is asked: both modes take the short way at times."""
    env = envs.make("push_t", time_limit=60)
    shares = [
        claim("chunks").anticlockwise(
            recording.record(scripted(env, mode=mode), env, 32, jax.random.key(0))
        )
        for mode in (0, 1)
    ]
    assert shares[0] > 0.8 and shares[1] < 0.2


def test_a_sampled_clone_draws_where_it_would_be_deterministic():
    env = envs.make("pendulum_swingup")
    config = sac.Config(num_envs=1, replay_size=16, actor_hidden=(4,), critic_hidden=(4,))
    plain = sac.make(env, config)
    drawn = claim("chunks").sampled(plain)
    state = plain.init(jax.random.key(0), config)
    act = lambda learner, deterministic: np.asarray(
        learner.policy(state).act((), np.ones(3, np.float32), jax.random.key(1), deterministic)[0]
    )
    np.testing.assert_array_equal(act(drawn, True), act(plain, False))
    assert not np.array_equal(act(drawn, True), act(plain, True))
    assert drawn.policy(state).apply is drawn.policy(state).apply  # else every call compiles
