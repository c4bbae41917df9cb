"""Off-policy and offline learners under the driver: the same promises as on-policy ones."""

import functools
import shutil

import jax
import numpy as np
import psutil
import pytest
from helpers import process
from probes import Probe, assert_same
from test_off_policy import IQL, MDPO, OFFLINE, SMALL, TD3, recorded

from jaxrl.learners.off_policy import mdpo, sac, td3
from jaxrl.learners.offline import bc, iql
from jaxrl.loops import off_policy
from jaxrl.run import checkpoint, plan
from jaxrl.run.plan import validate
from jaxrl.run.train import train

ENV = Probe(length=5.0, truncates=True, pays_cue=1.0, pays_goal=1.0, sees_cue=1.0)
CONFIG = sac.Config(
    **(SMALL | {"updates_per_step": 2, "replay_size": 16 * 24}),
    n_step=3,
    prior_ratio=0.25,
    normalize_obs=True,
)
PER = CONFIG.num_envs * CONFIG.unroll_length
TOTAL = 20 * PER  # the replay holds 12 iterations: it has wrapped round
OPTIONS = dict(num_evals=4, num_logs=4, eval_episodes=4, quiet=True, tensorboard=False)


@functools.cache
def learner():
    return sac.make(ENV, CONFIG, recorded(reward=0.5))


