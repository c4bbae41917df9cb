import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from flax import struct

import envs
from envs.types import Box, first_state
from jaxrl.cli import play, runs
from jaxrl.data import recording
from jaxrl.episodes import evaluate, film
from jaxrl.learners.on_policy import ppo
from jaxrl.report import log, terminal
from jaxrl.run import checkpoint, folder
from jaxrl.types import Policy

# JAX warns of the fork that reads a film back.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")

SLIDER = """<mujoco><worldbody><light pos="0 -1 3"/><geom type="plane" size="3 3 .1"/>
<body pos="0 0 .3"><joint type="slide" axis="1 0 0"/><geom size=".2" rgba="1 0 0 1"/></body>
</worldbody></mujoco>"""


class Pose(NamedTuple):
    qpos: jax.Array
    qvel: jax.Array


@struct.dataclass
class Slider:
    """A ball that MuJoCo draws and plain JAX moves: 0.1 m per step; the action is ignored.

    Terminates beyond `goal` and breaks beyond `wall`.
    """

    goal: float = 1.0
    wall: float = 10.0
    dt: float = struct.field(pytree_node=False, default=0.05)

    sim = types.SimpleNamespace(mj_model=mujoco.MjModel.from_xml_string(SLIDER))
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        pose = Pose(jax.random.uniform(key, (1,), maxval=0.3), jnp.zeros(1))
        return first_state(pose, pose.qpos)

    def step(self, state, action):
        x = state.data.qpos + 0.1
        x = jnp.where(x > self.wall, jnp.nan, x)
        return state.replace(
            data=Pose(x, state.data.qvel), obs=x, reward=x[0], terminated=x[0] > self.goal
        )


STILL = Policy((), lambda: (), lambda params, carry, obs, key, deterministic: (jnp.zeros(1), carry))


class Painted(Slider):
    """Draws itself, so that no GL is needed: white up to where the ball is."""

    def render(self, state, width, height):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:, : int(width * min(float(state.data.qpos[0]), 1.0))] = 255
        return picture


# --- One episode ---


@pytest.mark.parametrize("env", [Slider(), Slider(goal=9.0, wall=0.55)])
@pytest.mark.parametrize("max_steps", [3, 30])
def test_the_episode_is_the_one_that_evaluate_runs(env, max_steps):
    keys = jax.random.split(jax.random.key(3), 4)
    measured = evaluate(env, STILL, keys, max_steps=max_steps)
    for i, key in enumerate(keys):
        states, length = film(env, STILL, key, max_steps=max_steps)
        assert length == measured["length"][i]
        if not measured["nonfinite"][i]:  # else the return is undefined
            total = states.reward[1 : length + 1].sum()
            np.testing.assert_allclose(total, measured["return"][i], 1e-6)
        assert np.isfinite(states.data.qpos[: length + 1]).all()  # nothing broken is drawn


# --- The film ---


def test_a_film_shows_every_step_in_real_time(tmp_path, caplog):
    out = tmp_path / "new" / "video.mp4"
    env = Painted()
    assert play.record_video(env, STILL, out, width=161, height=120) == str(out)
    _, length = film(env, STILL, jax.random.key(0))
    frames = iio.imread(out)
    assert frames.shape == (length + 1, 120, 162, 3)  # the codec wants even numbers
    assert iio.immeta(out)["fps"] == pytest.approx(20.0)
    white = (frames[:, 60, :, 0] > 128).mean(1)
    assert (np.diff(white)[:-1] > 0.09).all()  # a tenth of the width a frame; at last it is full
    assert [p.name for p in out.parent.iterdir()] == ["video.mp4"]
    assert caplog.text == ""  # ffmpeg complains of odd numbers


def test_a_fast_simulation_is_filmed_in_real_time_too(tmp_path):
    out = tmp_path / "video.mp4"
    play.record_video(Painted(dt=0.002), STILL, out, width=160, height=120)
    _, length = film(Painted(dt=0.002), STILL, jax.random.key(0))
    fps, frames = iio.immeta(out)["fps"], len(iio.imread(out))
    assert fps <= play.MAX_FPS
    assert frames == length // 9 + 1 and fps == pytest.approx(1 / (9 * 0.002), rel=1e-3)


def no_film(capsys, env, out):
    assert play.record_video(env, STILL, out, width=160, height=120) is None
    printed = capsys.readouterr().out
    assert printed.startswith("no video: ") and printed.count("\n") == 1
    return printed


def test_a_film_that_cannot_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in no_film(capsys, Painted(), tmp_path / "file" / "video.mp4")


