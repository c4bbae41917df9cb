"""The half of a peer's driver that talks to `peers.py` or `time_to_score.py`; needs no package.

Every driver is a process that reads a word a line and answers each with a line of JSON, so
that several trainers in different virtual environments can take turns.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata

try:
    import jax
except ImportError:  # a peer of PyTorch
    jax = None


def settings() -> dict:
    """What the benchmark gave on the command line."""
    return json.loads(sys.argv[1])


def serve(
    packages: Sequence[str], train: Callable[[], dict], evaluate: Callable[[], float]
) -> None:
    """Answers "train" with `train()`, the seconds it took and those of them that XLA compiled;
    "evaluate" with the mean return."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer

    def say(answer: dict) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    compiled = []

    def note(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    if jax is not None:
        jax.monitoring.register_event_duration_secs_listener(note)
    say({"versions": {p: metadata.version(p) for p in packages}})
    for line in sys.stdin:
        if line.strip() == "train":
            compiled.clear()
            start = time.perf_counter()
            answer = train()
            seconds = time.perf_counter() - start
            say({"seconds": seconds, "compile_seconds": sum(compiled)} | answer)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            say({"return": float(evaluate()), "memory_bytes": memory})
    os._exit(0)  # a trainer that waits in a thread would keep the process
