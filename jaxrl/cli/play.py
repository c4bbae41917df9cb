"""`python -m jaxrl.play RUN` evaluates a trained policy and films an episode."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import jax
import numpy as np

from envs.adapters.originals import check_original
from envs.render import check_size, renderer, seconds_per_step
from envs.transforms.base import check_count
from envs.transforms.residual import Residual
from envs.types import Env, State
from envs.xla import seldom
from jaxrl.cli import flags, runs, web
from jaxrl.episodes import episode_limit, evaluate, film
from jaxrl.originals import EPISODES, evaluate_on_original
from jaxrl.report import terminal
from jaxrl.report.files import whole
from jaxrl.report.summary import bootstrap_interval, mean_interval
from jaxrl.run import runtime
from jaxrl.types import Policy

MAX_FPS = 60.0  # a film of a faster simulation skips states
DEFAULT_FPS = 30.0  # if the environment does not define the duration of a step
TIMED_STEPS = 100  # steps whose latency is measured
KEY = 0x91A7  # so that episodes differ from those of training and recording with the same seed
LISTED = 100  # more episodes than this are only summarised
ON = ("gymnasium", "mujoco")  # where else than in its own environment a run can be evaluated


def record_video(
    env: Env,
    policy: Policy,
    out: str | os.PathLike,
    *,
    beside: tuple[Env, Policy] | None = None,
    key: jax.Array | None = None,
    deterministic: bool = True,
    max_steps: int | None = None,
    width: int = 480,
    height: int = 360,
) -> str | None:
    """Films one episode, in real time, into an MP4 file.

    An error is printed as one line and not raised: a training script does not fail for a film.

    Args:
      env, policy: for one instance.
      out: the file. An existing one is replaced.
      beside: another environment and policy, whose episode is shown on the right. The shorter
        episode stands still at its end.
      key: selects the episode, the same as `evaluate` runs for this key.
      deterministic: act by the mode of the policy.
      max_steps: stop here; by default the time limit of `env`, or 1000.
      width, height: in pixels, rounded up to even numbers as the codec wants.

    Returns:
      the file written, or None.
    """
    try:
        key = jax.random.key(0) if key is None else key
        max_steps = max_steps or episode_limit(env)
        pairs = [(env, policy), *([beside] if beside else [])]
        clips = [film(e, p, key, deterministic, max_steps) for e, p in pairs]
    except Exception as error:
        print(f"no video: {terminal.reason(error)}")
        return None
    return film_of([e for e, _ in pairs], clips, out, None, width, height)


def film_of(
    worlds: list[Env],
    clips: list[tuple[State, int]],
    out: str | os.PathLike,
    seconds: float | None = None,
    width: int = 480,
    height: int = 360,
) -> str | None:
    """Writes episodes that were played into an MP4 file, side by side, in real time.

    An error is printed as one line and not raised.

    Args:
      worlds: the environment of each episode.
      clips: the states and the length of each episode, as `jaxrl.episodes.film` returns them.
      out: the file. An existing one is replaced.
      seconds: of the simulated world, after which the film ends; None: at the end of the longest.
      width, height: of one episode in pixels, rounded up to even numbers as the codec wants.

    Returns:
      the file written, or None.
    """
    try:
        dt = seconds_per_step(worlds[0])
        stride = max(1, math.ceil(1.0 / (MAX_FPS * dt))) if dt else 1
        fps = 1.0 / (dt * stride) if dt else DEFAULT_FPS
        longest = max(length for _, length in clips)
        if seconds is not None:
            longest = min(longest, round(seconds * fps * stride))
        at = lambda states, t: jax.tree.map(lambda x: x[t], states)
        times = range(0, longest + 1, stride)
        shown = ([at(states, min(t, length)) for states, length in clips] for t in times)
        _write_video(worlds, shown, Path(out), fps, width + width % 2, height + height % 2)
    except Exception as error:  # no display, no codec, a full disk, a task without `render`, ...
        print(f"no video: {terminal.reason(error)}")
        return None
    return str(out)


def _write_video(
    worlds: list[Env],
    states: Iterable[list[State]],
    out: Path,
    fps: float,
    width: int,
    height: int,
) -> None:
    """Writes a film with the states of several worlds side by side, whole or not at all.

    JAX warns of every fork. The fork of ffmpeg is safe, because it starts another program at once.
    """
    with (
        whole(out) as part,
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),
        contextlib.ExitStack() as stack,
        imageio.get_writer(part, fps=fps, macro_block_size=2, quality=7) as video,
    ):
        draws = [stack.enter_context(renderer(env, width, height)) for env in worlds]
        for now in states:
            video.append_data(
                np.hstack([draw(state) for draw, state in zip(draws, now, strict=True)])
            )


def episode_keys(seed: int, episodes: int) -> jax.Array:
    """Returns the keys [episodes] of the episodes that `play` evaluates.

    Raises:
      ValueError: `seed` is out of range.
    """
    runtime.check_seed(seed)
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), KEY), episodes)


def play(
    run_dir: Path,
    *,
    episodes: int = 16,
    seed_index: int = 0,
    step: int | None = None,
    video: Path | None = None,
    stochastic: bool = False,
    overrides: dict[str, Any] | None = None,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Evaluates one seed of a run, prints the result and films the first episode.

    Args:
      run_dir: the run.
      episodes: how many to evaluate.
      seed_index: which policy, in configs * seeds.
      step: of the checkpoint, in env steps; None: the newest.
      video: the file for the film; None: no film.
      stochastic: sample actions instead of taking the mode.
      overrides: of the environment, such as `{"physics": "accurate"}`.
      width, height: of the film, in pixels.
      seed: of the episodes.

    Returns:
      the metrics of `evaluate`, arrays [episodes].

    Raises:
      ValueError: no such run, checkpoint, seed or override.
    """
    check_count("episodes", episodes, 1)
    check_size(width, height)
    keys = episode_keys(seed, episodes)
    run = runs.load(run_dir, step, **(overrides or {}))
    policy = run.policy(seed_index)
    measured = _measure(run.env, policy, keys, not stochastic)

    _print_what(run, seed_index, stochastic)
    if episodes <= LISTED:
        _print_episodes(measured)
    _print_summary(measured)
    for text, value in run.learner.about.items():
        print(f"{text}: {terminal.number(value)}")
    taken = 1e3 * latency(run.env, policy, not stochastic)
    where = jax.local_devices()[0].device_kind
    print(
        f"latency of an action for one environment on {where}:"
        f" median {np.median(taken):.3g} ms, slowest of {len(taken)} {taken.max():.3g} ms"
    )
    if video is not None:
        filmed = record_video(
            run.env,
            policy,
            video,
            key=keys[0],
            deterministic=not stochastic,
            width=width,
            height=height,
        )
        if filmed:
            print(f"episode 0: {filmed}")
    return measured


