"""What is set before JAX starts, and that containment of broken simulations survives it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxlib
import pytest

from jaxrl.learners import registry
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.run import runtime

ROOT = Path(__file__).parents[2]
COUNT = "xla_force_host_platform_device_count"


@pytest.fixture
def setup(monkeypatch):
    """`runtime.setup` with given XLA_FLAGS and jaxlib; returns the flags it leaves."""

    def flags_after(before: str | None = None, version: str = "0.10.2", **options) -> list[str]:
        monkeypatch.setattr(jaxlib, "__version__", version)
        if before is None:
            monkeypatch.delenv("XLA_FLAGS", raising=False)
        else:
            monkeypatch.setenv("XLA_FLAGS", before)
        runtime.setup(cache=False, **options)
        return os.environ["XLA_FLAGS"].split()

    monkeypatch.setenv("XLA_FLAGS", "")  # so that whatever `setup` does is undone
    monkeypatch.setattr(runtime, "check_flags", lambda flags: None)  # those below are made up
    return flags_after


# --- Flags ---


def test_ours_are_appended_to_the_users(setup):
    flags = setup("--xla_dump_to=elsewhere")
    assert flags[0] == "--xla_dump_to=elsewhere"
    assert "--xla_cpu_enable_fast_math=true" in flags
    assert len(flags) == 1 + len(runtime.CPU_FLAGS)


def test_the_users_value_wins(setup):
    flags = setup(f"--xla_cpu_enable_fast_math=false --{COUNT}=3", devices=8)
    assert [f for f in flags if "enable_fast_math" in f] == ["--xla_cpu_enable_fast_math=false"]
    assert [f for f in flags if COUNT in f] == [f"--{COUNT}=3"]


def test_a_flag_that_only_begins_alike_is_not_taken_for_ours(setup):
    assert "--xla_cpu_enable_fast_math=true" in setup("--xla_cpu_enable_fast_math_of_mine=false")


def test_setting_up_twice_adds_nothing(setup):
    once = setup(devices=2)
    assert setup(" ".join(once), devices=4) == once


@pytest.mark.parametrize("version", ["0.9.2", "0.12.0", "1.0.0", "0.100.1"])
def test_a_jaxlib_that_is_not_known_gets_no_flag_that_might_end_the_process(setup, version):
    assert setup(version=version) == []
    assert setup(version=version, devices=2) == [f"--{COUNT}=2"]


def test_fast_math_is_never_set_without_honouring_nan_and_infinity():
    assert runtime.CPU_FLAGS["xla_cpu_fast_math_honor_nans"] == "true"
    assert runtime.CPU_FLAGS["xla_cpu_fast_math_honor_infs"] == "true"


@pytest.mark.parametrize("by_flag", [True, False])
def test_bfloat16_is_computed_by_ynn(setup, by_flag):
    plain = "--xla_cpu_experimental_ynn_fusion_type="
    try:
        assert plain in setup(matmul_precision="float32")
        if by_flag:
            flags = setup(matmul_precision="bfloat16")
        else:
            jax.config.update("jax_default_matmul_precision", "bfloat16")
            flags = setup()
        assert jax.config.jax_default_matmul_precision == "bfloat16"
        assert plain + "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT" in flags
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def test_a_precision_that_nobody_knows_is_refused(setup):
    with pytest.raises(ValueError, match="'half': allowed are default, bfloat16, float32"):
        setup(matmul_precision="half")


def test_the_cache_goes_where_the_user_says_or_home(setup, monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
        runtime.setup()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        runtime.setup()
        assert jax.config.jax_compilation_cache_dir == str(Path.home() / ".cache" / "jaxrl")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    "count, place, message",
    [
        ("0", "0", "JAX_NUM_PROCESSES=0: must be at least 1"),
        ("2", "2", "JAX_PROCESS_ID=2: must be 0 .. 1, below JAX_NUM_PROCESSES=2"),
        ("two", "0", "JAX_NUM_PROCESSES='two': several processes need"),
        ("-1", "0", "JAX_NUM_PROCESSES='-1': several processes need"),
    ],
)
def test_numbers_of_processes_that_cannot_be_are_named(monkeypatch, count, place, message):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", count)
    monkeypatch.setenv("JAX_PROCESS_ID", place)
    with pytest.raises(ValueError, match=f"^{message}"):
        runtime.num_processes()


def test_a_platform_that_is_not_there_is_named(setup, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")

    def missing():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", missing)
    with pytest.raises(ValueError, match="^JAX_PLATFORMS='cuda': no such device "):
        setup()


def test_more_devices_than_a_cpu_starts_in_time_are_refused(setup):
    with pytest.raises(ValueError, match="^devices=100000: must be at most 256$"):
        setup(devices=100_000)


def test_the_settings_that_change_results_are_recorded(setup, monkeypatch):
    setup("--xla_cpu_enable_fast_math=false --xla_gpu_autotune_level=1")
    settings = runtime.settings()
    assert settings["xla_cpu_enable_fast_math"] == "false"
    assert settings["jax_enable_x64"] is False and settings["jax_debug_nans"] is False
    assert settings["jax_default_prng_impl"] == "threefry2x32"
    assert settings["jax_threefry_partitionable"] is True
    assert "xla_gpu_autotune_level" not in settings
    with jax.debug_nans(True):
        assert runtime.settings()["jax_debug_nans"] is True


# --- Devices ---


@pytest.fixture
def machine(monkeypatch):
    def pretend(cores: int, platforms: str = "", accelerator: bool = False):
        monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
        monkeypatch.setattr(os, "cpu_count", lambda: 64)  # of which a container may have few
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setattr(runtime, "_has_accelerator", lambda: accelerator)

    return pretend


@pytest.mark.parametrize(
    "cores, num_envs, expected",
    [(2, 1024, 2), (4, 1024, 4), (8, 1024, 8), (4, 256, 2), (4, 255, 1), (2, 128, 1), (1, 512, 1)],
)
def test_a_cpu_gets_a_device_per_core_as_far_as_the_environments_divide(
    machine, cores, num_envs, expected
):
    machine(cores)
    assert runtime.default_devices(1, num_envs) == expected


@pytest.mark.parametrize("cores, num_runs, expected", [(2, 8, 2), (4, 6, 2), (8, 8, 8), (4, 5, 1)])
def test_runs_are_shared_where_they_divide(machine, cores, num_runs, expected):
    machine(cores)
    assert runtime.default_devices(num_runs) == expected


def test_environments_are_shared_where_all_runs_together_have_enough(machine):
    machine(2)
    assert runtime.default_devices(1, 64) == runtime.default_devices(3, 64) == 1
    assert runtime.default_devices(5, 64) == runtime.default_devices(1, 256) == 2
    assert runtime.default_devices(5) == runtime.default_devices(99, 8) == 1


@pytest.mark.parametrize("parts, expected", [(8, 4), (6, 2), (1, 1)])
def test_what_else_must_divide_among_the_devices_does(machine, parts, expected):
    machine(4)
    assert runtime.default_devices(1, 1024, parts) == expected


@pytest.mark.parametrize(
    "config, runs, episodes, expected",
    [
        (sac.Config(num_envs=1), 1, 32, 2),  # of 256 transitions, 128 each
        (sac.Config(num_envs=1), 1, 31, 1),
        (sac.Config(batch_size=255), 1, 32, 1),
        (sac.Config(batch_size=512), 1, 32, 4),
        (sac.Config(), 4, 31, 4),  # whole runs
        (ppo.Config(num_envs=1024), 1, 2, 2),
    ],
)
def test_a_learner_shares_what_it_can_by_default(machine, config, runs, episodes, expected):
    machine(4)
    assert registry.default_devices(config, runs, episodes) == expected


@pytest.mark.parametrize("cores", [3, 5, 6, 7, 12, 16, 64])
@pytest.mark.parametrize("num_envs", [960, 1024, 4096])
def test_ppos_8_blocks_of_environments_divide_among_the_devices(machine, cores, num_envs):
    machine(cores)
    devices = runtime.default_devices(1, num_envs)
    assert 8 % devices == 0 and num_envs % (16 * devices) == 0 and 2 <= devices <= cores


def test_an_accelerator_is_one_device_unless_the_cpu_is_asked_for(machine):
    machine(4, accelerator=True)
    assert runtime.default_devices(1, 1024) == 1
    machine(4, platforms="cpu", accelerator=True)
    assert runtime.default_devices(1, 1024) == 4
    machine(4, platforms="cuda")
    assert runtime.default_devices(1, 1024) == 1


@pytest.mark.parametrize(
    "name, expected",
    [("nvidia0", True), ("nvidia3", True), ("nvidia12", True), ("accel0", True), ("kfd", True)]
    + [("nvidiactl", False), ("nvidia-uvm", False), ("null", False)],
)
def test_an_accelerator_is_known_by_its_device(tmp_path, name, expected):
    (tmp_path / name).touch()
    assert runtime._has_accelerator(tmp_path) == expected


# --- In a process of its own ---

CONTAINMENT = """
from jaxrl.run import hosts, runtime
runtime.setup(2)
import jax, jax.numpy as jnp, numpy as np
from envs.vector import vectorize
from probes import Probe
assert jax.device_count() == 2

