"""Several processes as one machine, over loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl.report import log
from jaxrl.run import checkpoint, hosts, runtime

ROOT = Path(__file__).parents[2]
TINY = "--env point_maze_open --num-envs 32 --unroll-length 4 --num-minibatches 2 --num-epochs 1"
TINY += " --eval-episodes 2 --num-evals 2 --devices 2 --no-video"


def start(flags, run_dir, **variables):
    words = [sys.executable, "experiments/ppo.py", *flags.split(), "--run-dir", str(run_dir)]
    # One device each: whatever the surroundings say would win over what the script asks for.
    environment = os.environ | variables | {"XLA_FLAGS": ""}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_two(flags, run_dir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [start(flags, run_dir, **together, JAX_PROCESS_ID=str(i)) for i in range(2)]


def end(processes, code=0):
    try:
        said = [p.communicate(timeout=240) for p in processes]
    finally:  # one that waits for the other forever
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [code] * len(processes), said
    return said


def arrays(run_dir, step):
    """Digests of everything in a checkpoint but the time it took."""
    found = checkpoint.digests(run_dir / "checkpoints", step)
    return {name: digest for name, digest in found.items() if "seconds" not in name}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])  # environments are shared, or whole runs
def test_two_processes_equal_one(tmp_path, seeds):
    flags = f"{TINY} --total-steps 1280 --seeds {seeds}"
    end([start(flags, tmp_path / "one")])
    (first, _), (second, _) = end(start_two(flags, tmp_path / "two"))
    assert "return" in first and "return" not in second  # one of them speaks
    one, two = arrays(tmp_path / "one", 1280), arrays(tmp_path / "two", 1280)
    assert one == two and len(one) > 20
    measured = lambda path: [r["distance"] for r in log.read(path) if r["kind"] == "eval"]
    assert np.all(np.array(measured(tmp_path / "one")) > 0)
    assert measured(tmp_path / "one") == measured(tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_either_process_stops_both_and_they_resume(tmp_path):
    flags, folder = f"{TINY} --total-steps 12800", tmp_path / "run" / "checkpoints"
    both = start_two(flags, tmp_path / "run")
    while not log.read(tmp_path / "run"):  # the evaluation before the first step
        assert both[0].poll() is None and both[1].poll() is None, end(both)
        time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    end(both, 130)
    (step,) = checkpoint.steps(folder)
    assert 0 < step < 12800
    said = end(start_two(f"{flags} --resume", tmp_path / "run"))
    assert f"resumed at {step:,}" in said[0][0] and checkpoint.steps(folder)[-1] == 12800


@pytest.mark.slow
def test_a_run_directory_that_exists_ends_both_at_once(tmp_path):
    (tmp_path / "mine").write_text("mine")
    both = start_two(f"{TINY} --total-steps 1280", tmp_path)
    said = [err.splitlines()[-1] for _, err in end(both, 2)]
    assert said[0] == f"error: run_dir={tmp_path} exists: add --resume to go on, or choose another"
    assert said[1] == "error: the first process has no run directory; it says why"


def test_variables_that_do_not_go_together_are_named(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='two'"):
        runtime.setup(2)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID=''"):
        runtime.default_devices(1)
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(ValueError, match="devices=3: must be a multiple of JAX_NUM_PROCESSES=2"):
        runtime.setup(3)


def test_one_process_has_nothing_to_agree_on():
    assert hosts.is_main() and hosts.agree(7, True) == (7, True)
    assert hosts.by_main("file", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        hosts.by_main("file", lambda: 1 / 0)
    with pytest.raises(ValueError, match="devices=1000: JAX sees"):
        hosts.devices(1000)
    assert hosts.devices(1) == jax.devices()[:1]