def test_a_task_that_cannot_be_drawn_is_one_line(capsys, tmp_path):
    class Invisible(Slider):
        sim = types.SimpleNamespace(mj_model=None)

    class Broken(Painted):
        def render(self, *_):
            raise ZeroDivisionError

    assert "no video" in no_film(capsys, Invisible(), tmp_path / "video.mp4")
    assert "ZeroDivisionError" in no_film(capsys, Broken(), tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_fails_leaves_the_old_one(capsys, tmp_path):
    class Breaking(Painted):
        def render(self, state, width, height):
            if float(state.data.qpos[0]) > 0.5:
                raise RuntimeError("the driver died")
            return super().render(state, width, height)

    out = tmp_path / "video.mp4"
    out.write_bytes(b"old")
    assert "the driver died" in no_film(capsys, Breaking(), out)
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


def test_a_machine_that_cannot_render_says_how_to_mend_it_and_goes_on(tmp_path):
    script = (
        "from tests.cli.test_play import *; print(play.record_video(Slider(), STILL, 'video.mp4'))"
    )
    done = run_python("-c", script, cwd=tmp_path, MUJOCO_GL="off")
    line, result = done.stdout.splitlines()
    assert done.returncode == 0 and result == "None"
    assert line.startswith("no video: cannot render") and "MUJOCO_GL=egl" in line
    assert list(tmp_path.iterdir()) == []


# --- A run ---


def run_python(*arguments, cwd=None, **env):
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu", **env}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Two untrained seeds on a maze, saved as a run."""
    folder = tmp_path_factory.mktemp("runs") / "maze"
    overrides = {"time_limit": 12, "reward": "dense"}
    env = envs.make("point_maze_open", **overrides)
    config = ppo.Config(
        num_envs=4, unroll_length=2, num_minibatches=1, actor_hidden=(8,), critic_hidden=(8,)
    )
    learner = ppo.make(env, config)
    train = {"total_steps": 8, "seeds": 2, "seed": 0, "sweep": {}, "num_evals": 1}
    train |= {"eval_episodes": 2, "devices": 1}
    runs.write_config(folder, runs.describe("ppo", "point_maze_open", overrides, config, train))
    keys = jax.random.split(jax.random.key(0), 2)
    state = jax.jit(jax.vmap(lambda key: learner.init(key, config)))(keys)
    checkpoint.save(folder / "checkpoints", 8, {"learner": state})
    return folder


@pytest.fixture
def command(monkeypatch):
    """`main` without what it sets for a whole process."""
    monkeypatch.setattr(play.runtime, "setup", lambda: None)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            terminal.run(lambda: play.main([str(x) for x in arguments]))
        return ended.value.code

    return run


def test_play_evaluates_prints_and_films(run_dir, capsys, tmp_path, monkeypatch):
    out, filmed = tmp_path / "film.mp4", []
    film = play.record_video
    record = lambda *args, key, **options: filmed.append(key) or film(*args, key=key, **options)
    monkeypatch.setattr(play, "record_video", record)
    measured = play.play(run_dir, episodes=3, seed_index=1, video=out, width=96, height=64)
    printed = capsys.readouterr().out
    run = runs.load(run_dir)
    keys = play.episode_keys(0, 3)
    assert filmed == [keys[0]]  # it is the first episode of the table
    expected = evaluate(run.env, run.policy(1), keys)
    np.testing.assert_allclose(measured["return"], expected["return"], rtol=1e-4)
    assert "ppo on point_maze_open, seed index 1, 8 steps, most likely actions" in printed
    for value in measured["return"]:
        assert f" {play.terminal.number(value)} " in printed
    assert "time limit" in printed and "95 % interval" in printed and "success" in printed
    assert f"episode 0: {out}" in printed
    assert iio.imread(out).shape[0] == measured["length"][0] + 1


def test_the_interval_of_a_rate_is_wilsons(capsys):
    """A bootstrap of 16 successes in 16 episodes says that nothing else can happen."""
    episodes = {"return": np.arange(16.0), "length": np.full(16, 5), "success": np.ones(16)}
    play._print_summary(episodes)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "success" in line]
    assert "0.806..1.000" in row


def test_no_episode_is_one_that_was_recorded_with_the_same_seed():
    first = lambda keys: set(np.ravel(jax.vmap(Slider().reset)(keys).obs).tolist())
    played = first(play.episode_keys(0, 8))
    assert played == first(play.episode_keys(0, 9)[:8])
    recorded = recording.record(STILL, Slider(), 8, jax.random.key(0))
    starts = np.ravel(recorded.steps.obs[recorded.starts]).tolist()
    assert set(starts) == first(jax.random.split(jax.random.key(0), 8))  # why it takes its own
    kinds = [jax.random.fold_in(jax.random.key(0), kind) for kind in range(4)]  # of record.py
    for key in (jax.random.key(0), *kinds):
        assert not played & first(jax.random.split(key, 8))


