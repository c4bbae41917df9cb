"""Our own MJCF files, and how a task loads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.gl import mujoco
from envs.mjx.simulator import FAST, Simulator, load


def load_asset(
    xml: str, physics: str = "accurate", impl: str = "jax", fast: dict[str, Any] = FAST
) -> Simulator:
    """Loads a model file of this folder.

    Args:
      xml: file name.
      physics: "accurate" (the file's own options) or "fast" (the options in `fast` on top).
      impl: see `envs.mjx.simulator.load`.

    Raises:
      ValueError: unknown `physics` or `impl`.
    """
    if physics not in ("accurate", "fast"):
        raise ValueError(f"physics={physics!r}: allowed are 'accurate' and 'fast'")
    mj_model = mujoco.MjModel.from_xml_path(str(Path(__file__).parent / xml))
    return load(mj_model, impl, fast if physics == "fast" else {})
