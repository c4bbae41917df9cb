"""MuJoCo, imported so that it chooses its OpenGL library when a picture is drawn.

MuJoCo reads MUJOCO_GL while it is imported. It raises where it does not know the value or where the
library is missing, although physics need neither.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

NAME = "MUJOCO_GL"
_put_off = "mujoco" not in sys.modules and NAME in os.environ
_chosen = os.environ.pop(NAME) if _put_off else ""
try:
    import mujoco
finally:
    if _put_off:
        os.environ[NAME] = _chosen


def context() -> Any:
    """Returns MuJoCo's GL module, after it has chosen by MUJOCO_GL.

    Without a display or a choice of the user it chooses EGL.

    Raises:
      Exception: any, because each GL library fails in its own way.
    """
    global _put_off
    module = sys.modules[mujoco.Renderer.__module__].gl_context
    headless = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")
    if headless and not os.environ.get(NAME):
        os.environ[NAME], _put_off = "egl", True
    if _put_off:
        vars(module).pop("GLContext", None)  # which a reload with rendering off would keep
        importlib.reload(module)
        _put_off = False
    return module
