"""`play --web`: episodes in MuJoCo's own viewer, in a browser and in real time."""

from __future__ import annotations

import itertools
import time
from types import ModuleType
from typing import Any

import jax

from envs.gl import mujoco
from envs.render import mj_model, seconds_per_step, set_pose
from envs.types import Env, acting_key
from jaxrl.episodes import episode_limit
from jaxrl.types import Policy

MISSING = "web: needs MuJoCo's browser viewer, mujoco.studio: pip install 'mujoco>=4'"
DEFAULT_DT = 1 / 30  # s, if the environment does not define the duration of a step


def studio() -> tuple[ModuleType, ModuleType]:
    """MuJoCo's modules `launch_web` and `viewer_protocol`.

    Raises:
      ValueError: this version of MuJoCo has no browser viewer.
    """
    try:
        from mujoco.studio import launch_web, viewer_protocol
    except ImportError as error:
        raise ValueError(f"{MISSING} ({error})") from None
    return launch_web, viewer_protocol


def show(
    env: Env,
    policy: Policy,
    key: jax.Array,
    deterministic: bool = True,
    *,
    episodes: int | None = None,
    port: int = 0,
    title: str = "",
) -> int:
    """Plays episodes until the viewer is closed. Returns how many ended.

    Args:
      env, policy: for one instance, with a MuJoCo model.
      key: of the episodes.
      deterministic: act by the mode of the policy.
      episodes: stop after this many; None: never.
      port: of the page; 0: the first free one from 8080 on.
      title: of the page.

    Raises:
      ValueError: no MuJoCo model, or no viewer.
    """
    try:
        model = mj_model(env)
    except ValueError:
        raise ValueError("web: the task has no MuJoCo model to show; use --video") from None
    launch_web, protocol = studio()
    config = protocol.ViewerConfig(gfx="web", http_port=port, title=title)
    data, dt = mujoco.MjData(model), seconds_per_step(env) or DEFAULT_DT
    reset, step = jax.jit(env.reset), jax.jit(_step, static_argnums=(0, 5))
    ended = 0
    with launch_web.launch(config) as viewer:
        viewer.set_model(model, data=data)
        for number in range(episodes) if episodes else itertools.count():
            start = jax.random.fold_in(key, number)
            state, carry, k_act = reset(start), policy.init_carry(), acting_key(env, start)
            due = time.monotonic()
            for t in range(episode_limit(env) + 1):
                set_pose(model, data, state)
                viewer.sync(model, data)
                if not viewer.is_running():
                    return ended
                if t and bool(state.terminated | state.truncated):
                    break
                k = jax.random.fold_in(k_act, t)
                state, carry = step(env.step, policy, carry, state, k, deterministic)
                due += dt
                time.sleep(max(0.0, due - time.monotonic()))
            ended += 1
    return ended


def _step(step: Any, policy: Policy, carry: Any, state: Any, key: jax.Array, deterministic: bool):
    action, carry = policy.act(carry, policy.view(state), key, deterministic)
    return step(state, action), carry
