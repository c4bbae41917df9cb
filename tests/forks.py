"""Commands of Python that start at once: forks of a process that has imported what they import.

Importing JAX, MJX and this library takes two to five seconds, of which a test of one bad flag needs
none. A fork is a process of its own, with its own arguments, streams, signals and exit code; only
the imports are shared. What depends on how a process starts is tested without (test_starting.py,
test_readme.py).
"""

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

IMPORTED = (
    "jaxrl.cli.starting",  # first, as in every command
    "jaxrl.cli.script",
    "jaxrl.cli.play",
    "jaxrl.cli.plot",
    "jaxrl.data.recording",
    "jaxrl.learners.imitation.chunks",
    "jaxrl.learners.off_policy.sac",
    "jaxrl.learners.offline.iql",
    "jaxrl.learners.on_policy.ppo",
    "matplotlib.pyplot",
    "orbax.checkpoint",
)
_servers: dict[tuple, subprocess.Popen] = {}  # one at most


def run(words: list[str], cwd: Path, env: dict, timeout: float) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *words], ..., capture_output=True, text=True)`."""
    server = _server({k: v for k, v in env.items() if k != "PYTEST_CURRENT_TEST"}, cwd)
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.path.join(folder, name) for name in ("out", "err")]
        server.stdin.write(json.dumps([words, streams]) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            server.stdout.readline()
            raise subprocess.TimeoutExpired(words, timeout)
        code = int(server.stdout.readline())
        out, err = (Path(stream).read_text() for stream in streams)
    return subprocess.CompletedProcess(words, code, out, err)


def _server(env: dict, cwd: Path) -> subprocess.Popen:
    """The process to fork from; a new one if the environment is another, which imports read."""
    key = (str(cwd), *sorted(env.items()))
    if key not in _servers:
        _stop()
        process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        _servers[key] = process
    return _servers[key]


@atexit.register
def _stop() -> None:
    for process in _servers.values():
        process.stdin.close()  # which ends it
        process.wait()
    _servers.clear()


def _serve() -> list[str]:
    """Forks for every line of the input; returns only in a fork, with its arguments."""
    for line in sys.stdin:
        words, streams = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, stream in enumerate(streams, 1):
                os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
            return words
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    warnings.filterwarnings("ignore", "os.fork")  # no device has been used, so no thread runs
    first, *rest = _serve()
    if first == "-m":
        sys.argv, sys.path[:0] = rest, [os.getcwd()]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = [first, *rest], [os.path.dirname(os.path.abspath(first))]
        runpy.run_path(first, run_name="__main__")
