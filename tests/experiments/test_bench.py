"""The benchmarks: what they count, in which order they measure, and that they run; no timing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, env_of

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "experiments/bench"
sys.path[:0] = [str(ROOT / "experiments"), str(BENCH), str(BENCH / "drivers")]

import bench  # noqa: E402
import compile as compile_bench  # noqa: E402
import fuzz  # noqa: E402
import overhead  # noqa: E402
import paired  # noqa: E402
import peers  # noqa: E402
import physics  # noqa: E402
import plans  # noqa: E402
import presets  # noqa: E402
import reduce as reduce_bench  # noqa: E402
import replay as replay_bench  # noqa: E402
import scaling  # noqa: E402
import seeds  # noqa: E402
import tasks  # noqa: E402
import time_to_score  # noqa: E402
import traces  # noqa: E402
from presets import Preset  # noqa: E402

import envs  # noqa: E402
from envs.adapters.originals import ORIGINALS  # noqa: E402
from jaxrl.learners import registry  # noqa: E402
from jaxrl.learners.imitation import chunks as imitation  # noqa: E402
from jaxrl.learners.off_policy import sac  # noqa: E402
from jaxrl.learners.on_policy import ppo  # noqa: E402
from jaxrl.loops.algorithm import Batch, Obs  # noqa: E402
from jaxrl.nn import spaces  # noqa: E402
from jaxrl.nn.layers import ActorCritic  # noqa: E402
from jaxrl.report import log  # noqa: E402
from jaxrl.run import runtime  # noqa: E402

OBS = 7  # of a Probe, whose actions have one entry


@pytest.fixture
def probe(monkeypatch):
    """Every benchmark on a Probe, and JAX as this process has it."""
    for module in (seeds, replay_bench, overhead):
        monkeypatch.setattr(module, "make_env", lambda *_: Probe(pays=1.0))
    monkeypatch.setattr(runtime, "setup", lambda *_, **__: None)
    monkeypatch.setattr(runtime, "default_devices", lambda *_: 1)


def ratios_in(path: Path) -> dict[str, float]:
    content = json.loads(path.read_text())
    assert {"hardware", "versions", "settings", "rows"} <= set(content)
    return content["ratios"]


# --- What they share ---


def test_contenders_take_turns_and_the_first_round_does_not_count():
    order = []
    run = lambda name: lambda: order.append(name)
    seconds = bench.interleave({name: run(name) for name in "ABC"}, 3)
    assert "".join(order) == "ABC" * 4
    assert all(x.shape == (3,) and (x >= 0).all() for x in seconds.values())


def test_a_ratio_pairs_the_rounds():
    """The machine is ten times slower in the second round: no difference to the ratio."""
    assert bench.ratio(np.array([2.0, 20.0, 2.0]), np.array([1.0, 10.0, 1.0])) == 2.0


def test_two_checkouts_take_turns_and_ours_over_theirs_is_above_1_where_ours_is_faster(monkeypatch):
    order = []

    class Side:
        """Ours takes 0.5 seconds a call and theirs 1; compiling takes 3 and 2."""

        def __init__(self, checkout, algorithm, task, args):
            self.ours = checkout == paired.HERE
            self.steps, self.compile_seconds = 100, 3.0 if self.ours else 2.0

        def call(self, times):
            order.append("A" if self.ours else "B")
            return times * (0.5 if self.ours else 1.0)

        def close(self):
            order.append("-")

    monkeypatch.setattr(paired, "Side", Side)
    row = paired.measure("ppo", "hopper", paired.Args(Path("before"), rounds=3, seconds=2.0))
    assert row["speed"] == 2.0 and row["compile"] == 1.5 and row["calls"] == 4
    assert row["ours_steps_per_second"].tolist() == [200.0] * 3
    assert row["theirs_steps_per_second"].tolist() == [100.0] * 3
    assert "".join(order).endswith("BAABBA--")


def test_the_results_file_has_ratios_at_the_top_and_a_row_a_line(tmp_path):
    path = tmp_path / "new" / "x.json"
    rows = [{"a": np.array([1.23456, 2.0]), "b": {"c": 3}}, {"a": np.float32(0.5)}]
    bench.write(path, "x", bench.Args(out=path), rows, {"fast/slow": 1 / 3})
    assert ratios_in(path) == {"fast/slow": 0.3333}
    assert '\n{"a": [1.235, 2.0], "b": {"c": 3}},\n{"a": 0.5}\n' in path.read_text()
    assert json.loads(path.read_text())["hardware"] == runtime.hardware()
    bench.write(None, "x", bench.Args(), rows, {})


def test_a_run_advances_every_seed_and_the_grid():
    config = ppo.Config(num_envs=8, unroll_length=2, actor_hidden=(4,), critic_hidden=(4,))
    learner = ppo.make(Probe(), config)
    run = bench.Run(learner, seeds=2, iterations=3, sweep={"learning_rate": [0.0, 1.0]})
    run()
    assert run.steps == 4 * 3 * 16 and run.state.iteration.tolist() == [3] * 4
    assert run.state.learning_rate.tolist() == [0.0, 0.0, 1.0, 1.0]
    run.reset()
    assert run.state.iteration.tolist() == [0] * 4


def test_random_stepping_ends_episodes():
    run = bench.Run(bench.random_stepping(Probe(length=2.0), 4, 6))
    assert run()["episodes"].tolist() == [4 * 3] and run.steps == 24


# --- Counting floating-point operations ---


def test_flops_by_hand():
    assert overhead.mlp_flops((3, 5, 2)) == 2 * (15 + 10)
    c = ppo.Config(num_envs=2, unroll_length=3, num_epochs=2, actor_hidden=(4,), critic_hidden=(5,))
    actor, critic = 2 * (OBS * 4 + 4 * 2), 2 * (OBS * 5 + 5 * 1)
    assert overhead.ppo_flops(Probe(), c) == 6 * (actor + critic) * (1 + 2 * 3)
    small = {"num_envs": 2, "batch_size": 8, "actor_hidden": (4,), "critic_hidden": (5,)}
    c = sac.Config(updates_per_step=6, policy_delay=3, num_critics=3, **small)
    critics = 3 * 2 * (8 * 5 + 5 * 1)
    one_critic_update = 8 * (actor + critics + 3 * critics)
    one_actor_update = 8 * (3 * actor + 2 * critics)
    expected = 2 * actor + 6 * one_critic_update + 2 * one_actor_update
    assert overhead.sac_flops(Probe(), c) == expected


def flops_of(function, *args) -> float:
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def test_flops_of_sac_s_updates_are_xla_s():
    c = sac.Config(batch_size=512, actor_hidden=(64, 64), critic_hidden=(128, 128))
    algorithm = sac.algorithm(c, spaces.actions(Probe().action_space))
    b = c.batch_size
    obs, one, keys = jnp.zeros((b, OBS)), jnp.ones(b), jax.random.split(jax.random.key(0), b)
    both = Obs(obs, obs)
    agent = jax.eval_shape(lambda: algorithm.init(keys[0], Obs(obs[:1], obs[:1]), c))
    batch = Batch(both, obs[:, :1], one, both, one, one > 0, one[:, None] > 0, {}, keys, keys[0])
    _, critic_update, actor_update = overhead.sac_parts(Probe(), c)
    assert flops_of(algorithm.update.critic, agent, batch, c) == pytest.approx(critic_update, 0.1)
    assert flops_of(algorithm.update.actor, agent, batch, c) == pytest.approx(actor_update, 0.1)


def test_flops_of_ppo_s_networks_are_xla_s():
    c = ppo.Config(num_envs=64, unroll_length=8, num_epochs=1, distribution="normal")
    network = ActorCritic(c.actor_hidden, c.critic_hidden, 1, c.activation, True)
    obs, reset = jnp.zeros((8, 64, OBS)), jnp.zeros((8, 64), bool)
    params = jax.eval_shape(network.init, jax.random.key(0), (), obs, obs, reset)

    def both_ways(params):
        _, out, value = network.apply(params, (), obs, obs, reset)
        return (out**2).sum() + (value**2).sum()

    counted = overhead.ppo_flops(Probe(), c) * 3 / 4  # without collection
    assert flops_of(jax.grad(both_ways), params) == pytest.approx(counted, 0.1)


# --- Each script, small ---


def test_seeds(probe, tmp_path, capsys):
    out = tmp_path / "x.json"
    args = seeds.Args(rounds=1, out=out, learner="sac", seeds=(1, 2), num_envs=4, hidden=(8,))
    seeds.main(seeds.Args(**vars(args) | {"batch_size": 8, "grid": False}))
    assert ratios_in(out)["sac/1_seeds/cost"] == 1.0 and "sac/2_seeds/cost" in ratios_in(out)
    assert "2 seeds" in capsys.readouterr().out


def test_replay(probe, tmp_path):
    out = tmp_path / "x.json"
    small = {"num_envs": 4, "batch_size": 8, "hidden": (8,), "iterations": 2, "insertions": 3}
    replay_bench.main(replay_bench.Args(rounds=1, out=out, replay_size=64, **small))
    assert {"share_of_iteration", "full_over_empty"} <= set(ratios_in(out))
    *rows, row = json.loads(out.read_text())["rows"]
    assert all(r["compile_seconds"] > 0 and len(r["steps_per_second"]) == 1 for r in rows)
    assert row["num_bytes"] == row["actual_bytes"] == 64 * (4 * (OBS + 1 + 1 + OBS) + 3)


def test_reduce(tmp_path):
    out = tmp_path / "x.json"
    reduce_bench.main(reduce_bench.Args(rounds=1, out=out, devices=1, floats=(1, 8), sums=3))
    assert set(ratios_in(out)) == {"8_over_1"}


def test_plans(tmp_path):
    out = tmp_path / "x.json"
    config = imitation.Config(hidden=(8,), horizon=4, execute=2, denoise_steps=3)
    plans.main(plans.Args(rounds=1, out=out, env="pendulum_swingup", num_envs=4, config=config))
    rows = {r["what"]: r for r in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"physics", *plans.HEADS}
    flow, stepping = rows["flow"], rows["physics"]
    assert ratios_in(out)["flow_over_physics"] == pytest.approx(
        flow["seconds"][0] / stepping["seconds"][0], rel=1e-2
    )
    assert flow["plans_per_second"][0] == pytest.approx(4 / flow["seconds"][0], rel=1e-2)
    assert stepping["steps_per_second"][0] == pytest.approx(8 / stepping["seconds"][0], rel=1e-2)
    assert all(r["compile_seconds"] > 0 and r["memory_bytes"] > 0 for r in rows.values())


def test_overhead(probe, tmp_path, monkeypatch):
    tiny = {"num_envs": 8, "unroll_length": 2, "actor_hidden": (4,), "critic_hidden": (4,)}
    small = tiny | {"batch_size": 8, "replay_size": 64, "updates_per_step": 1}
    monkeypatch.setattr(
        overhead, "PPO", {"probe": Preset(32, ppo.Config(lr_schedule="linear", **tiny))}
    )
    monkeypatch.setattr(overhead, "SAC", {"probe": Preset(0, sac.Config(**small))})
    monkeypatch.setattr(overhead, "MATMUL", 8)
    out = tmp_path / "x.json"
    overhead.main(overhead.Args(rounds=1, out=out, ppo=("probe",), sac=("probe",), seeds=2))
    assert set(ratios_in(out)) == {
        f"{learner}/probe/{k}" for learner in ("ppo", "sac") for k in ("of_random", "of_limit")
    }


def test_scaling_measures_every_number_of_environments_and_draws_them(probe, tmp_path, monkeypatch):
    tiny = {"unroll_length": 2, "actor_hidden": (4,), "critic_hidden": (4,)}
    monkeypatch.setattr(overhead, "PPO", {"probe": Preset(32, ppo.Config(num_envs=4, **tiny))})
    monkeypatch.setattr(overhead, "MATMUL", 8)
    out, picture = tmp_path / "x.json", tmp_path / "x.png"
    scaling.main(scaling.Args(rounds=1, out=out, tasks=("probe",), num_envs=(8, 16)))
    assert set(ratios_in(out)) == {"probe/8_over_8", "probe/16_over_8"}
    assert [row["num_envs"] for row in json.loads(out.read_text())["rows"]] == [8, 16]
    drawn = picture.read_bytes()
    picture.unlink()
    scaling.main(scaling.Args(draw=out))
    assert picture.read_bytes() == drawn


@pytest.mark.parametrize("name", ["bc", "iql", "imitation", "sac"])
def test_a_learner_compiles_once_whatever_the_chunks(probe, name, monkeypatch):
    monkeypatch.setattr(envs, "make", lambda *_, **__: Probe(pays=1.0))
    answer = compile_bench.child(name, "probe")
    assert answer["compilations"] == dict.fromkeys(compile_bench.FUNCTIONS, 1)
    assert answer["start_seconds"] >= answer["compile_seconds"]


@pytest.mark.parametrize("name", sorted(registry.LEARNERS))
def test_every_learner_can_be_started(name):
    args = compile_bench.args_of(name, "inverted_pendulum")
    assert args.env == "inverted_pendulum"
    assert registry.default_devices(args.config, args.seeds, args.eval_episodes) >= 1
    learner = compile_bench.learner_of(name, env_of(name), args.config)
    assert jax.eval_shape(learner.init, jax.random.key(0)) is not None


def test_all_learners_are_started():
    assert set(compile_bench.Args().learners) == set(registry.LEARNERS)


def test_c_mujoco_steps_every_environment():
    env = bench.make_env("inverted_pendulum", "fast")
    states = physics.c_mujoco(env, 3, 2, 0)()
    assert states.shape[0] == 3 and np.isfinite(states).all()
    substeps = 2 * physics.unwrapped(env).frame_skip
    timestep = physics.unwrapped(env).sim.mj_model.opt.timestep
    np.testing.assert_allclose(states[:, 0], substeps * timestep)  # the clock


@pytest.mark.slow
def test_physics(probe, tmp_path):
    out = tmp_path / "x.json"
    tasks = {"tasks": ("inverted_pendulum",), "physics": ("fast",), "batches": (4,)}
    physics.main(physics.Args(rounds=1, out=out, steps=2, **tasks))
    assert set(ratios_in(out)) == {
        f"inverted_pendulum/fast/4/ours_over_{other}" for other in ("mjx", "shipped", "rollout")
    }
    row = json.loads(out.read_text())["rows"][0]
    for what in ("compile_seconds", "memory_bytes"):
        assert set(row[what]) == {"ours", "mjx", "shipped"}


def test_a_process_that_fails_costs_only_its_own_numbers(monkeypatch, tmp_path):
    class Stub:
        def __init__(self, python, driver, settings):
            self.impl, self.asked = settings["impl"], 0
            if self.impl == "absent":
                raise RuntimeError("no such implementation")

        def ask(self, word):
            self.asked += 1
            if self.impl == "warp" and self.asked > 1:
                raise RuntimeError("out of memory")
            return {"seconds": 0.1, "steps": 8, "compile_seconds": 2.0, "memory_bytes": 3}

        def close(self):
            pass

    monkeypatch.setattr(physics, "Process", Stub)
    every = {"shipped": "jax", "warp": "warp", "absent": "absent"}
    monkeypatch.setattr(physics, "implementations", lambda: every)
    monkeypatch.setattr(physics, "plain_mjx", lambda *args: bench.random_stepping(*args))
    row = physics.measure("cartpole_swingup", "accurate", 4, physics.Args(rounds=2, steps=2))
    assert set(row["steps_per_second"]) == {"ours", "mjx", "shipped", "rollout"}
    assert "ours_over_shipped" in row and "ours_over_warp" not in row
    assert row["compile_seconds"]["shipped"] == 2.0 and row["memory_bytes"]["shipped"] == 3


def gpu_sh(*args: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(BENCH / "gpu.sh"), *args],
        env=os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": ""} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize(
    "args, environment, complaint",
    [
        ([], {}, "usage: "),
        (["nowhere"], {}, "no folder nowhere"),
        (["."], {"PARTS": "seeds seed"}, "PARTS: no seed; there are overhead"),
        (["tests"], {"JAX_PLATFORMS": "cpu"}, "jax sees no GPU"),
    ],
)
def test_gpu_sh_refuses(tmp_path, args, environment, complaint):
    done = gpu_sh(*args, *[str(tmp_path)] * bool(args), **environment)
    assert done.returncode != 0 and complaint in done.stdout + done.stderr


@pytest.mark.slow
def test_gpu_sh_runs_small_on_a_cpu(tmp_path):
    """Some of its parts; what fails ends nothing else."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "jaxlib-99.0-py3-none-any.whl").touch()  # the machine's stays
    go = lambda parts: gpu_sh(str(tmp_path / "wheels"), str(tmp_path), CPU="1", PARTS=parts)
    done = go("seeds ppo")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "ppo/2_seeds/cost" in ratios_in(tmp_path / "bench_seeds.json")
    (tmp_path / "ppo_inverted_pendulum" / "config.json").write_text("{")
    done = go("fast_td3 fast_sac")
    assert done.returncode == 0, done.stdout[-3000:]
    for learner in ("fast_td3", "fast_sac"):
        run = tmp_path / f"{learner}_pendulum_swingup"
        evals = [x for x in log.read(run) if x["kind"] == "eval"]
        assert evals[-1]["env_steps"] == 80, learner
    done = go("ppo tests")
    assert done.returncode == 1 and "== ppo did not finish" in done.stdout
    assert "skipped in" in (tmp_path / "tests.txt").read_text()