def play_on_gymnasium(
    run_dir: Path,
    *,
    episodes: int = EPISODES,
    seed_index: int = 0,
    step: int | None = None,
    stochastic: bool = False,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Evaluates one seed of a run in Gymnasium's own environment, which C MuJoCo simulates.

    Prints the result beside that of the run's own environment.

    Args:
      run_dir: a run on a port of a Gymnasium task.
      episodes ... seed: as for `play`. `overrides` change the run's own environment only.

    Returns:
      the metrics of `jaxrl.originals.evaluate_on_original`, arrays [episodes].

    Raises:
      ValueError: as `play`, or the run's task is not one of Gymnasium's.
    """
    check_count("episodes", episodes, 1)
    keys = episode_keys(seed, episodes)
    run = runs.load(run_dir, step, **(overrides or {}))
    original, policy = original_of(run.config), run.policy(seed_index)
    own = _measure(run.env, policy, keys, not stochastic)
    options = run.config["env_overrides"]
    name = run.config["env"]
    there = evaluate_on_original(name, policy, episodes, seed, not stochastic, **options)

    _print_what(run, seed_index, stochastic)
    physics = (options | (overrides or {})).get("physics", "accurate")
    _print_beside({f"MJX, {physics}": own, original: there})
    return there


def play_on_mujoco(
    run_dir: Path,
    *,
    episodes: int = EPISODES,
    seed_index: int = 0,
    step: int | None = None,
    stochastic: bool = False,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Evaluates one seed of a run in its own environment, simulated by C MuJoCo.

    Prints the result beside that of MJX from the same start states. C MuJoCo has the model's own
    solver options, also where the run was trained with `physics="fast"`.

    Args:
      run_dir: a run on an MJX task of this library, such as `envs.from_mjcf` makes.
      episodes ... seed: as for `play`. `overrides` change the environment in MJX only.

    Returns:
      the metrics of `evaluate` in C MuJoCo, arrays [episodes].

    Raises:
      ValueError: as `play`; the task is not simulated by MJX; the policy plans on MJX's state.
    """
    from envs.mjx.in_c import in_c  # imports MJX

    check_count("episodes", episodes, 1)
    keys = episode_keys(seed, episodes)
    run = runs.load(run_dir, step, **(overrides or {}))
    policy, env = run.policy(seed_index), in_c(run.env)
    if policy.sees_state:
        raise ValueError("policy: plans on MJX's state, which C MuJoCo does not have")
    own = _measure(run.env, policy, keys, not stochastic)
    there = _measure(env, policy, keys, not stochastic)

    _print_what(run, seed_index, stochastic)
    physics = (run.config["env_overrides"] | (overrides or {})).get("physics")
    _print_beside({f"MJX, {physics}" if physics else "MJX": own, "C MuJoCo": there})
    return there


def play_beside(
    run_dir: Path,
    other: Path,
    *,
    episodes: int = EPISODES,
    seed_index: int = 0,
    other_index: int = 0,
    step: int | None = None,
    video: Path | None = None,
    stochastic: bool = False,
    overrides: dict[str, Any] | None = None,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Evaluates two policies from the same start states, and films both in one picture.

    Prints the results side by side, and the mean of the differences of paired episodes with its
    interval. An episode that broke for one of them is left out of both.

    Args:
      run_dir, other: runs on the same task. The film shows `other` on the right.
      seed_index, other_index: which policy of each.
      step: of the checkpoint of `run_dir`; None: the newest. It is always the newest of `other`.
      episodes, video ... seed: as for `play`. `overrides` change both environments.

    Returns:
      the metrics of both, arrays [episodes].

    Raises:
      ValueError: as `play`; or the tasks differ.
    """
    check_count("episodes", episodes, 1)
    check_size(width, height)
    keys = episode_keys(seed, episodes)
    first = runs.load(run_dir, step, **(overrides or {}))
    second = runs.load(other, **(overrides or {}))
    names = [run.config["env"] for run in (first, second)]
    if names[0] != names[1]:
        raise ValueError(
            f"vs={other}: is of the task {names[1]!r}, and {run_dir} is of {names[0]!r}"
        )
    pairs = [(first.env, first.policy(seed_index)), (second.env, second.policy(other_index))]
    one, two = (_measure(env, policy, keys, not stochastic) for env, policy in pairs)

    _print_what(first, seed_index, stochastic)
    _print_what(second, other_index, stochastic)
    names = [str(run_dir), str(other)]
    if names[0] == names[1]:
        names = [f"{run_dir} [{i}]" for i in (seed_index, other_index)]
    _print_difference(names[0], one, names[1], two)
    if video is not None:
        filmed = record_video(
            *pairs[0],
            video,
            beside=pairs[1],
            key=keys[0],
            deterministic=not stochastic,
            width=width,
            height=height,
        )
        if filmed:
            print(f"episode 0, {names[0]} on the left, {names[1]} on the right: {filmed}")
    return one, two


def _print_difference(
    name: str, one: dict[str, np.ndarray], other: str, two: dict[str, np.ndarray]
) -> None:
    whole = ~(one["nonfinite"] | two["nonfinite"])
    rows = []
    for what in ("return", "length", "success"):
        if what not in one or what not in two:
            continue
        a, b = (np.asarray(x[what], np.float64)[whole] for x in (one, two))
        cells = [_summary(a)[:2], _summary(b)[:2], difference(a, b)]
        rows.append([what, *(cell for pair in cells for cell in pair)])
    interval = "95 % interval"
    heads = ["mean of", name, interval, other, interval, "difference", interval]
    count = int(whole.sum())
    terminal.table(f"{count} paired episode" + "s" * (count != 1), heads, rows)


def difference(a: np.ndarray, b: np.ndarray) -> list[str]:
    """The mean of a - b over paired episodes [E], and its 95% interval, as text."""
    if not a.size:
        return ["undefined", "-"]
    low, high = bootstrap_interval(a - b, np.mean)
    text = "{:+.4g}".format
    return [text((a - b).mean()), f"{text(low)}..{text(high)}" if a.size > 1 else "-"]


def play_web(
    run_dir: Path,
    *,
    episodes: int | None = None,
    seed_index: int = 0,
    step: int | None = None,
    stochastic: bool = False,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    port: int = 0,
) -> None:
    """Shows episodes in MuJoCo's viewer in a browser, until it is closed or `episodes` have ended.

    Args:
      run_dir, seed_index ... seed: as for `play`.
      episodes: None: no end.
      port: of the page; 0: the first free one from 8080 on.

    Raises:
      ValueError: as `play`; the task has no MuJoCo model; MuJoCo has no browser viewer.
    """
    runtime.check_seed(seed)
    run = runs.load(run_dir, step, **(overrides or {}))
    policy = run.policy(seed_index)
    _print_what(run, seed_index, stochastic)
    key = jax.random.fold_in(jax.random.key(seed), KEY)
    title = f"{run.config['learner']} on {run.config['env']}"
    web.show(run.env, policy, key, not stochastic, episodes=episodes, port=port, title=title)


def _measure(env: Env, policy: Policy, keys: jax.Array, deterministic: bool) -> dict:
    measure = jax.jit(
        lambda policy, keys: evaluate(env, policy, keys, deterministic), compiler_options=seldom()
    )
    return jax.device_get(measure(policy, keys))


def _print_beside(columns: dict[str, dict[str, np.ndarray]]) -> None:
    """A table with the results of the same policy in several simulators, by their names."""
    rows = []
    shared = set.intersection(*map(set, columns.values()))
    for what in (x for x in ("return", "length", "terminated", "success") if x in shared):
        cells = [_summary(measured[what])[:2] for measured in columns.values()]
        rows.append([what, *(cell for pair in cells for cell in pair)])
    heads = [text for name in columns for text in (name, "95 % interval")]
    episodes = len(next(iter(columns.values()))["return"])
    terminal.table(f"{episodes} episode" + "s" * (episodes > 1), ["mean of", *heads], rows)


def _print_what(run: runs.Run, seed_index: int, stochastic: bool) -> None:
    actions = "sampled actions" if stochastic else "most likely actions"
    print(
        f"{run.config['learner']} on {run.config['env']}, seed index {seed_index},"
        f" {terminal.short(run.env_steps)} steps, {actions}"
    )


def original_of(config: dict[str, Any]) -> str:
    """The id of the Gymnasium task that a run was trained on a port of, by the run's `config`.

    Raises:
      ValueError: there is none.
    """
    if "residual" in config:
        raise ValueError("a residual acts on top of its base, in jaxrl's own environment only")
    return check_original(config["env"])


def latency(env: Env, policy: Policy, deterministic: bool = True) -> np.ndarray:
    """Returns the seconds per action as on a robot: one environment, one call per control step.

    Policies that plan need longer at steps with a new plan. Under a residual the base's time
    counts, too. [TIMED_STEPS]
    """
    act = jax.jit(lambda policy, *args: policy.act(*args, deterministic))
    obs = policy.view(jax.jit(env.reset)(jax.random.key(0)))
    keys = list(jax.random.split(jax.random.key(1), 1 + TIMED_STEPS))
    jax.block_until_ready(act(policy, policy.init_carry(), obs, keys[0]))  # compiles
    carry, seconds = policy.init_carry(), []
    for key in keys[1:]:
        start = time.perf_counter()
        _, carry = jax.block_until_ready(act(policy, carry, obs, key))
        seconds.append(time.perf_counter() - start)
    inside = latency(env.env, env.base, env.deterministic) if isinstance(env, Residual) else 0.0
    return np.array(seconds) + inside


def _print_episodes(measured: dict[str, np.ndarray]) -> None:
    def ending(i: int) -> str:
        if measured["nonfinite"][i]:
            return "simulation broke"
        return "terminated" if measured["terminated"][i] else "time limit"

    shown = [k for k in ("success", "success_at_end") if k in measured]
    rows = [
        [i, terminal.number(value), measured["length"][i], ending(i)]
        + [terminal.number(measured[k][i]) for k in shown]
        for i, value in enumerate(measured["return"])
    ]
    terminal.table("Episodes", ["episode", "return", "length", "end", *shown], rows)


def _print_summary(measured: dict[str, np.ndarray]) -> None:
    count = len(measured["return"])
    rows = []
    names = ["return", "length", *(k for k in measured if k not in ("return", "length"))]
    for name in names:
        rows.append([name, *_summary(measured[name])])
    title = f"{count} episode" + "s" * (count > 1)
    terminal.table(title, ["", "mean", "95 % interval", "min", "max"], rows)


def _summary(values: np.ndarray) -> list[str]:
    """Mean, 95% interval, minimum and maximum over the episodes [E] that did not break."""
    value = np.asarray(values, np.float64)
    value = value[np.isfinite(value)]  # an episode that broke is undefined
    if not value.size:
        return ["undefined", "-", "-", "-"]
    low, high = mean_interval(value)
    is_rate = value.min() >= 0 and value.max() <= 1
    text = "{:.3f}".format if is_rate else terminal.number
    interval = f"{text(low)}..{text(high)}" if value.size > 1 else "-"
    mean, least, most = map(text, (value.mean(), value.min(), value.max()))
    return [mean, interval, least, most]


def main(argv: Sequence[str] | None = None) -> None:
    parser = flags.Parser(
        "python -m jaxrl.play", description="Evaluate a trained policy and film an episode."
    )
    flags.choose_policy(parser)
    parser.add_argument(
        "--on",
        choices=ON,
        help="evaluate in C MuJoCo, too, without a film: in the run's own task (mujoco), or in"
        " Gymnasium's own environment (gymnasium; the v5 MuJoCo tasks only)",
    )
    parser.add_argument(
        "--episodes", type=int, help=f"default: 16, {EPISODES} with --on or --vs, no end with --web"
    )
    parser.add_argument(
        "--vs",
        type=Path,
        metavar="RUN2",
        help="another run on the same task: both from the same start states, in one film",
    )
    parser.add_argument(
        "--vs-seed-index", type=int, default=0, help="which of RUN2's settings times seeds"
    )
    parser.add_argument(
        "--web", action="store_true", help="show episodes live in MuJoCo's viewer, in a browser"
    )
    parser.add_argument("--port", type=int, default=0, help="of --web; default: from 8080 on")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    parser.add_argument(
        "--physics",
        choices=("accurate", "balanced", "fast"),
        help="default: as in training; MJX tasks only",
    )
    parser.add_argument("--video", type=Path, help="default: video.mp4 in the run")
    parser.add_argument("--no-video", action="store_true")
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=360)
    args = parser.parse_args(argv)
    if args.on and args.video:
        raise ValueError("video: shows the run's own environment; leave out --on")
    if args.on and args.vs:
        raise ValueError("vs: compares in the runs' own environment; leave out --on")
    if args.web and (args.on or args.vs or args.video):
        raise ValueError("web: shows one run live; leave out --on, --vs and --video")
    runtime.setup()
    same: dict[str, Any] = {
        "seed_index": args.seed_index,
        "step": args.step,
        "stochastic": args.stochastic,
        "overrides": {"physics": args.physics} if args.physics else None,
        "seed": args.seed,
    }
    if args.web:
        play_web(args.run, episodes=args.episodes, port=args.port, **same)
        return
    count = EPISODES if args.episodes is None else args.episodes
    film = {"width": args.width, "height": args.height}
    if args.vs:
        video = None if args.no_video else args.video or args.run / "video_vs.mp4"
        play_beside(
            args.run,
            args.vs,
            other_index=args.vs_seed_index,
            episodes=count,
            video=video,
            **film,
            **same,
        )
        return
    if args.on:
        on = {"gymnasium": play_on_gymnasium, "mujoco": play_on_mujoco}[args.on]
        on(args.run, episodes=count, **same)
        return
    play(
        args.run,
        episodes=16 if args.episodes is None else args.episodes,
        video=None if args.no_video else args.video or args.run / "video.mp4",
        **film,
        **same,
    )
