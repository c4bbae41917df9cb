"""Pushes and drawn physics of MJX tasks, ours and those of other suites, by Newton's law."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from flax import struct
from mujoco import mjx
from toys import Line

from envs.adapters.suite import adapt
from envs.mjx.simulator import Simulator, load
from envs.transforms import push, randomise, scale_physics, time_limit
from envs.types import Box, first_state

MASS, DT = 2.0, 0.01
MODEL = mujoco.MjModel.from_xml_string(f"""
<mujoco>
  <option gravity="0 0 0" timestep="{DT}"><flag contact="disable"/></option>
  <worldbody>
    <body name="puck">
      <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
      <geom size=".1" mass="{MASS}"/>
    </body>
  </worldbody>
  <actuator><motor joint="x"/></actuator>
</mujoco>""")


@struct.dataclass
class Puck:
    """A task of ours. obs [2]: the velocity of a puck on ice."""

    sim: Simulator
    observation_space = Box((2,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        at_rest = self.sim.physics(jnp.zeros(2), jnp.zeros(2))
        return first_state(at_rest, at_rest.qvel)

    def step(self, state, action):
        new, _ = self.sim.simulate(state.data, action, 1)
        return state.next(new, new.qvel, jnp.zeros(()))


@struct.dataclass
class RinkState:
    data: mjx.Data
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    metrics: dict
    info: dict


class Rink:
    """The same puck as MuJoCo Playground writes its tasks."""

    action_size, dt = 1, DT

    def __init__(self):
        self.mj_model, self._mjx_model = MODEL, mjx.put_model(MODEL)

    def reset(self, rng):
        data = mjx.make_data(MODEL)
        return RinkState(data, data.qvel, jnp.zeros(()), jnp.zeros(()), {}, {})

    def step(self, state, action):
        data = mjx.step(self._mjx_model, state.data.replace(ctrl=action))
        return state.replace(data=data, obs=data.qvel)


class BraxRink(Rink):
    """As Brax keeps its model; another backend does not read an `mjx.Model`."""

    def __init__(self, backend="mjx"):
        super().__init__()
        self.sys, self.backend = vars(self).pop("_mjx_model"), backend

    def step(self, state, action):
        data = mjx.step(self.sys, state.data.replace(ctrl=action))
        return state.replace(data=data, obs=data.qvel)


class PushesItself(Rink):
    def step(self, state, action):
        data = state.data.replace(xfrc_applied=jnp.zeros((2, 6)))
        return super().step(state.replace(data=data), action)


def tasks():
    return {
        "own": lambda: Puck(load(MODEL)),
        "playground": lambda: adapt(Rink()),
        "brax": lambda: adapt(BraxRink()),
    }


def velocities(env, action: float, steps: int):
    """Velocities [T + 1, 2 episodes, 2] and the slots of transforms, which `step` returned [T, 2]."""

    def one(key):
        def step(state, _):
            new = env.step(state, jnp.array([action]))
            return new, (new.obs, new.info)

        first = env.reset(key)
        _, (obs, info) = jax.lax.scan(step, first, None, steps)
        return jnp.concatenate([first.obs[None], obs]), info

    return jax.jit(jax.vmap(one, out_axes=1))(jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize("kind", ["own", "playground"])
def test_a_push_accelerates_the_body_by_force_over_mass(kind):
    env = push(time_limit(tasks()[kind](), 100), "puck", force=4.0, period=3, duration=2)
    speed, info = velocities(env, 0.0, 9)
    slot = {k: np.asarray(info["push"][k]) for k in ("clock", "force")}
    clock = (slot["clock"] - 1) % 3  # of the step itself
    lasts = (clock < 2)[..., None]
    expected = np.where(lasts, slot["force"][..., :2], 0.0) / MASS * DT
    np.testing.assert_allclose(np.diff(speed, axis=0), expected, atol=1e-6)
    size = np.linalg.norm(slot["force"], axis=-1)
    begun = np.maximum.accumulate(clock == 0, 0)
    assert (size[~begun] == 0).all() and (size[begun] > 0).all() and (size <= 4.0).all()
    fresh = (np.diff(slot["force"], axis=0) != 0).any(-1)
    np.testing.assert_array_equal(fresh, clock[1:] == 0)
    assert (slot["force"][..., 2] == 0).all()


@pytest.mark.parametrize("kind", ["own", "brax"])
def test_a_heavier_body_is_slower_by_its_own_factor(kind):
    env = randomise(tasks()[kind](), scale_physics(0.5, 2.0, ("body_mass",)))
    speed, info = velocities(env, 1.0, 2)
    drawn = {p.rsplit(".", 1)[1]: np.asarray(x) for p, x in info["randomise"].items()}
    mass = drawn["body_mass"][0, :, 1]
    assert mass[0] != mass[1]
    np.testing.assert_allclose(speed[2, :, 0], 2 * DT / mass, rtol=1e-5)


def other_backend():
    return adapt(BraxRink("generalized"))


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (Line, {}, "push: Line is not an MJX task"),
        (tasks()["own"], {"body": "pack"}, "body='pack': the model has puck"),
        (tasks()["own"], {"duration": 9}, "duration=9: must be at most period=3"),
        (tasks()["own"], {"period": 0}, "period=0: must be an integer, at least 1"),
        (tasks()["own"], {"force": -1.0}, "force=-1.0: must be 0 .. 1e"),
        (
            lambda: adapt(PushesItself()),
            {},
            "a step of PushesItself does not read the xfrc_applied",
        ),
        (other_backend, {}, "a step of BraxRink does not read the xfrc_applied"),
    ],
)
def test_what_cannot_be_pushed_is_said_in_one_line(make, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        push(make(), **({"body": "puck", "force": 4.0, "period": 3} | change))
    assert "\n" not in str(raised.value)


def test_drawn_physics_of_another_backend_are_refused():
    with pytest.raises(ValueError, match="SuiteEnv is not an MJX task"):
        randomise(other_backend(), scale_physics(0.5, 2.0))
