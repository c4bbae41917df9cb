"""`play --web` shows a policy's episodes in MuJoCo's viewer; the viewer here is a false one."""

import sys
import types

import jax
import numpy as np
import pytest
from test_play import STILL, Slider

import envs
from jaxrl.cli import play, web


class FalseViewer:
    """Keeps what it is shown, and is closed after some pictures."""

    def __init__(self, config, most):
        self.config, self.most, self.shown = config, most, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def set_model(self, model, data):
        self.model = model

    def sync(self, model, data):
        assert model is self.model
        self.shown.append(float(data.qpos[0]))

    def is_running(self):
        return len(self.shown) < self.most


@pytest.fixture
def viewers(monkeypatch):
    made = []

    def launch(config):
        made.append(FalseViewer(config, launch.most))
        return made[-1]

    launch.most = 100
    protocol = types.SimpleNamespace(ViewerConfig=lambda **fields: types.SimpleNamespace(**fields))
    monkeypatch.setattr(web, "studio", lambda: (types.SimpleNamespace(launch=launch), protocol))
    monkeypatch.setattr(web.time, "sleep", lambda seconds: None)
    made.append(launch)
    return made


def test_every_step_of_every_episode_is_shown(viewers):
    assert web.show(Slider(goal=0.5), STILL, jax.random.key(0), episodes=2, port=9000) == 2
    shown, config = viewers[1].shown, viewers[1].config
    assert config.gfx == "web" and config.http_port == 9000
    steps = np.diff(shown)
    (restart,) = np.flatnonzero(steps < 0)  # between the episodes
    np.testing.assert_allclose(np.delete(steps, restart), 0.1, atol=1e-6)
    assert shown[restart] > 0.5 and shown[-1] > 0.5


def test_closing_the_viewer_ends_it(viewers):
    viewers[0].most = 3
    assert web.show(Slider(goal=9.0), STILL, jax.random.key(0)) == 0
    assert len(viewers[1].shown) == 3


def test_a_task_that_mujoco_does_not_draw_is_refused():
    with pytest.raises(
        ValueError, match="^web: the task has no MuJoCo model to show; use --video$"
    ):
        web.show(envs.make("point_maze_open"), STILL, jax.random.key(0))


def test_a_mujoco_without_the_viewer_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco.studio", None)
    with pytest.raises(ValueError, match=r"^web: needs .*pip install 'mujoco>=4'"):
        web.show(Slider(), STILL, jax.random.key(0))


def test_the_command_refuses_flags_of_films():
    with pytest.raises(
        ValueError, match="^web: shows one run live; leave out --on, --vs and --video"
    ):
        play.main(["run", "--web", "--vs", "run"])
