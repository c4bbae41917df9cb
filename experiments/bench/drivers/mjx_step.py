"""MJX as it comes: `vmap(mjx.step)` in a jitted loop, none of our code, none of our flags."""

from __future__ import annotations

import jax
import mujoco
import numpy as np
from mujoco import mjx
from serve import serve, settings

s = settings()
mj_model = mujoco.MjModel.from_binary_path(s["model"])
model = mjx.put_model(mj_model)
start = np.load(s["start"])
data = jax.vmap(lambda qpos, qvel: mjx.make_data(mj_model).replace(qpos=qpos, qvel=qvel))(
    start["qpos"], start["qvel"]
)
low, high = mj_model.actuator_ctrlrange.T.astype(np.float32)


@jax.jit
def control_steps(data, key):
    def one(data, key):
        ctrl = jax.random.uniform(key, data.ctrl.shape, minval=low, maxval=high)
        data = data.replace(ctrl=ctrl)
        substep = lambda _, d: jax.vmap(mjx.step, (None, 0))(model, d)
        return jax.lax.fori_loop(0, s["substeps"], substep, data), None

    key, k_act = jax.random.split(key)
    return jax.lax.scan(one, data, jax.random.split(k_act, s["steps"]))[0], key


key = jax.random.key(s["seed"])


def train() -> dict:
    global data, key
    data, key = jax.block_until_ready(control_steps(data, key))
    return {"steps": s["steps"] * len(start["qpos"])}


serve(("jax", "mujoco-mjx"), train, lambda: float(data.qpos.mean()))
