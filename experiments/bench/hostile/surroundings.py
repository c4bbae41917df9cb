"""What surrounds a command: variables of the environment, streams, limits, the locale, signals.

A command works, or ends with one line that names what is wrong. What needs no picture goes on without one.
A signal before a run begins ends it at once, and later lets it save.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from experiments.bench import forks
from experiments.bench.hostile import Case, Draw, numbered, small_run
from experiments.bench.hostile.commands import DEMOS, PLAY, PPO, check, run_command

COMMANDS = {
    "ppo": PPO,
    "play": PLAY,
    "film": "-m jaxrl.play {run} --episodes 1 --width 32 --height 32 --video {new}.mp4",
    "plot": "-m jaxrl.plot {run} --out {new}.png",
    "demos": DEMOS,
}
WITHOUT_DEVICE = ("plot",)
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TOGETHER = {"JAX_COORDINATOR_ADDRESS": "localhost:9", "JAX_PROCESS_ID": "0"}
SIGNALS = {"SIGINT": -2, "SIGTERM": -15, "SIGUSR1": -10, "SIGHUP": -1}  # and the code it ends with
DELAYS = (0.0, 0.05, 0.3, 1.0, 2.0, 4.0)  # seconds


@dataclass(frozen=True)
class Surrounding:
    """What a command starts with, and what it may do.

    `ends` is "fine" where every command works, "refused" where those refuse that use a device, ""
    where either is right.
    """

    env: dict[str, str] = field(default_factory=dict)
    given: forks.Given = forks.Given()
    ends: str = "fine"
    names: tuple[str, ...] = ()  # one of these is in a refusal
    folder: str = "made"  # of what is written

    @property
    def what(self) -> str:
        default = forks.Given()
        changed = {k: v for k, v in vars(self.given).items() if v != getattr(default, k)}
        parts = [f"{k}={v[:30]!r}" for k, v in (self.env | changed).items() if isinstance(v, str)]
        parts += [f"{k}={v}" for k, v in changed.items() if not isinstance(v, str)]
        return " ".join(parts + [f"folder={self.folder[:20]!r}"] * (self.folder != "made"))


def of(name: str, *values: str, ends: str = "fine") -> list[Surrounding]:
    """One variable with each of these values."""
    names = (name, *TOGETHER) if name == "JAX_NUM_PROCESSES" else (name,)
    return [Surrounding({name: value}, ends=ends, names=names) for value in values]


def together(*counts: str) -> list[Surrounding]:
    """Several processes, of which this is the only one."""
    name = "JAX_NUM_PROCESSES"
    return [Surrounding(TOGETHER | {name: n}, ends="refused", names=(name,)) for n in counts]


VARIABLES = [
    *of("MUJOCO_GL", "osmesa", "egl", "glx", "glfw", "", "nonsense", "disable", "0", "EGL ", "ü"),
    *of("PYOPENGL_PLATFORM", "nonsense"),
    *of("JAX_PLATFORMS", "cuda", "tpu", "nonsense", ",", ends="refused"),
    *of("JAX_PLATFORMS", "", "cpu", "cpu,cuda", ends=""),
    *of("JAX_NUM_PROCESSES", "0", "-1", "x", "2", "1e9", "", ends="refused"),
    *together("0", "-1", "x", ""),
    *of("JAX_ENABLE_X64", "maybe", "1", ends=""),
    *of("JAX_DEBUG_NANS", "1", "maybe", ends=""),
    *of("JAX_DEBUG_KEY_REUSE", "1"),
    *of("JAX_DEFAULT_PRNG_IMPL", "rbg", "nonsense", ends=""),
    *of("JAX_THREEFRY_PARTITIONABLE", "0"),
    *of("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16", "nonsense", ends=""),
    *of("JAX_LOG_COMPILES", "1"),
    *of("JAX_TRACEBACK_FILTERING", "off", "nonsense", ends=""),
    *of("JAX_COMPILATION_CACHE_DIR", "/proc/nowhere", "/dev/null", "/nowhere/ü", ""),
    *of("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "x", "-1", ends=""),
    *of("XLA_FLAGS", "--xla_nonsense=1", "nonsense", "--xla_cpu_enable_fast_math=maybe", ends=""),
    *of("XLA_FLAGS", "--xla_force_host_platform_device_count=0", "-", " ", ends=""),
    *of("TF_CPP_MIN_LOG_LEVEL", "x"),
    *of("HOME", "/nowhere", "/dev/null", ""),
    *of("COLUMNS", "0", "-1", "x", "1"),
    *of("TERM", "dumb", "nonsense", ""),
    *of("DISPLAY", ":99"),
    *of("PYTHONIOENCODING", "ascii", "cp1252"),
    *of("MPLBACKEND", "nonsense", "TkAgg"),
    *of("MPLCONFIGDIR", "/dev/null"),
    *of("OMP_NUM_THREADS", "x", "0"),
    *of("TMPDIR", "/nowhere"),
    Surrounding(POSIX),
    Surrounding(POSIX, folder="läuft ü"),
]
STREAMS = [
    *(Surrounding(given=forks.Given(closed=c)) for c in ((1,), (2,), (0,), (1, 2), (0, 1, 2))),
    *(Surrounding(given=forks.Given(out=out), ends="") for out in ("|", "/dev/full")),
    *(
        Surrounding(given=forks.Given(limits={name: size}), ends="")
        for name, sizes in (("RLIMIT_NOFILE", (8, 20, 64, 100)), ("RLIMIT_FSIZE", (30_000, 10**5)))
        for size in sizes
    ),
    Surrounding(folder="läuft ü"),
    *(Surrounding(folder=folder, ends="") for folder in ("a\nb", "x" * 250)),
]


def prepare(root: Path) -> Draw:
    run, _ = small_run(root)
    return lambda number: draw(number, root, run)


def group(number: int) -> str:
    """Inputs with the same variables share the process that they are forked from."""
    return str(sorted(drawn(number)[1].env.items()))


def drawn(number: int) -> tuple[str, Surrounding]:
    """The name of a command, and what surrounds it."""
    rng, pick = numbered(number, 24)
    kind, command = rng.random(), pick(list(COMMANDS))
    if kind < 0.85:
        return command, pick(VARIABLES if kind < 0.6 else STREAMS)
    given = forks.Given(signal=pick(list(SIGNALS)), after=pick(DELAYS))
    return command, Surrounding(given=given, ends="")


def draw(number: int, root: Path, run: Path) -> Case:
    command, around = drawn(number)
    return case(command, around, Path(tempfile.mkdtemp(dir=root)), run)


def case(command: str, around: Surrounding, folder: Path, run: Path) -> Case:
    """A command that reads `run` and writes into `folder`."""
    made = folder / around.folder
    words = [word.format(run=run, new=made) for word in COMMANDS[command].split()]
    return Case(f"{command} with {around.what}", lambda: tried(command, words, around))


def tried(command: str, words: list[str], around: Surrounding) -> str:
    done = run_command(words, around.env, around.given)
    codes = {0, 2}
    if around.given.out == "|":
        codes |= {1}  # of a table that no one reads: `rich` ends the process without a word
    if around.given.signal:
        codes |= {130, SIGNALS[around.given.signal]}
        if "stopped" in done.stderr.splitlines():
            return "stopped"
    must = around.ends == "refused" and command not in WITHOUT_DEVICE
    if 2 in around.given.closed and done.returncode == 2:
        became = "refused"  # and nothing can be said
    else:
        became = check(done, around.names, must, codes)
    draws = command == "film" and set(around.env) & {"MUJOCO_GL", "PYOPENGL_PLATFORM"}
    if around.ends == "fine" and became == "refused" and not draws:
        raise RuntimeError(f"refused: {done.stderr.strip()}")
    return became
