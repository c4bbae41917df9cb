"""A task of your own: an arm follows an angle that changes. Replace what you do not need.

    python -m envs.report my_robot.xml                # what a model costs, and what MJX makes of it
    jaxrl train --learner ppo --env my_task:make      # in the folder of this file
    jaxrl play RUN
    jaxrl play RUN --on mujoco                        # the same policy in C MuJoCo
    jaxrl export RUN --to npz --out policy            # then: python policy/run_mujoco.py

The functions below are written for one robot, in JAX: `jnp` for `np`, `jnp.where` for `if`.
`now.data` is an `mjx.Data` with the names of MuJoCo's `MjData`.
"""

import jax
import jax.numpy as jnp

import envs
from envs import rewards

MODEL = """
<mujoco model="arm">
  <option timestep="0.005" integrator="implicitfast"/>
  <default>
    <geom contype="0" conaffinity="0"/>
  </default>
  <worldbody>
    <light pos="0 -1 2"/>
    <body name="arm" pos="0 0 1">
      <joint name="shoulder" axis="0 1 0" damping="0.2" range="-170 170"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.04" mass="1"/>
      <site name="hand" pos="0 0 -0.5"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="shoulder" joint="shoulder" gear="4" ctrlrange="-1 1"/>
  </actuator>
</mujoco>"""  # or a file: pathlib.Path(__file__).with_name("my_robot.xml")
CHANGE = 0.01  # the probability of a new command in a control step


def reset(key, sim):
    """(qpos [nq], qvel [nv]), or with a memory: anything that the task remembers between steps."""
    key, k_pos, k_command = jax.random.split(key, 3)
    qpos = jax.random.uniform(k_pos, (sim.mj_model.nq,), minval=-1.0)
    command = jax.random.uniform(k_command, minval=-1.5, maxval=1.5)  # rad
    return qpos, jnp.zeros(sim.mj_model.nv), {"key": jax.random.key_data(key), "command": command}


def remember(now):
    """The memory of the next step. The reward sees the old one, the observation the new one."""
    key, k_when, k_command = jax.random.split(jax.random.wrap_key_data(now.memory["key"]), 3)
    drawn = jax.random.uniform(k_command, minval=-1.5, maxval=1.5)
    changes = jax.random.bernoulli(k_when, CHANGE)
    command = jnp.where(changes, drawn, now.memory["command"])
    return {"key": jax.random.key_data(key), "command": command}


def observe(now):
    """What the policy sees. [4]"""
    error = now.memory["command"] - now.data.qpos[:1]
    return jnp.concatenate([now.data.qpos, 0.1 * now.data.qvel, error, now.last_action])


def reward(now):
    """Terms that are added up; each is reported as reward_NAME. `envs/rewards.py` has more."""
    return {
        "tracking": rewards.velocity_tracking(now.data.qpos[:1], now.memory["command"][None]),
        "smooth": -0.05 * rewards.action_smoothness(now.action, now.last_action),
    }


def terminate(now):
    """Whether the task ended. The time limit is not part of it."""
    return jnp.abs(now.data.qvel[0]) > 20.0


def make(physics="balanced", time_limit=250):
    """Its arguments are options: `--env-options time_limit 100`."""
    return envs.from_mjcf(
        MODEL,
        reset,
        observe,
        reward=reward,
        terminate=terminate,
        remember=remember,
        control_dt=0.02,
        time_limit=time_limit,
        physics=physics,
    )


if __name__ == "__main__":
    envs.check(make())
    print("the task keeps the contract")
