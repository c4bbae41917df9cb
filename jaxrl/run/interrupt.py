"""Signals to a run: it stops at a point from which it can resume."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any


class Interrupt:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a request to stop, which the loop reads between chunks.

    Schedulers send SIGTERM or SIGUSR1 before they kill a job. A second SIGINT (Ctrl-C) raises
    KeyboardInterrupt. Further SIGTERMs are ignored.
    """

    def __init__(self, quiet: bool):
        self.requested: str | None = None
        self._quiet, self._held, self._keyboard = quiet, False, 0
        self._old: dict[int, Any] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No signal raises an exception within this context."""
        self._held = True
        yield
        self._held = False

    def __enter__(self) -> Interrupt:
        with contextlib.suppress(ValueError):  # not the main thread: leave signals alone
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._old[number] = signal.signal(number, self._request)
        return self

    def _request(self, number, _frame) -> None:
        self._keyboard += number == signal.SIGINT
        if self._keyboard > 1 and not self._held:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = signal.Signals(number).name
            if not self._quiet:  # not by `print`, because the signal may have interrupted one
                text = f"{self.requested}: stopping after this chunk, or once compiled"
                os.write(2, f"{text}; Ctrl-C again stops at once\n".encode())

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
