"""Commands while they start: signals, streams and settings of the surroundings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrl.report import terminal
from jaxrl.run.interrupt import Interrupt

ROOT = Path(__file__).parents[2]


def start(code, **environment):
    """A process that Ctrl-C reaches, also where these tests run in the background of a shell, which
    ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_importing_is_one_line():
    code = "import jaxrl.cli.starting; import time; print('here', flush=True)\nwhile True: time.sleep(0.1)"
    process = start(code)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "stopped\n") and process.returncode == 130


TRACING = """
import jaxrl.cli.starting
import time, jax
from jaxrl.report import terminal

def step(x):
    print("here", flush=True)
    for _ in range(600):
        time.sleep(0.1)  # an environment that takes long to trace

terminal.run(lambda: jax.jit(step).lower(1.0).compile())
"""
COMPILING = """
import jaxrl.cli.starting
import os, time
from jaxrl.report import terminal
from jaxrl.run import program
from jaxrl.run.interrupt import Interrupt

class Slow:
    def lower(self, *_):
        return self

    def compile(self, options):
        os.write(1, b"here\\n")  # at once, as others do
        time.sleep(60)  # in a thread, as XLA compiles there

def main():
    made = object.__new__(program.Program)
    made._step = made._evaluate = made._init = Slow()
    made._state_like = made._sums_like = made._data = made._init_args = ()
    made._shardings, made._of_runs, made._everywhere, made._eval_keys = (), (), (), ()
    with Interrupt(quiet=False):
        made.compile()

program._placed = program.hosts.put = lambda tree, _: tree
program.jax.ShapeDtypeStruct = lambda *_: ()
terminal.run(main)
"""


@pytest.mark.parametrize("code, said", [(TRACING, ""), (COMPILING, "SIGINT: stopping after")])
def test_ctrl_c_while_compiling_is_no_traceback(code, said):
    """A run that compiles says that it will stop, and stops at once at the second Ctrl-C."""
    process = start(code, JAX_PLATFORMS="cpu")
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    if said:
        assert process.stderr.readline().startswith(said)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors == "stopped\n" and process.returncode == 130


def test_too_few_files_are_one_line_and_a_low_soft_limit_is_raised():
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))\n"
        "import jaxrl.cli.starting\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said, errors = start(code.format(32, 32)).communicate(timeout=20)
    assert said == "" and errors.startswith("error: only 32 files may be open at once, at least 64")
    assert errors.count("\n") == 1
    assert start(code.format(32, 512)).communicate(timeout=20) == ("(512, 512)\n", "")


def test_a_closed_output_is_not_the_next_file_that_is_opened(tmp_path):
    code = (
        "import os; os.close(1); import jaxrl.cli.starting; print(os.dup(0) > 2, file=sys.stderr)"
    )
    process = start(f"import sys; {code}")
    assert process.communicate(timeout=20) == ("", "True\n")


@pytest.mark.parametrize(
    "name",
    [
        "JAX_ENABLE_X64",
        "JAX_DEFAULT_PRNG_IMPL",
        "JAX_DEFAULT_MATMUL_PRECISION",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    ],
)
def test_a_setting_that_jax_refuses_is_one_line(name):
    process = start("import jaxrl.cli.starting; import jax", **{name: "maybe"})
    _, said = process.communicate(timeout=60)
    assert said.startswith(f"error: {name}='maybe': ") and said.count("\n") == 1
    assert process.returncode == 2


def test_another_error_while_importing_is_a_traceback():
    _, said = start("import jaxrl.cli.starting; 1 / 0").communicate(timeout=20)
    assert "Traceback" in said and "ZeroDivisionError" in said  # ours


@pytest.mark.parametrize(
    "flag",
    [
        "--xla_nonsense=3",
        "--xla_cpu_enable_fast_math=maybe",
        "--xla_force_host_platform_device_count=0",
    ],
)
def test_flags_that_xla_refuses_are_one_line(flag):
    code = "from jaxrl.report import terminal; from jaxrl.run import runtime; terminal.run(runtime.setup)"
    process = start(code, XLA_FLAGS=flag, JAX_PLATFORMS="cpu")
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and said == "", errors
    assert errors.startswith(f"error: XLA_FLAGS='{flag}': ") and errors.count("\n") == 1, errors


def test_every_command_begins_with_what_catches_that():
    commands = [p for p in (ROOT / "experiments").glob("*.py") if "script.run(" in p.read_text()]
    for path in (*commands, ROOT / "jaxrl/play.py", ROOT / "jaxrl/plot.py"):
        imports = [x for x in path.read_text().splitlines() if x.startswith(("import ", "from "))]
        first = [line for line in imports if "__future__" not in line][0]
        assert first.startswith("import jaxrl.cli.starting"), path
    assert len(commands) > 10


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_asks_a_run_to_save_and_stop(name):
    before = signal.getsignal(signal.Signals[name])
    with Interrupt(quiet=True) as interrupt:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(0.01)
        assert interrupt.requested == name
    assert signal.getsignal(signal.Signals[name]) == before


def test_a_command_without_streams_runs(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as ended:
        terminal.run(lambda: print("unheard") or 0)
    assert ended.value.code == 0


def test_letters_that_the_locale_lacks_are_no_error():
    code = "from jaxrl.report import terminal; terminal.run(lambda: print('\\u2501 \\xe4') or 0)"
    process = start(code, PYTHONIOENCODING="ascii", JAX_PLATFORMS="cpu")
    said, errors = process.communicate(timeout=60)
    assert said == "\\u2501 \\xe4\n" and process.returncode == 0, errors
