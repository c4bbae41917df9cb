"""The driver: what is run is what was asked for, however it is split, stopped or resumed."""

import dataclasses
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from helpers import process
from probes import Probe, assert_same, differ

from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.report import log
from jaxrl.run import checkpoint, plan
from jaxrl.run import train as driver
from jaxrl.run.train import train

ENV = Probe(
    length=5.0,
    truncates=True,
    pays_cue=1.0,
    pays_goal=1.0,
    goal_cue=0.5,
    sees_cue=1.0,
    sees_clock=1.0,
)
CONFIG = ppo.Config(
    num_envs=32,
    unroll_length=3,
    num_minibatches=2,
    num_epochs=2,
    actor_hidden=(8,),
    critic_hidden=(8,),
)
LEARNER = ppo.make(ENV, CONFIG)
PER = LEARNER.steps_per_iteration
TOTAL = 12 * PER
# Logs at iterations 6 and 12; evaluations and checkpoints at 4, 8 and 12.
ROUNDING = dict(rtol=1e-5, atol=1e-6)

OPTIONS = dict(num_evals=3, num_logs=2, eval_episodes=4, quiet=True, tensorboard=False)


def go(run_dir=None, learner=LEARNER, total=TOTAL, **options):
    return train(learner, total, run_dir=run_dir, **(OPTIONS | options))


