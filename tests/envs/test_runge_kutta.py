"""The looped Runge-Kutta step beside MJX's, of a model with a free body and an activation."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from envs.mjx import runge_kutta
from envs.mjx.simulator import mjx

XML = """
<mujoco>
  <option integrator="RK4" timestep="0.02"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <body pos="0 0 1"><freejoint/><geom type="box" size=".1 .2 .3"/></body>
    <body><joint name="hinge" axis="0 1 0" damping=".1"/><geom size=".1" pos=".5 0 0"/></body>
  </worldbody>
  <actuator><general joint="hinge" dyntype="filter" dynprm=".1"/></actuator>
</mujoco>
"""


def test_a_step_is_mjxs():
    mj_model = mujoco.MjModel.from_xml_string(XML)
    model, data = mjx.put_model(mj_model), mjx.make_data(mj_model)
    spin = jnp.array([1.0, -2.0, 0.5, 3.0, 2.0, 1.0, -4.0])
    start = data.replace(qvel=spin, ctrl=jnp.array([0.7]), act=jnp.array([-0.4]))
    found, expected = (jax.jit(f)(model, start) for f in (runge_kutta.step, mjx.step))
    assert jnp.abs(found.qpos - start.qpos).max() > 0.01 and found.act != start.act
    for field in ("qpos", "qvel", "act", "time", "qacc", "qacc_warmstart", "xpos"):
        np.testing.assert_allclose(
            getattr(found, field), getattr(expected, field), rtol=1e-5, atol=1e-5, err_msg=field
        )