def test_latency_is_of_single_actions_and_shows_the_slow_ones():
    """Every tenth action of this policy sleeps."""

    def apply(params, carry, obs, key, deterministic):
        wait = lambda age: time.sleep(0.2 * bool(age % 10 == 0)) or np.zeros(1, np.float32)
        action = jax.pure_callback(wait, jax.ShapeDtypeStruct((1,), jnp.float32), carry)
        return action, carry + 1

    policy = Policy((), lambda: jnp.zeros((), jnp.int32), apply)
    seconds = play.latency(Slider(), policy)
    slow = seconds > 0.2
    assert seconds.shape == (play.TIMED_STEPS,) and slow[::10].all()
    assert np.median(seconds) < 0.2


def test_sampled_actions_differ_from_the_most_likely(run_dir, monkeypatch):
    loaded = runs.load(run_dir)  # once: most of the time goes there
    monkeypatch.setattr(play.runs, "load", lambda *_: loaded)
    likely, sampled = (
        play.play(run_dir, episodes=2, stochastic=x)["return"] for x in (False, True)
    )
    assert (likely != sampled).all()


def test_the_command_films_into_the_run_unless_told_otherwise(run_dir, command, capsys):
    assert not command(run_dir, "--episodes", 1, "--no-video", "--seed-index", 1)
    assert not (run_dir / "video.mp4").exists()
    done = run_python(
        "-m", "jaxrl.play", run_dir, "--episodes", 2, "--width", 96, "--height", 64,
        JAX_COMPILATION_CACHE_DIR=str(run_dir.parent / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert (run_dir / "video.mp4").stat().st_size > 1000
    (run_dir / "video.mp4").unlink()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--step", 9], "no checkpoint at step 9"),
        (["--seed-index", 2], "seed index 2"),
        (["--physics", "fast"], "physics"),
        (["--episodes", 0], "episodes=0: must be an integer, at least 1"),
        (["--seed", -1], "seed=-1: must be 0 .. 4294967295"),
        (["--seed", 2**32], "seed=4294967296: must be 0 .. 4294967295"),
    ],
)
def test_a_bad_option_is_one_line(run_dir, command, capsys, arguments, message):
    assert command(run_dir, *arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed


def test_a_missing_run_is_named(command, capsys, tmp_path):
    (tmp_path / "README.md").touch()
    for name in ("nowhere", "README.md"):
        assert command(tmp_path / name) == 2
        assert f"{name} is not a run" in capsys.readouterr().err


def test_ctrl_c_is_a_word_not_a_traceback(command, capsys, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(play, "play", interrupted)
    monkeypatch.setattr(terminal.os, "_exit", sys.exit)  # how who cannot wait leaves
    assert command(tmp_path) == 130 and capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("", 5, "all of it=5: must be an object"),
        ("learner", "__init__", "learner='__init__': allowed are bc, "),
        ("env", 3, "env=3: must be text"),
        ("env_overrides", None, "env_overrides=None: must be an object"),
        ("config", ["gamma"], "config=['gamma']: must be an object"),
        ("config.actor_hidden", 64, "config.actor_hidden=64: must be a list"),
        ("config.activation", 2, "config.activation=2: must be text"),
        ("config.gamma", "high", "config.gamma='high': must be a number"),
        ("config.normalize_obs", 1, "config.normalize_obs=1: must be true or false"),
        ("train", None, "train=None: must be an object"),
        ("train", {}, "train.total_steps is missing"),
        ("train.seeds", True, "train.seeds=True: must be a whole number"),
        ("train.seeds", 1.0, "train.seeds=1.0: must be a whole number"),
        ("train.seeds", 0, "train.seeds=0: must be at least 1"),
        ("train.total_steps", -5, "train.total_steps=-5: must be at least 1"),
        ("train.sweep", {"gamma": []}, "train.sweep.gamma=[]: must be a list that is not empty"),
        ("train.sweep", {"gamma": [True]}, "train.sweep.gamma.0=True: must be a number"),
        ("command", 5, "command=5: must be a list"),
        ("command", [5], "command.0=5: must be text"),
        ("jaxrl", None, "jaxrl=None: must be text"),
        ("settings", {"jax_enable_x64": []}, "settings.jax_enable_x64=[]: must be "),
        ("env_overrides", {"reward": {}}, "env_overrides.reward={}: must be "),
        ("env_overrides", {"reward": "rich"}, "reward='rich': "),
        ("env_overrides", {"rewards": "dense"}, "task 'point_maze_open' has no option 'rewards'"),
        ("env", "os:getcwd", "env='os:getcwd': os is of Python itself"),
        ("learner", "os:make", "learner='os:make': os is of Python itself"),
        ("learner", "nowhere_at_all:make", "learner='nowhere_at_all:make': cannot import"),
        ("config.num_envs", -1, "num_envs=-1: must be a whole number"),
        ("config.num_envs", 4.5, "num_envs=4.5: must be a whole number"),
        ("config.actor_hidden", ["wide"], "actor_hidden=('wide',): must be a tuple"),
        ("train.seeds", "two", "train.seeds='two': must be a whole number"),
        ("train.sweep", [1], "train.sweep=[1]: must be an object"),
        ("residual", {}, "residual.run is missing"),
        ("residual", {"run": "x", "seed_index": 0, "scale": True}, "residual.scale=True: must be"),
        ("residual", {"run": "x", "seed_index": -1, "scale": 1}, "residual.seed_index=-1: must"),
    ],
)
def test_a_config_file_broken_by_hand_names_what_is_wrong(run_dir, tmp_path, name, value, message):
    config = json.loads((run_dir / "config.json").read_text())
    *sections, last = name.split(".")
    (config[sections[0]] if sections else config)[last] = value
    (tmp_path / "config.json").write_text(json.dumps(config if name else value))
    with pytest.raises(ValueError) as caught:
        runs.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {message}")


