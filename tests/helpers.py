"""What several test files share: other processes, and where several devices can be had."""

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import jax

TESTS = Path(__file__).parent


def forget_programs() -> None:
    """Frees the memory of every compiled program that no one holds."""
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def process(module: str, code: str, **environment) -> subprocess.CompletedProcess:
    """Runs `code` after `from MODULE import *` (a test file) in another process."""
    folders = [TESTS.parent, TESTS, *(p for p in TESTS.iterdir() if p.is_dir())]
    return subprocess.run(
        [sys.executable, "-c", f"from {module} import *\n{code}"],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "JAX_PLATFORMS": "cpu",
        }
        | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