def records(run_dir):
    """metrics.jsonl without what the clock on the wall says."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "steps_per_second")}
        for record in log.read(run_dir)
    ]


def at_iteration(number: int, action) -> None:
    """From here on the host looks after every iteration, and acts after this many."""
    driver.CHUNK_SECONDS = 0.0
    step, done = driver.Program.step, []

    def wrapped(self, state, sums, n):
        out = step(self, state, sums, n)
        done.append(n)
        if sum(done) == number:
            jax.block_until_ready(out)
            action()
        return out

    driver.Program.step = wrapped


@pytest.fixture
def act_at(monkeypatch):
    """`at_iteration`, undone after the test or by calling `.undo()`."""
    monkeypatch.setattr(driver, "CHUNK_SECONDS", driver.CHUNK_SECONDS)
    monkeypatch.setattr(driver.Program, "step", driver.Program.step)
    at_iteration.undo = monkeypatch.undo
    return at_iteration


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: (folder, result)."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, go(folder)


def copy(whole, folder):
    shutil.copytree(whole[0], folder, dirs_exist_ok=True)


def assert_ends_as(whole, folder, result):
    assert_same(result.state, whole[1].state)
    assert records(folder) == records(whole[0])
    assert result.env_steps == TOTAL and not result.interrupted


# --- What is run ---


def test_the_steps_that_were_asked_for_are_run_and_looked_at_as_planned(whole):
    folder, result = whole
    assert result.env_steps == TOTAL
    assert int(result.state.iteration[0]) == 12
    assert int(result.state.env.time[0]) * CONFIG.num_envs == TOTAL
    assert [x["env_steps"] for x in result.evals] == [0, 4 * PER, 8 * PER, 12 * PER]
    at = lambda kind: [r["env_steps"] for r in records(folder) if r["kind"] == kind]
    assert at("train") == [6 * PER, 12 * PER]
    assert at("eval") == [0, 4 * PER, 8 * PER, 12 * PER]
    assert checkpoint.steps(folder / "checkpoints") == [4 * PER, 8 * PER, 12 * PER]


def test_evaluations_are_not_skipped_where_nothing_is_logged(monkeypatch):
    monkeypatch.setattr(driver, "CHUNK_SECONDS", 1e6)  # as many iterations at once as allowed
    result = go(num_logs=1, num_evals=4)
    assert [x["env_steps"] for x in result.evals] == [i * 3 * PER for i in range(5)]


def test_episode_metrics_are_means_over_the_episodes_that_ended(whole):
    lines = [r for r in records(whole[0]) if r["kind"] == "train"]
    assert [r["episode_length"] for r in lines] == [[5.0], [5.0]]
    # 18 steps hold 3 ends of each environment's episodes of 5 steps; 36 hold 7.
    assert [r["episodes"] for r in lines] == [[3 * 32], [4 * 32]]


def test_metrics_are_finite_and_evaluations_keep_the_task_s_names(whole):
    for record in records(whole[0]):
        assert all(np.isfinite(v).all() for k, v in record.items() if k != "kind")
    assert {"return", "return_std", "length", "terminated", "reward_paid"} <= set(
        records(whole[0])[0]
    )


def test_evaluations_use_the_same_episodes_every_time_and_for_every_seed(whole, both):
    """The cue is drawn by the reset and no policy changes it."""
    cues = [x["cue"] for x in whole[1].evals] + [x["cue"][1:] for x in both.evals]
    assert len(cues) == 8 and len(np.unique(cues)) == 1


# --- Runs as an axis ---


@pytest.fixture(scope="module")
def both():
    return go(seeds=2)


def of_run(i, result):
    """Run i of many as if it were the only one."""
    return jax.tree.map(lambda x: x[i : i + 1], result.state)


def test_a_policy_may_compute_its_parameters_from_the_state_of_one_run(both):
    def policy(state):
        members = jax.tree.map(lambda x: jnp.stack([jnp.zeros_like(x), x]), state.params)
        best = jnp.argmax(
            jnp.stack([-1.0 * state.iteration, 1.0 * state.iteration]) + jnp.arange(2)
        )
        return LEARNER.policy(state.replace(params=jax.tree.map(lambda x: x[best], members)))

    result = go(learner=dataclasses.replace(LEARNER, policy=policy), seeds=2)
    for a, b in zip(result.evals, both.evals, strict=True):
        assert_same(a, b)


def test_seed_i_of_many_equals_the_single_run_of_seed_i(whole, both):
    """To the last bit here; elsewhere a batched matrix product may sum in another order."""
    assert_same(of_run(0, both), whole[1].state, **ROUNDING)
    assert_same(of_run(1, both), go(seed=1).state, **ROUNDING)
    assert differ(of_run(0, both).params, of_run(1, both).params)


def test_a_sweep_equals_separate_runs_and_its_grid_is_the_first_axis(whole, tmp_path):
    faster = CONFIG.replace(learning_rate=1e-2)
    swept = go(tmp_path, sweep={"learning_rate": [CONFIG.learning_rate, 1e-2]})
    singles = [whole[1], go(learner=ppo.make(ENV, faster))]
    for i, single in enumerate(singles):
        assert_same(of_run(i, swept).params, single.state.params, **ROUNDING)
        for a, b in zip(swept.evals, single.evals, strict=True):
            np.testing.assert_allclose(a["return"][i], b["return"], rtol=1e-3)
    assert differ(singles[0].state.params, singles[1].state.params)
    assert swept.evals[0]["return"].shape == (2, 1)
    assert np.shape(records(tmp_path)[-1]["return"]) == (2, 1)


def test_nothing_compiles_after_the_first_chunk(whole, act_at):
    """`whole` has compiled the few operations that the host does itself."""
    compiled = []
    listen = lambda name, seconds, **_: compiled.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        count = []
        act_at(1, lambda: count.append(len([x for x in compiled if "compile" in x])))
        go()
        assert count[0] > 0
        assert len([x for x in compiled if "compile" in x]) == count[0]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


# --- Stopping and going on ---


@pytest.mark.parametrize("signals", ["SIGINT", "SIGTERM", "SIGTERM SIGTERM SIGINT"])
def test_a_run_stopped_within_a_log_interval_goes_on_bit_for_bit(
    whole, tmp_path, act_at, capfd, signals
):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    act_at(5, lambda: [os.kill(os.getpid(), signal.Signals[s]) for s in signals.split()])
    stopped = go(tmp_path, quiet=False)
    assert stopped.interrupted and stopped.env_steps == 5 * PER
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before  # handed back
    first = signals.split()[0]
    assert capfd.readouterr().err.count(f"{first}: stopping after this chunk") == 1
    act_at.undo()
    assert_ends_as(whole, tmp_path, go(tmp_path, resume=True))


@pytest.mark.parametrize("saving", [False, True])
def test_who_cannot_wait_interrupts_twice_but_never_a_save(tmp_path, act_at, monkeypatch, saving):
    twice = lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    if not saving:
        act_at(5, twice)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path)
        assert checkpoint.steps(tmp_path / "checkpoints") == [4 * PER]
        return
    act_at(10**9, None)  # looks after every iteration
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: twice() and save(*args))
    assert go(tmp_path).env_steps == 5 * PER  # the loop saw it after the next chunk
    assert checkpoint.steps(tmp_path / "checkpoints") == [4 * PER, 5 * PER]


def test_a_run_stopped_at_an_evaluation_saves_once(tmp_path, act_at, monkeypatch):
    saved, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: saved.append(args[1]) or save(*args))
    act_at(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert go(tmp_path).interrupted and saved == [4 * PER]


def test_a_run_killed_at_once_goes_on_bit_for_bit(whole, tmp_path):
    code = f"at_iteration(7, lambda: os.kill(os.getpid(), signal.SIGKILL))\ngo(r'{tmp_path}')"
    killed = process("test_train", code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.steps(tmp_path / "checkpoints") == [4 * PER]
    assert [r["env_steps"] for r in records(tmp_path)] == [0, 4 * PER, 6 * PER]
    assert_ends_as(whole, tmp_path, go(tmp_path, resume=True))


def test_a_run_killed_before_its_first_checkpoint_starts_over(whole, tmp_path, act_at, capsys):
    class Killed(Exception):
        pass

    def kill():
        raise Killed

    act_at(2, kill)
    with pytest.raises(Killed):
        go(tmp_path)
    act_at.undo()
    assert len(records(tmp_path)) == 1
    assert_ends_as(whole, tmp_path, go(tmp_path, resume=True))
    assert "no checkpoint in" in capsys.readouterr().out


def test_records_outlive_their_checkpoints(whole, tmp_path, capsys):
    copy(whole, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    recorded = (tmp_path / "metrics.jsonl").read_bytes()
    assert_ends_as(whole, tmp_path, go(tmp_path, resume=True))
    assert (tmp_path / "metrics.1.jsonl").read_bytes() == recorded
    assert f"what it had recorded is in {tmp_path / 'metrics.1.jsonl'}" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_used(whole, tmp_path, capsys):
    copy(whole, tmp_path)
    newest = tmp_path / "checkpoints" / f"{TOTAL:012d}"
    for path in (newest / "arrays").rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[:-50])
    result = go(tmp_path, resume=True)
    assert "is damaged" in capsys.readouterr().out
    assert_ends_as(whole, tmp_path, result)


def test_resuming_a_finished_run_changes_nothing(whole, tmp_path):
    copy(whole, tmp_path)
    result = go(tmp_path, resume=True)
    assert_ends_as(whole, tmp_path, result)
    assert_same(result.evals, whole[1].evals)  # read back from what was logged


def test_a_finished_run_goes_on_for_more_steps(whole, tmp_path):
    copy(whole, tmp_path)
    more = go(tmp_path, total=16 * PER, num_evals=4, resume=True)
    assert [x["env_steps"] for x in more.evals] == [i * 4 * PER for i in range(5)]
    assert_same(more.state, go(total=16 * PER).state)


@pytest.mark.parametrize(
    "change",
    [dict(gamma=0.5), dict(learning_rate=1.0), dict(num_epochs=1), dict(unroll_length=6)],
)
def test_a_run_is_not_resumed_with_other_settings(whole, tmp_path, change):
    copy(whole, tmp_path)
    (name,) = change
    with pytest.raises(ValueError, match=rf"cannot resume .*: its {name} is .*, not"):
        go(tmp_path, learner=ppo.make(ENV, CONFIG.replace(**change)), resume=True)


def test_steps_of_another_length_are_not_counted_as_these(whole, tmp_path):
    """Where an older checkpoint does not say what shaped it."""
    copy(whole, tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/about.json"):
        path.unlink()
    longer = ppo.make(ENV, CONFIG.replace(unroll_length=6))
    message = rf"cannot resume .*: its 12 iterations were {TOTAL} steps, not {2 * PER} each"
    with pytest.raises(ValueError, match=message):
        go(tmp_path, learner=longer, resume=True)


def test_a_checkpoint_of_another_run_is_refused(whole, tmp_path):
    copy(whole, tmp_path)
    wider = ppo.make(ENV, CONFIG.replace(critic_hidden=(9,)))
    with pytest.raises(ValueError, match=r"another program.*critic.*this run has"):
        go(tmp_path, learner=wider, resume=True)


# --- Devices ---


def test_devices_share_the_environments_and_change_only_rounding(tmp_path):
    """Two devices equal one; a run stopped on two goes on on one."""
    code = f"""
