"""MJX as it comes: `vmap(mjx.step)` in a jitted loop, none of our code, none of our flags."""

from __future__ import annotations

import time

import jax
import mujoco
import numpy as np
from mujoco import mjx
from serve import serve, settings

WARP_CONTACTS = 48  # an environment, of all of them together: what MJX takes for a single one

s = settings()
mj_model = mujoco.MjModel.from_binary_path(s["model"])
model = mjx.put_model(mj_model, impl=s["impl"])
if s["impl"] == "warp":  # prints a line for every solver that stops at its last iteration
    model = model.tree_replace({"opt._impl.warn_overflow": 0})
start = np.load(s["start"])
num_envs = len(start["qpos"])


def data_of(qpos, qvel):
    data = mjx.make_data(mj_model, impl=s["impl"], naconmax=WARP_CONTACTS * num_envs)
    return data.replace(qpos=qpos, qvel=qvel)


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


data, key = jax.vmap(data_of)(start["qpos"], start["qvel"]), jax.random.key(s["seed"])
# Put on the device, as results are: JAX compiles anew for arguments that are not.
data, key = jax.device_put((data, key), jax.devices()[0])
began = time.perf_counter()
compiled = control_steps.lower(data, key).compile()
about = {"steps": s["steps"] * num_envs, "compile_seconds": time.perf_counter() - began}
if memory := compiled.memory_analysis():
    sizes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    about["memory_bytes"] = sizes + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def train() -> dict:
    global data, key
    data, key = jax.block_until_ready(compiled(data, key))
    return about


serve(("jax", "mujoco-mjx"), train, lambda: float(data.qpos.mean()))