def test_every_task_is_stepped_and_a_hang_is_told(tmp_path):
    out, small = tmp_path / "x.json", {"num_envs": 4, "steps": 2, "tasks": ("point_maze_open",)}
    assert tasks.main(tasks.Args(minutes=0.0, out=out, **small)) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["outcome"], row["steps"], row["nonfinite"]) == ("ran", 8, 0)
    assert tasks.main(tasks.Args(hang_seconds=0.0, out=out, **small)) == 1
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["outcome"], row["steps"]) == ("hung", 0)


def test_a_refusal_must_name_a_setting():
    drawn = fuzz.draw(0, fuzz.TASKS)
    assert drawn == fuzz.draw(0, fuzz.TASKS)
    assert fuzz.refused(drawn, "seeds=0: must be at least 1") == "refused: seeds"
    with pytest.raises(RuntimeError, match="names no setting"):
        fuzz.refused(drawn, "need at least one array to concatenate")


def test_tasks_have_the_physics_that_they_take():
    assert tasks.physics_of("hopper", ("accurate", "fast")) == ("accurate", "fast")
    assert tasks.physics_of("point_maze", ("accurate", "fast")) == ("",)


def test_a_kernel_s_time_is_without_what_it_calls():
    event = lambda thread, text, **more: {"name": text, "pid": 1, "tid": thread, **more}
    name = lambda thread, text: event(thread, "thread_name", args={"name": text})
    call = lambda thread, text, start, us: event(thread, text, ph="X", ts=start, dur=us)
    events = [name(1, "python"), name(2, "worker"), call(1, "main", 0, 9000)]
    events += [call(2, "while", 0, 5000), call(2, "dot.1", 1000, 2000), call(2, "dot.1", 6000, 500)]
    events += [call(3, "Execute (wait for completion)", 0, 9000), {}]  # as a trace ends
    assert traces.own_times(events) == {"while": [3.0], "dot.1": [2.0, 0.5]}


