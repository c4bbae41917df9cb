"""Imported first by every command: what goes wrong while the rest is imported is one line.

`terminal.run` takes over from here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import TracebackType


def _stop(*_) -> None:
    """Ctrl-C before there is anything to save."""
    os.write(2, b"stopped\n")
    os._exit(130)


def _one_line(kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """Values of the environment that JAX refuses when it is imported."""
    named = [name for name in os.environ if name.startswith("JAX_") and name in str(error)]
    if not (issubclass(kind, ValueError) and named):
        return sys.__excepthook__(kind, error, trace)
    print(f"error: {named[0]}={os.environ[named[0]]!r}: {error}".splitlines()[0], file=sys.stderr)


with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _one_line
