"""Forks that run commands and calls: arguments, streams, limits, signals, hangs and deaths."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.bench import forks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A function that runs a script of this text in a fork."""
    folder = tmp_path_factory.mktemp("forks")

    def run(text, *words, timeout=60.0, env=None, given=None):
        path = folder / "script.py"
        path.write_text(text)
        env = dict(os.environ) | (env or {})
        return forks.run([str(path), *words], ROOT, env, timeout, given)

    return run


def test_a_fork_has_its_own_words_streams_and_exit_code(script):
    text = "import sys; print(sys.argv[1:]); print('said', file=sys.stderr); sys.exit(3)"
    done = script(text, "--a", "ü")
    assert (done.stdout, done.stderr, done.returncode) == ("['--a', 'ü']\n", "said\n", 3)
    assert script("import jaxrl.cli.play, sys; print('jax' in sys.modules)").stdout == "True\n"


def test_a_fork_that_hangs_is_killed_and_the_next_one_runs(script):
    with pytest.raises(subprocess.TimeoutExpired):
        script("import time; time.sleep(60)", timeout=0.2)
    assert script("print(1)").stdout == "1\n"


def test_a_command_that_cannot_import_runs_by_itself(script):
    done = script("import jaxrl.cli.starting, jax", env={"JAX_ENABLE_X64": "maybe"})
    assert done.returncode == 2 and done.stderr.startswith("error: JAX_ENABLE_X64='maybe'")


def test_streams_are_closed_limits_set_and_signals_sent(script):
    closed = forks.Given(closed=(1,))
    text = "import os, sys; print(sys.stdout, os.dup(0) > 2, file=sys.stderr)"
    assert script(text, given=closed).stderr == "None True\n"
    few = forks.Given(limits={"RLIMIT_NOFILE": 32})
    done = script("print('unreached')", given=few)
    assert done.returncode == 2 and done.stderr.startswith("error: only 32 files may be open")
    unread = script("print('x', flush=True)", given=forks.Given(out="|"))
    assert "BrokenPipeError" in unread.stderr
    asked = forks.Given(signal="SIGTERM", after=0.1)
    assert script("import time; time.sleep(60)", given=asked).returncode == -15


def test_each_environment_has_a_process_of_its_own_and_the_last_used_are_kept(script, monkeypatch):
    monkeypatch.setattr(forks, "MOST_SERVERS", 1)
    text = "import os; print(os.environ['FORKS'])"
    assert script(text, env={"FORKS": "a"}).stdout == "a\n"
    (server,) = forks._servers.values()
    script(text, env={"FORKS": "a"})
    assert list(forks._servers.values()) == [server] and server.poll() is None


def test_a_number_that_hangs_or_dies_has_gone_wrong_and_the_others_have_not():
    def start():
        def call(number):
            if number == 2:
                time.sleep(60)
            if number == 3:
                os._exit(7)
            if number == 5:
                raise ValueError("five\nand more")
            return f"{number} of {os.getpid() != parent}"

        return call

    parent = os.getpid()
    told = list(forks.each(start, range(7), seconds=0.5, batch=4))
    assert told == [
        (0, "0 of True", ""),
        (1, "1 of True", ""),
        (2, "", "hangs: takes over 0.5 s"),
        (3, "", "ends its process with exit code 7"),
        (4, "4 of True", ""),
        (5, "", "ValueError: five"),
        (6, "6 of True", ""),
    ]


def test_a_start_that_fails_is_told_with_the_first_number(capfd):
    assert list(forks.each(lambda: 1 / 0, [4], seconds=5.0)) == [
        (4, "", "ends its process with exit code 1")
    ]
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_process_to_fork_from_ends_with_this_one():
    code = (
        "from experiments.bench import forks; import os; from pathlib import Path\n"
        "forks.run(['-c'], Path('.'), dict(os.environ), 60)\n"
        "print([s.pid for s in forks._servers.values()][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
