"""The way out: an `Env` of ours as a `gymnasium.Env` or a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from envs.contract import single_agent
from envs.registry import make
from envs.render import renderer, seconds_per_step
from envs.types import Box, Discrete, Env, MultiDiscrete, Space
from envs.vector import vectorize

RENDER_MODES = ("rgb_array",)


class _Export:
    """What the two classes share: an episode key, spaces, pictures."""

    def _setup(self, env: Env, seed: int | None, render_mode: str | None, picture: dict):
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode={render_mode!r}: allowed are None and 'rgb_array'")
        seconds = seconds_per_step(env)
        fps = 30 if seconds is None else max(1, round(1 / seconds))
        self.metadata = self.metadata | {"render_fps": fps}
        self.render_mode = render_mode
        self.env = env
        self._picture = picture
        self._seed = seed  # of the first reset, if that is given none
        self._draw = self._state = self._key = None

    def _next_key(self, seed: int | None) -> jax.Array:
        """A key for this reset. A seed restarts the sequence; without one it goes on."""
        if seed is None and self._key is None:
            seed = self._seed
        super().reset(seed=seed)  # Gymnasium's own generator
        if seed is None and self._key is None:
            seed = int(self.np_random.integers(2**32))
        if seed is not None:
            self._key = jax.random.key(np.uint32(seed % 2**32))
        self._key, key = jax.random.split(self._key)
        return key

    def _action(self, action: Any, batch: tuple[int, ...] = ()) -> jax.Array:
        """An action [*batch, ...] for the environment; ValueError where it has another shape or kind."""
        space, given = self.env.action_space, np.asarray(action)
        expected = (*batch, *space.shape)
        if given.shape != expected:
            several = f", one for each of {batch[0]} environments" if batch else ""
            raise ValueError(f"action of shape {given.shape}: must be {expected}{several}")
        allowed = "biuf" if isinstance(space, Box) else "biu"
        if given.dtype.kind not in allowed:
            kind = "numbers" if isinstance(space, Box) else "integers"
            raise ValueError(f"action of type {given.dtype}: must be {kind}")
        if not isinstance(space, Box):
            count = np.asarray(space.nvec if isinstance(space, MultiDiscrete) else space.n)
            wrong = (given < 0) | (given >= count)
            if wrong.any():
                raise ValueError(f"action={given.tolist()}: must be 0 .. {(count - 1).tolist()}")
        return jnp.asarray(given, space.dtype)

    def __reduce__(self):
        name = type(self).__name__
        make = "to_gymnasium_vector" if hasattr(self, "num_envs") else "to_gymnasium"
        raise TypeError(
            f"{name} cannot be pickled, because it holds compiled programs: give the"
            f" other process a function that calls {make}(...) there"
        )

    def __copy__(self):
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self, memo: dict):
        new = object.__new__(type(self))
        vars(new).update({name: copy.deepcopy(x, memo) for name, x in vars(self).items()})
        return new

    def _started(self, what: str) -> Any:
        if self._state is None:
            raise gymnasium.error.ResetNeeded(f"call reset() before {what}()")
        return self._state

    def _picture_of(self, state: Any) -> np.ndarray:
        if self._draw is None:
            self._draw = renderer(self.env, **self._picture)
        return self._draw(state)

    def _stop_drawing(self) -> None:
        if self._draw is not None:
            self._draw.close()
            self._draw = None


class GymnasiumEnv(_Export, gymnasium.Env):
    """One instance; see `to_gymnasium`."""

    metadata = {"render_modes": list(RENDER_MODES)}

    def __init__(self, env: Env, seed: int | None, render_mode: str | None, picture: dict):
        self._setup(env, seed, render_mode, picture)
        self.observation_space = to_gymnasium_space(env.observation_space)
        self.action_space = to_gymnasium_space(env.action_space)
        # Lambdas, because jit would hash a bound method's arrays.
        self._jit_reset = jax.jit(lambda key: env.reset(key))
        self._jit_step = jax.jit(lambda state, action: env.step(state, action))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self._state = self._jit_reset(self._next_key(seed))
        return _numpy(self._state.obs), _scalars(self._state.metrics)

    def step(self, action):
        self._state = self._jit_step(self._started("step"), self._action(action))
        s = jax.device_get(self._state.replace(data=(), info={}))
        reward, terminated, truncated = float(s.reward), bool(s.terminated), bool(s.truncated)
        return _numpy(s.obs), reward, terminated, truncated, _scalars(s.metrics)

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return self._picture_of(self._started("render"))

    def close(self) -> None:
        self._stop_drawing()


class GymnasiumVectorEnv(_Export, gymnasium.vector.VectorEnv):
    """`num_envs` instances in one compiled program; see `to_gymnasium_vector`."""

    metadata = {
        "render_modes": list(RENDER_MODES),
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        env: Env,
        num_envs: int,
        resets: str,
        seed: int | None,
        render_mode: str | None,
        picture: dict,
    ):
        self._setup(env, seed, render_mode, picture)
        self.num_envs = num_envs
        self.single_observation_space = to_gymnasium_space(env.observation_space)
        self.single_action_space = to_gymnasium_space(env.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        vec = vectorize(env, num_envs, resets)
        self._jit_reset = jax.jit(lambda key: vec.reset(key))
        self._jit_step = jax.jit(lambda state, action: vec.step(state, action))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Restarts all environments; one seed for all, a list of seeds is refused."""
        if seed is not None and not isinstance(seed, int | np.integer):
            raise ValueError(f"seed={seed!r}: one integer seeds all {self.num_envs} environments")
        if options and "reset_mask" in options:
            raise ValueError("options['reset_mask']: environments restart by themselves here")
        self._state = self._jit_reset(self._next_key(seed))
        everyone = np.ones(self.num_envs, bool)
        return _numpy(self._state.obs), _masked(_numpy(self._state.now.metrics), everyone)

    def step(self, actions):
        """As Gymnasium's SAME_STEP: `obs` [N, ...] is where to act next.

        Where an episode ended, the metrics in `info` are those of the reset, while
        `info["final_obs"]` and `info["final_info"]` hold what its last action led to: the
        metrics, `episode` (return `r` and length `l`, as Gymnasium's RecordEpisodeStatistics
        writes them), and `nonfinite`, which marks an episode that ended because the
        simulation produced a NaN or an infinity.
        """
        actions = self._action(actions, (self.num_envs,))
        self._state = s = self._jit_step(self._started("step"), actions)
        terminated, truncated = _numpy(s.now.terminated), _numpy(s.now.truncated)
        metrics, done = _numpy(s.now.metrics), terminated | truncated
        info = _masked(metrics, np.ones(self.num_envs, bool))
        if done.any():
            for name, x in _numpy(s.restart.metrics).items():
                info[name][done] = x[done]
            metrics["nonfinite"] = _numpy(s.nonfinite)
            final_obs = _numpy(s.final_obs)
            rows = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(done):
                rows[i] = jax.tree.map(lambda x, i=i: x[i], final_obs)
            info["final_obs"], info["_final_obs"] = rows, done
            episode = {"r": _numpy(s.episode_return), "l": _numpy(s.episode_length)}
            final = _masked(metrics, done) | {"episode": _masked(episode, done)}
            info["final_info"] = final | {"_episode": done.copy()}
            info["_final_info"] = done.copy()
        reward = _numpy(s.now.reward).astype(np.float64)
        return _numpy(s.obs), reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture per environment."""
        if self.render_mode is None:
            return None
        states = jax.device_get(self._started("render").now)
        return tuple(
            self._picture_of(jax.tree.map(lambda x, i=i: x[i], states))
            for i in range(self.num_envs)
        )

    def close_extras(self, **_) -> None:
        self._stop_drawing()


def to_gymnasium(
    env: Env | str,
    *,
    seed: int | None = None,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 360,
    camera: str | int | None = None,
    **overrides,
) -> GymnasiumEnv:
    """One environment for libraries that speak Gymnasium.

    It cannot be pickled. A library that starts processes takes a function that makes it, such as
    `functools.partial(to_gymnasium, "hopper")`.

    Args:
      env: one of ours, or a name for `registry.make`.
      seed: of the first `reset()` without a seed; None draws one.
      render_mode: None or "rgb_array".
      width, height, camera: of the pictures; see `render.renderer`.
      **overrides: for `registry.make`, with a name.

    Raises:
      ValueError: unknown name, override or render mode, or overrides beside an environment.
    """
    picture = {"width": width, "height": height, "camera": camera}
    return GymnasiumEnv(_build(env, overrides), seed, render_mode, picture)


def to_gymnasium_vector(
    env: Env | str,
    num_envs: int,
    *,
    seed: int | None = None,
    render_mode: str | None = None,
    resets: str = "pool",
    width: int = 480,
    height: int = 360,
    camera: str | int | None = None,
    **overrides,
) -> GymnasiumVectorEnv:
    """`num_envs` environments stepped together, restarted in the step that ends them.

    `metadata["autoreset_mode"]` says so (SAME_STEP). Environment i depends on the seed
    and i only, so a larger batch begins with the smaller one. Take episode returns from
    `info["final_info"]["episode"]`: the vector RecordEpisodeStatistics of Gymnasium 1.3
    works, but under SAME_STEP (SyncVectorEnv's too) it leaves out the first step of
    every episode but the first.

    Args:
      env: one of ours, or a name for `registry.make`.
      num_envs: how many.
      resets: as `vectorize`: "pool", "fresh" or "cached".
      seed, render_mode, width, height, camera, overrides: as `to_gymnasium`.

    Raises:
      ValueError: as `to_gymnasium` and `vectorize`.
    """
    picture = {"width": width, "height": height, "camera": camera}
    env = _build(env, overrides)
    return GymnasiumVectorEnv(env, num_envs, resets, seed, render_mode, picture)


def to_gymnasium_space(space: Space) -> spaces.Space:
    if isinstance(space, dict):
        return spaces.Dict({name: to_gymnasium_space(s) for name, s in space.items()})
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec)
    return spaces.Box(space.lows, space.highs, space.shape, space.dtype)


def _build(env: Env | str, overrides: dict) -> Env:
    if isinstance(env, str):
        env, overrides = make(env, **overrides), {}
    if overrides:
        raise ValueError(f"{', '.join(overrides)}: only a name takes overrides, not an environment")
    return single_agent(env)


def _numpy(tree: Any) -> Any:
    """On the host, and the caller's to write to."""
    return jax.tree.map(np.array, jax.device_get(tree))


def _scalars(metrics: dict[str, jax.Array]) -> dict[str, np.generic]:
    return {name: np.asarray(x)[()] for name, x in jax.device_get(metrics).items()}


def _masked(values: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's vector info: values [N] beside `_name` [N], which says for whom they hold."""
    info = {}
    for name, x in values.items():
        keep = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
        info[name], info[f"_{name}"] = np.where(keep, x, np.zeros((), x.dtype)), mask.copy()
    return info
