"""Settings before JAX starts: XLA flags for the CPU, devices, the compilation cache.

Measured on two cores (see experiments/bench): without YNN fusion and with fast math MJX
steps 1.5 to 2.5 times faster, and one host device per core uses all cores. Random bits without a
loop (jaxrl/run/threefry.py) make SAC a tenth faster and compile faster. Fast math keeps NaN and
infinity, because the containment of broken simulations relies on them.
The flags are always set, because asking for the backend would initialise JAX. Other backends ignore
them.
"""

from __future__ import annotations

import os
import platform
import re
import warnings
from pathlib import Path

import psutil

# Only these jaxlib releases are known to have the flags. An unknown flag ends the process.
KNOWN_JAXLIB = ("0.10.", "0.11.")
CPU_FLAGS = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_enable_fast_math": "true",
    "xla_cpu_fast_math_honor_nans": "true",
    "xla_cpu_fast_math_honor_infs": "true",
    # Two batched LAPACK calls at once can deadlock under this scheduler.
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
# Only YNN uses the matrix units (AMX). Products in float32 are faster without it.
BFLOAT16_FLAGS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
# "default": JAX's own, which is float32 on a CPU, TF32 on a GPU, bfloat16 on a TPU.
PRECISIONS = ("default", "bfloat16", "float32")
MOST_DEVICES = 256  # host devices per process at most; many more take minutes to start
MIN_SHARE = 128  # environments (or transitions of a batch) per device, over all runs


def setup(
    devices: int | None = None, cache: bool = True, matmul_precision: str = "default"
) -> None:
    """Call first in a script, before any array exists.

    Args:
      devices: host devices to split a CPU into, of all processes together (None: leave as is).
        Ignored on a GPU.
      cache: keep compiled programs in `~/.cache/jaxrl` (or JAX_COMPILATION_CACHE_DIR).
      matmul_precision: of the networks' products, see `PRECISIONS`. Physics is in float32.

    Flags that the user has set in XLA_FLAGS win; ours are appended. Where the environment has
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, this
    process joins the others, which run the same script.

    Raises:
      ValueError: some of those variables are missing, `devices` is not a multiple or above
        `MOST_DEVICES` per process, an unknown precision, or JAX_PLATFORMS names no device here.
    """
    import jax
    import jaxlib

    from jaxrl.run import threefry

    if matmul_precision not in PRECISIONS:
        raise ValueError(
            f"matmul_precision={matmul_precision!r}: allowed are {', '.join(PRECISIONS)}"
        )
    if matmul_precision != "default":
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    processes = num_processes()
    if devices is not None and devices % processes:
        raise ValueError(f"devices={devices}: must be a multiple of JAX_NUM_PROCESSES={processes}")

    if devices is not None and devices > MOST_DEVICES * processes:
        raise ValueError(f"devices={devices}: must be at most {MOST_DEVICES * processes}")
    flags = os.environ.get("XLA_FLAGS", "")
    check_flags(flags)
    wanted = {}
    if jaxlib.__version__.startswith(KNOWN_JAXLIB):
        wanted |= CPU_FLAGS
        threefry.unroll()
        if jax.config.jax_default_matmul_precision == "bfloat16":
            wanted |= BFLOAT16_FLAGS
    if devices is not None:
        wanted["xla_force_host_platform_device_count"] = str(devices // processes)
    for name, value in wanted.items():
        if not re.search(rf"--{name}\b", flags):
            flags += f" --{name}={value}"
    os.environ["XLA_FLAGS"] = flags.strip()
    if cache:
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path.home() / ".cache/jaxrl"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if processes > 1:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"], processes, int(os.environ["JAX_PROCESS_ID"])
        )
    if platforms := os.environ.get("JAX_PLATFORMS"):
        try:
            jax.devices()
        except (AssertionError, RuntimeError) as error:
            why = str(error).strip().splitlines() or ["this JAX knows none"]
            raise ValueError(f"JAX_PLATFORMS={platforms!r}: no such device ({why[0]})") from None