def test_peers_are_asked_in_turn_and_one_that_fails_is_dropped(monkeypatch, tmp_path, capsys):
    """Drivers are stood in for: the real ones need their own virtual environments."""
    order = []

    class Stub:
        versions, start_seconds = {"jaxrl": "1"}, 3.0

        def __init__(self, python, driver, settings):
            self.name, self.asked = driver, 0
            if driver == "rejax_sac.py":
                raise RuntimeError("no wheel")

        def ask(self, word):
            order.append((self.name, word))
            self.asked += 1
            if self.name == "sbx_sac.py" and self.asked > 4:
                raise RuntimeError("out of memory")
            train = {"seconds": 2.0, "compile_seconds": 0.5, "steps": 10, "updates": 20}
            return train if word == "train" else {"return": -100.0, "memory_bytes": 1}

        def close(self):
            pass

    monkeypatch.setattr(peers, "Process", Stub)
    monkeypatch.setattr(peers, "python_of", lambda *_: "python")
    out = tmp_path / "x.json"
    rows = peers.main(peers.Args(groups=("sac",), rounds=2, warmup=1, out=out))
    drivers = ("jaxrl_run.py", "jaxrl_run.py", "sbx_sac.py", "jaxrl_run.py")
    assert order[:8] == [(d, w) for d in drivers for w in ("train", "evaluate")]
    assert [r["trainer"] for r in rows] == ["jaxrl", "jaxrl_bfloat16", "8_seeds"]
    assert rows[0]["per_second"] == [10.0, 10.0] and rows[0]["compile_seconds"] == 1.5
    assert rows[0]["seconds_to_return"] == 1.5 and rows[0]["seconds_to_solve"] == 3.0 + 2.0
    ours = ("sac/jaxrl_bfloat16_over_jaxrl", "sac/8_seeds_over_jaxrl")
    assert ratios_in(out) == dict.fromkeys(ours, 1.0)
    rates = {"jaxrl": 30.0, "jaxrl_bfloat16": 60.0, "sbx": 10.0, "8_seeds": 45.0}
    rows = [{"group": "sac", "trainer": k, "per_second": [v]} for k, v in rates.items()]
    assert peers.ratios_of(rows) == {
        "sac/jaxrl_over_sbx": 3.0,
        "sac/jaxrl_bfloat16_over_sbx": 6.0,
        "sac/jaxrl_bfloat16_over_jaxrl": 2.0,
        "sac/8_seeds_over_jaxrl": 1.5,
    }
    printed = capsys.readouterr().out
    assert "no wheel" in printed and "sbx: dropped; out of memory" in printed


