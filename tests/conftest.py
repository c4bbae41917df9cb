"""Compiling is most of what the tests do: quickly, and programs are kept between test runs."""

import os
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"

# In the environment, which JAX reads when it is imported, so that processes of a test share it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Half the time to compile, for programs that run for milliseconds; see `optimised`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
if version("jaxlib").startswith("0.10."):  # an unknown flag ends the process
    # The older emitters compile in half the time; what they make is some 6% slower.
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"
    )

import jax  # noqa: E402
import pytest  # noqa: E402
from helpers import forget_programs  # noqa: E402

from jaxrl.run import threefry  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Every compiled program holds memory maps, of which a process may have 65,530."""
    yield
    forget_programs()


@pytest.fixture(autouse=True, scope="module")
def same_surroundings():
    """A test that calls `runtime.setup` leaves its flags to no process of the next file."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="session")
def random_bits_as_jax_compiles_them():
    """A test that calls `runtime.setup` changes no later test: other programs round otherwise."""
    threefry.unroll = lambda: None


@pytest.fixture
def optimised():
    """For a test whose programs run longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