def check_flags(flags: str) -> None:
    """Raises ValueError if XLA does not know one of `flags`, or not its value.

    XLA itself would end the process and print its hundreds of flags. A child process tries them, as
    long as JAX has not started, because a process with JAX's threads must not be forked.
    """
    from jax._src import xla_bridge
    from jaxlib import xla_client

    count = re.search(r"--xla_force_host_platform_device_count=(-?\d+)", flags)
    if count and int(count[1]) < 1:
        raise ValueError(f"XLA_FLAGS={flags!r}: the number of devices must be at least 1")
    if not flags or not hasattr(os, "fork") or xla_bridge.backends_are_initialized():
        return
    reader, writer = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # JAX warns of every fork
        child = os.fork()
    if child == 0:
        os.environ["XLA_FLAGS"] = flags
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        xla_client.CompileOptions()  # reads the flags
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as file:
        said = file.read().strip().splitlines()
    if os.waitpid(child, 0)[1] != 0:
        why = said[0].split("] ")[-1] if said else "XLA refuses them"
        raise ValueError(f"XLA_FLAGS={flags!r}: {why[:200]}")


def num_processes() -> int:
    """Returns how many processes run this script together, by the variables of `setup`.

    Raises:
      ValueError: a variable is missing or not a number.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [n for n in names if n in os.environ]
    if not given:
        return 1
    for name in names:
        value = os.environ.get(name, "")
        if not (value if name == names[0] else value.isdigit()):
            raise ValueError(
                f"{name}={value!r}: several processes need {', '.join(names)} (host:port and numbers)"
            )
    count, place = int(os.environ[names[1]]), int(os.environ[names[2]])
    if count < 1:
        raise ValueError(f"{names[1]}={count}: must be at least 1")
    if place >= count:
        raise ValueError(f"{names[2]}={place}: must be 0 .. {count - 1}, below {names[1]}={count}")
    return count


def check_seed(seed: int, seeds: int = 1) -> None:
    """Raises ValueError unless `seed` .. `seed + seeds - 1` give different keys."""
    if type(seed) is bool or not hasattr(seed, "__index__") or not 0 <= seed <= 2**32 - seeds:
        raise ValueError(f"seed={seed!r}: must be 0 .. {2**32 - seeds}, whole")


def default_devices(num_runs: int, samples: int = 0, parts: int = 8) -> int:
    """Returns how many devices to use, of all processes together.

    On an accelerator it is 1 per process. On a CPU it is the largest of 8, 4, 2 per process that is
    at most the number of cores and divides the runs, or else the samples of each run.

    Args:
      num_runs: vmapped runs.
      samples: environments or transitions of a batch, per run; 0: not to be shared.
      parts: blocks of minibatches, or episodes, which the number must divide to share samples.

    Samples are shared only if every device gets `MIN_SHARE` of them, over all runs. With fewer,
    devices lose more by waiting for each other than they gain. On two cores, two devices against
    one: PPO on pendulum_swingup with 64 environments 0.5 times as fast, on hopper with 128
    environments equal, with 256 1.8 times; five runs of 64 environments on half_cheetah 1.6
    times, on pendulum_swingup 0.7 times.

    Reads the environment only, because asking JAX would initialise it.
    """
    processes = num_processes()
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms not in ("", "cpu") or (platforms == "" and _has_accelerator()):
        return processes
    # The cores of this container or job, not of the machine.
    on_mine = getattr(os, "sched_getaffinity", None)
    cores = len(on_mine(0)) if on_mine else os.cpu_count() or 1
    enough = lambda d: num_runs * samples >= d * MIN_SHARE
    # 16 is envs.vector.POOL_PERIOD.
    even = lambda d: samples % (d * 16) == parts % d == 0 and enough(d)
    shares = lambda d: num_runs % d == 0 or even(d)
    return processes * next((d for d in (8, 4, 2) if d <= cores and shares(d * processes)), 1)


def settings() -> dict[str, bool | str]:
    """Returns the settings of JAX and XLA that change what a run computes.

    A run records them and resumes only under the same settings.
    """
    import jax

    names = ("enable_x64", "default_prng_impl", "threefry_partitionable", "debug_nans")
    found = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    flags = re.findall(r"--(xla_\w*fast_math\w*)(?:=(\S*))?", os.environ.get("XLA_FLAGS", ""))
    return found | {name: value or "true" for name, value in flags}


def hardware() -> str:
    """Returns the device, the CPU's model and cores, and main memory as one text."""
    import jax

    memory = psutil.virtual_memory().total / 2**30
    kind, cores = jax.devices()[0].device_kind, os.cpu_count()
    return f"{kind}, {_cpu_model()}, {cores} CPU cores, {memory:.0f} GiB, {platform.machine()}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")  # on Linux, where `platform` does not know the model
    named = re.search(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.M)
    return named[1] if named else platform.processor() or "unknown CPU"


def _has_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether a GPU or TPU is here. A container may have any NVIDIA GPU, not only the first."""
    return any(any(devices.glob(name)) for name in ("nvidia[0-9]*", "accel0", "kfd"))
