"""MJX's plane-capsule contacts are MuJoCo's, their frames too."""

import types

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco.mjx import GeomType
from mujoco.mjx._src import collision_driver

from envs.mjx import contacts

MODEL = """
<mujoco><worldbody>
  <geom type="plane" size="5 5 .1"/>
  <body><freejoint/><geom type="capsule" size=".1 .2"/></body>
</worldbody></mujoco>
"""


@pytest.mark.parametrize("tilt", [5.0, 29.0, 31.0, 89.0])  # degrees from the normal
def test_frames_are_mujocos(tilt):
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    half, about = np.deg2rad(tilt) / 2, np.array([0.8, 0.6, 0.0])
    data.qpos[:] = [0.1, 0.2, 0.05, np.cos(half), *np.sin(half) * about]
    mujoco.mj_kinematics(model, data)
    model.geom_margin[:] = 1.0  # both ends are in contact
    mujoco.mj_collision(model, data)
    shown = types.SimpleNamespace(
        geom_xpos=jnp.asarray(data.geom_xpos),
        geom_xmat=jnp.asarray(data.geom_xmat.reshape(-1, 3, 3)),
    )
    sizes = types.SimpleNamespace(geom_size=jnp.asarray(model.geom_size))
    found = contacts.plane_capsule(sizes, shown, None, jnp.array([[0, 1]]))
    expected = data.contact.dist, data.contact.pos, data.contact.frame.reshape(-1, 3, 3)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_install_reaches_mjx():
    contacts.install()
    pair = GeomType.PLANE, GeomType.CAPSULE
    assert collision_driver._COLLISION_FUNC[pair] is contacts.plane_capsule
