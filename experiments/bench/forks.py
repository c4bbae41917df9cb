"""Forks of a process that has imported everything: commands that start at once, calls that may die.

Importing JAX, MJX and this library takes two to five seconds. A fork is a process of its own, with its
own arguments, streams, limits, signals and exit code. It shares only the imports.

`run` runs a command line of Python. Variables of the environment are read while Python and JAX start, so
each set of them has a process to fork from. `each` calls a function of this process with many numbers,
and goes on after a number that hangs or kills its fork.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
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
MOST_SERVERS = 3  # processes to fork from that are kept; each holds its imports in memory
STREAMS = ("stdin", "stdout", "stderr")
_servers: dict[tuple, subprocess.Popen] = {}
atexit.register(lambda: [_close(server) for server in _servers.values()])


@dataclass(frozen=True)
class Given:
    """What a process is started with, beside its words and its environment."""

    closed: tuple[int, ...] = ()  # streams that are closed
    out: str | None = None  # the file that its output goes to; "|": a pipe that no one reads
    limits: dict[str, int] = field(default_factory=dict)  # by the names of `resource`
    signal: str = ""  # that it gets ...
    after: float = 0.0  # ... after so many seconds


# --- Commands ---


def run(
    words: list[str], cwd: Path, env: dict, timeout: float, given: Given | None = None
) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *words], ..., capture_output=True, text=True)`.

    Where the environment lets nothing be imported, the command runs in a process that is not a fork.

    Raises:
      subprocess.TimeoutExpired: the process has been killed.
    """
    given = given or Given()
    server = _server({k: v for k, v in env.items() if k != "PYTEST_CURRENT_TEST"}, cwd)
    if server is None:
        whole = [sys.executable, *words]
        return subprocess.run(
            whole, cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True
        )
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.path.join(folder, name) for name in ("out", "err")]
        as_bytes = [os.fsencode(word).decode("latin-1") for word in words]
        server.stdin.write(json.dumps([as_bytes, streams, asdict(given)]) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        timer = threading.Timer(given.after, _send, (pid, given.signal))
        if given.signal:
            timer.start()
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            server.stdout.readline()
            raise subprocess.TimeoutExpired(words, timeout)
        timer.cancel()
        code = int(server.stdout.readline())
        out, err = (
            Path(s).read_text(errors="replace") if Path(s).exists() else "" for s in streams
        )
    return subprocess.CompletedProcess(words, code, out, err)


def _send(pid: int, name: str) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, signal.Signals[name])


def _server(env: dict, cwd: Path) -> subprocess.Popen | None:
    """The process to fork from, one for each environment. None: it cannot import."""
    key = (str(cwd), *sorted(env.items()))
    if key in _servers:
        _servers[key] = _servers.pop(key)  # used last
        return _servers[key]
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    if process.stdout.readline() != "ready\n":
        _close(process)
        return None
    _servers[key] = process
    for old in list(_servers)[:-MOST_SERVERS]:
        _close(_servers.pop(old))
    return process


def _close(process: subprocess.Popen) -> None:
    """Ends a server, which reads its input to the end."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


def _serve() -> list[str]:
    """Forks for every line of the input; returns only in a fork, with its arguments."""
    print("ready", flush=True)
    for line in sys.stdin:
        words, streams, given = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _enter(streams, Given(**given))
            return [os.fsdecode(word.encode("latin-1")) for word in words]
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def _enter(streams: list[str], given: Given) -> None:
    """Makes this fork what a process with these streams and limits is when it starts."""
    import resource

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    if given.out == "|":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif given.out:
        os.dup2(os.open(given.out, os.O_WRONLY), 1)
    for name, value in given.limits.items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (value, value))
    for number in given.closed:
        os.close(number)
        setattr(sys, STREAMS[number], None)
    if given.closed or given.limits:  # what it settles, it settled before
        importlib.reload(sys.modules["jaxrl.cli.starting"])


# --- Calls ---


def each(
    start: Callable[[], Callable[[int], str]],
    numbers: Iterable[int],
    seconds: float,
    batch: int = 200,
) -> Iterator[tuple[int, str, str]]:
    """Calls a function with every number in forks, and yields (number, what it returned, what went wrong).

    One of the two texts is empty. A number that takes longer than `seconds`, or that ends its process,
    has gone wrong; the next one has a new fork.

    Args:
      start: called in a new fork; returns the function.
      numbers: of the calls.
      seconds: of a call, `start` before the first one included.
      batch: calls in one fork at most.
    """
    todo = list(numbers)
    while todo:
        ours, theirs = multiprocessing.Pipe()
        with warnings.catch_warnings(action="ignore"):  # of os.fork, though no thread runs yet
            pid = os.fork()
        if pid == 0:
            ours.close()
            _work(theirs, start, todo[:batch])
        theirs.close()
        done, wrong = 0, ""
        with contextlib.suppress(EOFError):
            while done < min(batch, len(todo)) and not wrong:
                if not ours.poll(seconds):
                    os.kill(pid, signal.SIGKILL)
                    wrong = f"hangs: takes over {seconds:g} s"
                    break
                yield todo[done], *ours.recv()
                done += 1
        _, status = os.waitpid(pid, 0)
        if done < min(batch, len(todo)):
            code = os.waitstatus_to_exitcode(status)
            yield todo[done], "", wrong or f"ends its process with exit code {code}"
            done += 1
        todo = todo[done:]


def _work(results: object, start: Callable[[], Callable[[int], str]], numbers: list[int]) -> None:
    """Sends (what is returned, what went wrong) of every call, and ends this process."""
    code = 1
    try:
        call = start()
        for number in numbers:
            try:
                answer = (str(call(number)), "")
            except Exception as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                answer = ("", f"{type(error).__name__}: {first}")
            results.send(answer)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


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