@pytest.mark.parametrize("version", ["0.1.0", "0.1", "1.2.0", "banana"])
def test_a_run_of_another_version_names_both_versions(run_dir, command, capsys, tmp_path, version):
    config = json.loads((run_dir / "config.json").read_text()) | {"jaxrl": version}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert command(tmp_path) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and f"{tmp_path} was written by jaxrl {version}, which jaxrl" in said
    )
    with pytest.raises(ValueError, match=f"was written by jaxrl {version}, which jaxrl 0.2"):
        folder.open_run(tmp_path, config, resume=True)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_fifo_in_place_of_a_file_is_refused_instead_of_waited_for(run_dir, tmp_path, name):
    (tmp_path / "config.json").write_bytes((run_dir / "config.json").read_bytes())
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    read = {"config.json": runs.read_config, "metrics.jsonl": log.read}[name]
    with pytest.raises(ValueError, match=f"{name}: must be a regular file, not a FIFO$"):
        read(tmp_path)


def test_a_config_file_is_written_whole_or_not_at_all(run_dir, tmp_path, monkeypatch):
    config = runs.read_config(run_dir)
    runs.write_config(tmp_path, config)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RuntimeError, match="cannot write .*config.json: No space left"):
        runs.write_config(tmp_path, {})
    assert runs.read_config(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# --- Two runs ---


def test_two_policies_act_from_the_same_starts_in_one_film(run_dir, capsys, tmp_path):
    out = tmp_path / "vs.mp4"
    size = {"width": 160, "height": 120}
    one, two = play.play_beside(run_dir, run_dir, other_index=1, episodes=6, video=out, **size)
    run = runs.load(run_dir)
    alone = evaluate(run.env, run.policy(1), play.episode_keys(0, 6))
    np.testing.assert_allclose(two["return"], alone["return"], rtol=1e-5)
    printed = capsys.readouterr().out
    assert "6 paired episodes" in printed
    (row,) = [line for line in printed.splitlines() if "return" in line]
    assert play.difference(one["return"], two["return"])[0] in row
    assert iio.imread(out).shape[1:] == (120, 320, 3)


def test_the_difference_is_of_pairs():
    """Two returns that vary alike differ by the same number everywhere."""
    returns = np.array([10.0, 200.0, 3000.0])
    assert play.difference(returns + 1.5, returns) == ["+1.5", "+1.5..+1.5"]
    assert play.difference(np.ones(4), np.zeros(4)) == ["+1", "+1..+1"]  # no rate, so not Wilson's
    assert play.difference(np.zeros(0), np.zeros(0)) == ["undefined", "-"]


def test_runs_of_two_tasks_are_not_compared(run_dir, tmp_path, monkeypatch):
    other = types.SimpleNamespace(config={"env": "hopper"})
    load = runs.load
    monkeypatch.setattr(
        play.runs, "load", lambda path, *args: other if path == tmp_path else load(path, *args)
    )
    with pytest.raises(
        ValueError, match="^vs=.*: is of the task 'hopper', and .* 'point_maze_open'"
    ):
        play.play_beside(run_dir, tmp_path)