def test_seconds_to_a_return_are_those_of_the_run_that_reached_it():
    returns = (-900.0, -250.0, -150.0, -100.0)
    answers = [{"seconds": 4.0, "compile_seconds": 1.0, "return": r} for r in returns]
    settings = {"task": "Pendulum-v1", "fresh": False}
    assert peers.seconds_to_return(answers, settings) == 9.0
    assert peers.seconds_to_return(answers, settings | {"fresh": True}) == 3.0
    assert peers.seconds_to_return(answers[:2], settings) is None


def test_seconds_to_solve_hold_the_start_and_all_compilation_until_then():
    """Three rounds of 3 s training and 1 s compilation each; a fresh run trains in one of them."""
    returns = (-900.0, -250.0, -150.0, -100.0)
    answers = [{"seconds": 4.0, "compile_seconds": 1.0, "return": r} for r in returns]
    settings = {"task": "Pendulum-v1", "fresh": False}
    assert peers.seconds_to_solve(answers, settings, 5.0) == 5.0 + 3 * 4.0
    assert peers.seconds_to_solve(answers, settings | {"fresh": True}, 5.0) == 5.0 + 3.0 + 3 * 1.0
    assert peers.seconds_to_solve(answers[:2], settings, 5.0) is None


def test_every_group_of_peers_has_a_return_that_solves_it():
    assert {group.settings["task"] for group in peers.GROUPS.values()} <= set(peers.SOLVED)


