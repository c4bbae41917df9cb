"""Imported first by every command: what goes wrong while the rest is imported is one line.

It also settles what the process must have before JAX starts: three open streams, enough files that may
be open, and no alarms of XLA on the screen (`run/program.py` says by itself that compilation is slow).
`terminal.run` takes over from here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import TracebackType

LEAST_FILES = 64  # that may be open at once; writing a checkpoint has some 20 open
WANTED_FILES = 4096


def _stop(*_) -> None:
    """Ctrl-C before there is anything to save."""
    os.write(2, b"stopped\n")
    os._exit(130)


def _one_line(kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """Values of the environment that JAX refuses when it is imported."""
    words = {word.strip("'\"").upper() for word in str(error).split()}  # flags are in lower case
    named = [name for name in os.environ if name.startswith("JAX_") and name in words]
    if not (issubclass(kind, ValueError) and named):
        return sys.__excepthook__(kind, error, trace)
    print(f"error: {named[0]}={os.environ[named[0]]!r}: {error}".splitlines()[0], file=sys.stderr)
    sys.stderr.flush()
    os._exit(2)  # as for any mistake of the user; Python's own code is 1 here


def _open_streams() -> None:
    """Opens standard streams that are closed, as /dev/null. Else the next file that is opened would
    become the standard output, and what is printed would be written into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _allow_files() -> None:
    """Raises the limit on open files as far as the process may. Ends it where that is too low."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = WANTED_FILES if hard == infinite else min(WANTED_FILES, hard)
    if soft != infinite and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != infinite and soft < LEAST_FILES:
        text = f"error: only {soft} files may be open at once, at least {LEAST_FILES} are needed"
        os.write(2, f"{text}: raise `ulimit -n`\n".encode())
        os._exit(2)


with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _one_line
_open_streams()
_allow_files()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # only what ends the process