def run(plant):
    vec = vectorize(Probe(length=50.0, sees_cue=1.0, plant=plant, plant_at=3.0), 32)
    def step(state, _):
        state = vec.step(state, jnp.zeros((32, 1)))
        return state, (state.nonfinite, state.now, state.final_obs)
    return jax.lax.scan(step, vec.reset(jax.random.key(0)), None, length=3)[1]

run = jax.jit(run)
sound = run(0.0)[1]
for plant in (jnp.nan, jnp.inf, -jnp.inf):
    broken, env, final_obs = run(plant)
    cursed = np.asarray(sound.data.cue[0] > 0)
    assert 0 < cursed.sum() < 32
    np.testing.assert_array_equal(broken[-1], cursed)
    assert not broken[:-1].any()
    np.testing.assert_array_equal(env.truncated[-1], cursed)
    for x in (env.obs, env.reward, env.data.t, final_obs):
        assert np.isfinite(x).all()
    for a, b in zip(jax.tree.leaves(env), jax.tree.leaves(sound)):
        np.testing.assert_array_equal(a[:, ~cursed], b[:, ~cursed])
print("contained")
"""


def test_a_broken_simulation_is_contained_under_fast_math():
    done = subprocess.run(
        [sys.executable, "-c", CONTAINMENT],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stdout.strip() == "contained", done.stderr[-3000:]


def test_hardware_names_the_cpu_and_its_memory():
    assert re.search(r"^cpu, .+, \d+ CPU cores, \d+ GiB, \w+$", runtime.hardware())