# --- Seconds to a score ---


def test_trainers_take_turns_and_their_clock_holds_the_start_and_training(
    monkeypatch, tmp_path, capsys
):
    """Returns rise by 1000 in each turn of 2 s; sb3_ppo fails in its third, sbx_sac to start."""
    asked, given = [], {}

    class Stub:
        versions, start_seconds = {"jaxrl": "1"}, 5.0

        def __init__(self, python, driver, settings):
            self.key = driver, settings["learner"]
            given[self.key], self.turn = settings, 0
            if self.key == ("sb3_score.py", "sac"):
                raise RuntimeError("no wheel")

        def ask(self, word):
            asked.append((self.key, word))
            if word == "evaluate":
                return {"return": 1000.0 * self.turn, "memory_bytes": 1}
            self.turn += 1
            if self.key == ("sb3_score.py", "ppo") and self.turn == 3:
                raise RuntimeError("out of memory")
            seconds = 2.0 if self.key[0] == "jaxrl_score.py" else 20.0
            return {"seconds": seconds, "compile_seconds": 0.5, "steps": 10}

        def close(self):
            pass

    monkeypatch.setattr(time_to_score.peers, "Process", Stub)
    monkeypatch.setattr(time_to_score.peers, "python_of", lambda *_: "python")
    trainers = ("ppo", "sb3_ppo", "sbx_sac", "sbx_crossq")
    args = dict(tasks=("half_cheetah",), trainers=trainers, rounds=4, seeds=2)
    out = tmp_path / "x.json"
    rows = time_to_score.main(time_to_score.Args(**args, out=out))

    turn = [("jaxrl_score.py", "ppo"), ("sb3_score.py", "ppo"), ("sb3_score.py", "crossq")]
    assert asked[:6] == [(key, word) for key in turn for word in ("train", "evaluate")]
    assert given[turn[0]]["seeds"] == 2 and given[turn[1]]["seeds"] == 1
    assert given[turn[1]]["original"] == "HalfCheetah-v5"
    ours, theirs = rows
    assert ours["clock"] == [7.0, 9.0, 11.0, 13.0] and ours["env_steps"] == [10, 20, 30, 40]
    assert theirs["trainer"] == "sbx_crossq" and theirs["clock"][0] == 2 * 25.0  # two runs
    assert time_to_score.seconds_to(ours, 3_000.0) == 11.0
    assert time_to_score.seconds_to(ours, 5_000.0) is None
    name = "half_cheetah/3000/ours_over_best_peer"
    assert ratios_in(out) == {name: pytest.approx(11.0 / 130.0, rel=1e-3)}
    printed = capsys.readouterr().out
    assert "sbx_sac on half_cheetah: skipped; no wheel" in printed
    assert "sb3_ppo on half_cheetah: dropped; out of memory" in printed and "5000: -" in printed


