"""Robots of MuJoCo Menagerie by name, from a folder that is laid out like it."""

import sys

import jax
import jax.numpy as jnp
import pytest

import envs
from envs import menagerie

ROBOT = """
<mujoco>
  <worldbody>
    <body name="trunk">
      <joint name="hip" axis="0 1 0"/><geom size=".1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator><motor joint="hip" ctrlrange="-1 1"/></actuator>
</mujoco>"""
SCENE = '<mujoco model="{}"><include file="{}.xml"/></mujoco>'
zero = lambda now: jnp.zeros(())


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "unitree_go2"
    folder.mkdir()
    for model, scene in (("go2", "scene"), ("go2_mjx", "scene_mjx")):
        (folder / f"{model}.xml").write_text(ROBOT)
        (folder / f"{scene}.xml").write_text(SCENE.format(scene, model))
    return tmp_path


def test_a_robot_becomes_an_environment(root):
    env = envs.from_menagerie("unitree_go2", root=root, reward=lambda now: now.data.qpos[0])
    assert env.sim.mj_model.joint(0).name == "hip"
    assert jax.eval_shape(env.reset, jax.random.key(0)).obs.shape == (2,)


def test_a_scene_for_mjx_is_preferred_and_an_entry_may_be_chosen(root, monkeypatch):
    assert menagerie.menagerie_file("unitree_go2", root=root).name == "scene_mjx.xml"
    assert menagerie.menagerie_file("unitree_go2", "go2", root).name == "go2.xml"
    monkeypatch.setenv("MENAGERIE_ROOT", str(root))
    assert menagerie.menagerie_file("unitree_go2", "scene").parent.parent == root


@pytest.mark.parametrize(
    "name, entry, message",
    [
        ("unitree_go3", None, "Unknown robot 'unitree_go3'. Did you mean 'unitree_go[12]'"),
        (
            "unitree_go2",
            "lying",
            "'unitree_go2' has no entry point 'lying'; available: go2, go2_mjx",
        ),
        ("unitree_g1", None, "'unitree_g1' not found under MENAGERIE_ROOT"),
    ],
)
def test_mistakes_are_one_line(root, name, entry, message):
    with pytest.raises(ValueError, match=f"^from_menagerie: {message}") as raised:
        envs.from_menagerie(name, entry, root=root, reward=zero)
    assert "\n" not in str(raised.value)


def test_without_a_network_a_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.setenv("MENAGERIE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MENAGERIE_BASE_URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(ValueError, match="'unitree_go2' cannot be downloaded .* give root=FOLDER"):
        envs.from_menagerie("unitree_go2", reward=zero)


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxrl\[menagerie\]'$"):
        envs.from_menagerie("unitree_go2", reward=zero)