from probes import *
learner = ppo.make(ENV, CONFIG.replace(entropy_coef=1e-2))  # its samples are shared, too
one = go(learner=learner)
two = go(learner=learner, devices=2)
assert not two.state.env.obs.is_fully_replicated and two.state.params is not None
tolerance = dict(rtol=1e-3, atol=1e-4)
assert_same(two.state, one.state, **tolerance)
for a, b in zip(one.evals, two.evals, strict=True):
    assert_same(a, b, **tolerance)
at_iteration(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
assert go(r'{tmp_path}', learner, devices=2).interrupted
resumed = go(r'{tmp_path}', learner, resume=True)
assert_same(resumed.state, one.state, **tolerance)
print([r["env_steps"] for r in records(r'{tmp_path}')])
"""
    done = process("test_train", code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == str([x * PER for x in (0, 4, 6, 8, 12, 12)])


def test_devices_share_whole_runs_where_those_divide():
    """Nothing is communicated: two runs on two devices are the two runs on one."""
    code = """
from probes import *
one = go(seeds=2, eval_episodes=3)
two = go(seeds=2, eval_episodes=3, devices=2)
for leaf in (two.state.env.obs, two.state.key, two.state.iteration):
    assert {s.data.shape[0] for s in leaf.addressable_shards} == {1}, leaf.sharding
tolerance = dict(rtol=1e-3, atol=1e-4)
assert_same(two.state, one.state, **tolerance)
for a, b in zip(one.evals, two.evals, strict=True):
    assert_same(a, b, **tolerance)
"""
    done = process("test_train", code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert done.returncode == 0, done.stderr[-3000:]


# --- Errors ---


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(total=TOTAL + 1), rf"total_steps={TOTAL + 1}.*{PER} steps.*{TOTAL} or {TOTAL + PER}"),
        (dict(total=5), rf"total_steps=5: must be a multiple of .*nearest: {PER}$"),
        (
            dict(total=PER * 2**31),
            rf"total_steps=\d+: must be at most 2147483647 .* of {PER} steps",
        ),
        (dict(total=0), r"total_steps=0: must be a whole number, at least 1"),
        (dict(total=float("inf")), r"total_steps=inf: must be a whole number, at least 1"),
        (dict(seed=-1), r"seed=-1: must be 0 .. 4294967295"),
        (dict(seed=2**32 - 1, seeds=2), r"seed=4294967295: must be 0 .. 4294967294"),
        (dict(seeds=0), r"seeds=0: must be"),
        (dict(seeds=1.5), r"seeds=1.5: must be"),
        (dict(num_evals=-1), r"num_evals=-1: must be a whole number, at least 0"),
        (dict(devices=99, seeds=99), r"devices=99: JAX sees \d"),
        (dict(eval_episodes=5, devices=2), r"eval_episodes=5: must be a multiple of devices=2"),
        (dict(sweep={"lr": [1.0]}), r"sweep over 'lr': allowed are .*learning_rate"),
        (dict(sweep={"num_envs": [1.0]}), r"sweep over 'num_envs': allowed are"),
        (dict(sweep={"gamma": []}), r"sweep over 'gamma' has no values"),
        (dict(sweep={"gamma": [0.9, 1.5]}), r"gamma=1.5: must be between 0 and 1"),
        (dict(keep_checkpoints=-1), r"keep_checkpoints=-1: must be a whole number, at least 0"),
        (dict(devices=3, eval_episodes=3), r"devices=3: must divide the 1 runs, or the 8 equal"),
        (dict(resume=True), r"resume=True needs run_dir"),
        (dict(run_dir=""), r"run_dir='': must be the path of a folder, or None"),
        (dict(profile=5), r"profile=5: must be the path of a folder, or None"),
        (dict(keep_checkpoints=-(10**400)), r"keep_checkpoints=-10+: must be a whole number"),
        (dict(eval_episodes=10**12), r"eval_episodes=10+: 1 runs need [\d,]+ bytes"),
        (dict(sweep=np.ones(2)), r"sweep=array.*: must be a dict of a list of values"),
        (dict(sweep={"gamma": 0.9}), r"sweep=\{'gamma': 0.9\}: must be a dict of a list of values"),
        (dict(hooks=""), r"hooks='': must be a list of functions"),
        (dict(hooks=5), r"hooks=5: must be a list of functions"),
        (dict(evaluate="mean"), r"evaluate='mean': must be a function or None"),
        (dict(num_logs=-1), r"num_logs=-1: must be a whole number, at least 0"),
        (dict(stop_at_return="high"), r"stop_at_return='high': must be a number"),
        (dict(num_evals=10**8), r"num_evals=100000000: must be at most 10000"),
        (dict(seeds=3 * 10**6), r"seeds=3000000: 3,000,000 runs .* must be at most 65,536"),
    ],
)
def test_a_bad_argument_is_named_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        go(**options)


def test_a_number_given_as_an_integer_can_be_swept():
    learner = ppo.make(ENV, CONFIG.replace(entropy_coef=0))
    assert plan.validate(learner, 3 * PER, sweep={"entropy_coef": [0.0, 0.1]}) == 3


def test_more_random_steps_than_steps_are_refused():
    config = sac.Config(num_envs=2, replay_size=64, learning_starts=8, actor_hidden=(4,))
    learner = sac.make(ENV, config)
    with pytest.raises(ValueError, match=r"total_steps=8: must be more than learning_starts=8"):
        plan.validate(learner, 8)
    assert plan.validate(learner, 10) == 5


def test_a_folder_that_holds_a_run_is_not_written_over(whole):
    before = records(whole[0])
    with pytest.raises(ValueError, match="already holds a run"):
        go(whole[0])
    assert records(whole[0]) == before


def test_a_folder_that_cannot_be_written_is_a_runtime_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot write"):
        go(tmp_path / "file" / "run")


def test_memory_does_not_grow_over_a_thousand_chunks(act_at, tmp_path):
    resident = []
    look = lambda: resident.append(psutil.Process().memory_info().rss)
    act_at(200, look)
    act_at(1200, look)
    go(tmp_path, total=1201 * PER, num_logs=1201)
    assert len(log.read(tmp_path)) > 1200
    assert resident[1] - resident[0] < 8e6  # bytes; a chunk's state alone would make it 10 times
