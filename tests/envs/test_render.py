"""Pictures: headless, of the right state, from the right place, or one line that says why not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import envs
from envs.registry import make
from envs.render import mj_model, render, renderer, seconds_per_step
from envs.transforms import action_repeat, time_limit
from envs.types import Box, first_state


@pytest.fixture(scope="module")
def hopper():
    env = make("hopper")
    return env, env.reset(jax.random.key(0))


@pytest.fixture(scope="module")
def gl(hopper):
    try:
        renderer(hopper[0]).close()
    except RuntimeError as error:
        pytest.skip(str(error))


def moved(state, **coordinates):
    qpos = state.data.qpos
    for index, value in coordinates.items():
        qpos = qpos.at[int(index[1:])].set(value)
    return state.replace(data=state.data.replace(qpos=qpos))


@pytest.mark.usefixtures("gl")
def test_picture_shows_the_pose(hopper):
    env, state = hopper
    with renderer(env, 96, 64) as draw:
        upright, again = draw(state), draw(state)
        bent = draw(moved(state, q3=-1.0, q4=-1.5))
    assert upright.shape == (64, 96, 3) and upright.dtype == np.uint8
    np.testing.assert_array_equal(upright, again)
    assert upright.std() > 5
    assert np.abs(upright.astype(int) - bent).max() > 50
    np.testing.assert_array_equal(render(env, state, 96, 64), upright)


@pytest.mark.usefixtures("gl")
def test_camera_follows_the_robot(hopper):
    """The hopper is orange: as much of it is seen 50 m further on."""
    env, state = hopper
    orange = lambda x: ((x[..., 0] > 90) & (x[..., 2] < 70)).mean()
    near, far = render(env, state), render(env, moved(state, q0=50.0))
    assert orange(near) > 0.002
    assert 0.5 < orange(far) / orange(near) < 2.0


@pytest.mark.usefixtures("gl")
def test_a_large_picture_leaves_the_model_as_it_is(hopper):
    env, state = hopper
    before = mj_model(env).vis.global_.offwidth
    assert render(env, state, 1200, 100).shape == (100, 1200, 3)
    assert mj_model(env).vis.global_.offwidth == before


@pytest.mark.usefixtures("gl")
@pytest.mark.filterwarnings("ignore:Brax System")
def test_brax_environments_are_drawn():
    env = make("brax/inverted_pendulum", backend="mjx")
    state = jax.jit(lambda key: env.reset(key))(jax.random.key(0))
    picture = render(env, state, 64, 64)
    assert picture.shape == (64, 64, 3) and picture.std() > 5
    assert seconds_per_step(env) == pytest.approx(0.04)


@struct.dataclass
class Grey:
    level: int = 7
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return first_state((), jnp.zeros(1))

    def step(self, state, action):
        return state


class Drawn(Grey):
    def render(self, state, width, height):
        return np.full((height, width, 3), self.level)


def test_a_task_may_draw_itself():
    picture = render(Drawn(), Drawn().reset(jax.random.key(0)), 5, 4)
    assert picture.shape == (4, 5, 3) and (picture == 7).all() and picture.dtype == np.uint8


def test_a_decision_lasts_all_its_repeats():
    env = make("point_maze")
    assert seconds_per_step(env) == pytest.approx(0.1)
    env = action_repeat(time_limit(action_repeat(env, 2), 9), 3)
    assert seconds_per_step(env) == pytest.approx(0.6)


def test_mistakes_are_named(hopper):
    with pytest.raises(ValueError, match=r"camera='top': the model has \['track'\]"):
        renderer(hopper[0], camera="top")
    with pytest.raises(ValueError, match="camera=0: Drawn draws itself and has no cameras"):
        renderer(time_limit(Drawn(), 5), camera=0)
    for name, pixels in (("width", 0), ("height", -5), ("width", 2.5), ("height", 10**6)):
        with pytest.raises(ValueError, match=f"^{name}={pixels}: must be "):
            renderer(Drawn(), **{name: pixels})
    with pytest.raises(ValueError, match="env=Grey: cannot be drawn"):
        render(Grey(), Grey().reset(jax.random.key(0)))
    with pytest.raises(ValueError, match="env=Fast: cannot be drawn"):
        env = make("brax/fast")
        render(env, env.reset(jax.random.key(0)))


def test_mujoco_is_imported_where_its_choice_of_opengl_is_put_off():
    folder = Path(envs.__file__).parent
    others = [p for p in folder.rglob("*.py") if p.name != "gl.py"]
    plain = [p.name for p in others if re.search(r"^\s*import mujoco\b", p.read_text(), re.M)]
    assert len(others) > 30 and plain == []


@pytest.mark.parametrize("setting", ["disable", "nonsense"])
def test_a_machine_that_cannot_render_gets_one_line_with_the_remedy(setting):
    """And only where a picture is asked for: MuJoCo itself refuses a value while it is imported."""
    code = (
        "import types\n"
        "from envs.gl import mujoco\n"
        "from envs.render import renderer\n"
        "model = mujoco.MjModel.from_xml_string('<mujoco/>')\n"
        "try:\n"
        "    renderer(types.SimpleNamespace(sim=types.SimpleNamespace(mj_model=model)))\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    env = os.environ | {"MUJOCO_GL": setting, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    (line,) = run.stdout.strip().splitlines()
    assert line.startswith(f"cannot render with MUJOCO_GL={setting}")
    assert "MUJOCO_GL=egl (apt install libegl1)" in line, run.stderr