@pytest.mark.parametrize(
    "limit, turns",
    [(0.0, {"ppo": 5, "sb3_ppo": 5}), (35.0, {"ppo": 5, "sb3_ppo": 2})],
)
def test_a_trainer_stops_at_the_highest_target_or_at_the_limit(monkeypatch, limit, turns):
    """Half-cheetah's highest is 5000; of eight turns the fifth reaches it."""

    class Stub:
        versions, start_seconds = {}, 1.0

        def __init__(self, python, driver, settings):
            self.seconds, self.turn = 20.0 if driver == "sb3_score.py" else 2.0, 0

        def ask(self, word):
            if word == "evaluate":
                return {"return": 1000.0 * self.turn, "memory_bytes": 1}
            self.turn += 1
            return {"seconds": self.seconds, "compile_seconds": 0.0, "steps": 10}

        def close(self):
            pass

    monkeypatch.setattr(time_to_score.peers, "Process", Stub)
    monkeypatch.setattr(time_to_score.peers, "python_of", lambda *_: "python")
    args = time_to_score.Args(rounds=8, trainers=tuple(turns), limit=limit)
    rows = time_to_score.measure("half_cheetah", args, Path())
    assert {row["trainer"]: len(row["clock"]) for row in rows} == turns


def test_a_driver_gets_neither_flags_nor_a_cache_of_programs(monkeypatch, tmp_path):
    """What it has of them stands where its answer names versions."""
    (tmp_path / "echo.py").write_text(
        "import json, os\n"
        "found = {k: v for k, v in os.environ.items() if k in ('XLA_FLAGS', 'OTHER')}\n"
        "found |= {k: v for k, v in os.environ.items() if k.startswith('JAX_COMPILATION')}\n"
        "print(json.dumps({'versions': found}))\n"
    )
    monkeypatch.setattr(peers, "DRIVERS", tmp_path)
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "OTHER"):
        monkeypatch.setenv(name, "x")
    process = peers.Process(sys.executable, "echo.py", {})
    process.close()
    assert process.versions == {"OTHER": "x"}


def test_every_trainer_has_a_driver_and_every_target_an_original():
    for trainer in time_to_score.TRAINERS.values():
        assert (time_to_score.peers.DRIVERS / trainer.driver).exists()
        assert trainer.venv in ("", *time_to_score.peers.VENVS)
        assert trainer.venv or trainer.learner in presets.names()
        assert bool(trainer.total_steps) == bool(trainer.venv)  # ours: the presets'
    assert set(time_to_score.TARGETS) <= set(ORIGINALS)
    assert set(time_to_score.USUAL) <= set(time_to_score.TRAINERS)


def test_an_unknown_task_or_trainer_is_refused_in_one_line():
    for flags in ({"tasks": ("push_t",)}, {"trainers": ("sb3",)}):
        with pytest.raises(SystemExit, match="allowed are"):
            time_to_score.main(time_to_score.Args(**flags))