def go(run_dir=None, **options):
    return train(learner(), TOTAL, run_dir=run_dir, **(OPTIONS | options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, go(folder, seeds=2)


def test_resume_continues_bit_for_bit_with_its_replay(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / f"{TOTAL:012d}")
    result = go(tmp_path, seeds=2, resume=True)
    assert result.state.replay.size[0] == 24
    assert_same(result.state, whole[1].state)


def test_seed_i_of_many_equals_the_single_run_of_seed_i(whole):
    one = go(seed=1)
    of_run = jax.tree.map(lambda x: x[1:], whole[1].state)
    assert_same(of_run.agent, one.state.agent, rtol=1e-3, atol=1e-4)
    assert_same(of_run.replay.steps.action, one.state.replay.steps.action, rtol=1e-3, atol=1e-3)


def test_settings_can_be_swept(tmp_path):
    result = go(sweep={"init_alpha": [0.1, 0.5], "gamma": [0.9]}, num_evals=1)
    assert result.evals[-1]["return"].shape == (2, 1)
    first, second = np.exp(np.asarray(result.state.agent.log_alpha.params))
    assert first < second


def test_checkpoints_can_all_be_kept(tmp_path):
    go(tmp_path, keep_checkpoints=0)
    assert checkpoint.steps(tmp_path / "checkpoints") == [x * PER for x in (5, 10, 15, 20)]


def test_a_step_is_traced_once_however_many_devices_share_it():
    """A second time took two seconds of every start on two devices."""
    code = """
import dataclasses
from test_off_policy import DSAC
from test_train import LEARNER as PPO
from jaxrl.learners.off_policy import dsac
from jaxrl.run.program import Program

def counted(made, count):
    def step(*args):
        count.append(args)
        return made.step(*args)
    on_axis = lambda axis: counted(made.sharing.on_axis(axis), count)
    sharing = dataclasses.replace(made.sharing, on_axis=on_axis)
    return dataclasses.replace(made, step=step, sharing=sharing)

for made in (PPO, dsac.make(ENV, DSAC)):
    for devices in (1, 2):
        Program(counted(made, count := []), 1, devices, 2).compile()
        assert len(count) == 1, (made.config, devices)
"""
    done = process(
        "test_off_policy_train", code, XLA_FLAGS="--xla_force_host_platform_device_count=2"
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("num_envs, rows, whole", [(16, 24, False), (3, 128, True)])
def test_devices_share_batches_and_equal_blocks_of_the_replay(num_envs, rows, whole, tmp_path):
    """A run that began on one device resumes on two, and the reverse."""
    code = f"""
from pathlib import Path

config = CONFIG.replace(num_envs={num_envs})
shared = sac.make(ENV, config, recorded(reward=0.5))
total = 20 * shared.steps_per_iteration
folder = lambda devices: Path(r"{tmp_path}") / str(devices)
options = OPTIONS | dict(num_evals=2)
one, two = (train(shared, total, devices=d, run_dir=folder(d), **options) for d in (1, 2))
ring = two.state.replay.steps.reward
assert {{s.data.shape for s in ring.addressable_shards}} == {{(1, {rows}, {3 if whole else 8})}}
tolerance = dict(rtol=2e-3, atol=1e-3)
check = lambda a, b: [
    assert_same(getattr(a.state, k), getattr(b.state, k), **tolerance)
    for k in ("replay", "obs_moments", "agent")
]
check(two, one)
for before, after in [] if {whole} else [(1, 2), (2, 1)]:
    shutil.rmtree(folder(before) / "checkpoints" / f"{{total:012d}}")
    check(train(shared, total, devices=after, run_dir=folder(before), resume=True, **options), one)
"""
    done = process(
        "test_off_policy_train", code, XLA_FLAGS="--xla_force_host_platform_device_count=2"
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "config, parts",
    [
        (sac.Config(), 8),  # 32 environments, batches of 256
        (sac.Config(num_envs=4), 4),
        (sac.Config(num_envs=1), 8),  # batches alone
        (sac.Config(num_envs=3, batch_size=100), 4),
        (sac.Config(prior_ratio=0.25, batch_size=24), 2),  # 18 and 6
        (sac.Config(batch_size=255), 1),
    ],
)
def test_num_parts_divides_batches_and_environments(config, parts):
    assert off_policy.num_parts(config) == parts


def test_a_replicated_replay_counts_once_per_device(monkeypatch):
    config = CONFIG.replace(prior_ratio=0.0, replay_size=16 * 24_000)
    row = 4 * (2 * 7 + 2)  # bytes, at least
    free = type("Memory", (), {"available": int(1.5 * config.replay_size * row)})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    fit = lambda num_envs: plan._check_memory(
        sac.make(ENV, config.replace(num_envs=num_envs)), num_runs=1, devices=2
    )
    fit(16)  # each device holds half of the replay
    with pytest.raises(
        ValueError,
        match=r"1 runs with replay_size=384000 need [\d,]+ bytes on each of 2 devices, which have [\d,]+ free$",
    ):
        fit(3)


def test_replays_larger_than_memory_are_refused_before_anything_is_written(tmp_path):
    """The replay of one seed fits, those of a thousand do not."""
    row = PER // CONFIG.unroll_length * 4 * (2 * 7 + 2)  # bytes, at least
    rows = psutil.virtual_memory().available // row // 20
    big = sac.make(ENV, CONFIG.replace(replay_size=rows * CONFIG.num_envs, prior_ratio=0.0))
    with pytest.raises(
        ValueError,
        match=r"^1000 runs with replay_size=\d+ need [\d,]+ bytes on.*, which have [\d,]+ free$",
    ):
        train(big, TOTAL, seeds=1000, run_dir=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()
    assert validate(big, TOTAL) == 20  # a single one


MAKERS = {  # noise that lasts an episode, an old policy, weights of recorded episodes
    "td3": lambda: td3.make(ENV, TD3.replace(noise_min=0.1, noise_max=0.9)),
    "mdpo": lambda: mdpo.make(ENV, MDPO.replace(refresh_every=3)),
    "iql": lambda: iql.make(ENV, IQL.replace(schedule_steps=96.0), recorded().weighted(0.5)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_else_a_learner_remembers_resumes_bit_for_bit(name, tmp_path):
    """From its middle: the last checkpoint is taken away."""
    made = MAKERS[name]()
    total = 4 * made.steps_per_iteration
    options = dict(num_evals=2, eval_episodes=2, quiet=True, tensorboard=False, run_dir=tmp_path)
    whole = train(made, total, **options)
    shutil.rmtree(tmp_path / "checkpoints" / f"{total:012d}")
    assert checkpoint.steps(tmp_path / "checkpoints") == [total // 2]
    assert_same(train(made, total, resume=True, **options).state, whole.state)


def test_offline_learners_train_resume_and_act_without_data(tmp_path):
    """Steps are updates, all seeds share one copy of the data, and a saved state can act."""
    config = bc.Config(**OFFLINE).replace(updates_per_step=16)
    offline = bc.make(ENV, config, recorded())
    result = train(offline, 320, seeds=2, run_dir=tmp_path, **OPTIONS)
    assert result.env_steps == 320 and result.evals[-1]["return"].shape == (2,)
    shutil.rmtree(tmp_path / "checkpoints" / f"{320:012d}")
    resumed = train(offline, 320, seeds=2, run_dir=tmp_path, resume=True, **OPTIONS)
    assert_same(resumed.state, result.state)
    actor = bc.make(ENV, config)  # without the data
    one = jax.tree.map(lambda x: x[0], result.state)
    obs = ENV.reset(jax.random.key(0)).obs
    for made in (offline, actor):
        action, _ = made.policy(one).act((), obs, jax.random.key(0))
        assert np.abs(action).max() <= 1.0
