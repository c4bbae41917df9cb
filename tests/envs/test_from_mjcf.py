"""`from_mjcf`: a model and a few functions become an environment, and mistakes are named in one line."""

import importlib
import re
import sys
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from envs import mjcf, registry, report
from envs.mjx.refused import refused
from envs.mjx.simulator import BALANCED, load
from envs.transforms import randomise, scale_physics

MASS, TIMESTEP, SKIP = 2.0, 0.01, 3
CART = f"""
<mujoco>
  <option timestep="{TIMESTEP}" gravity="0 0 0"><flag contact="disable" eulerdamp="disable"/></option>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0" range="-1 1" limited="false"/>
      <geom size=".1" mass="{MASS}"/>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="slide" gear="4" ctrlrange="-1 3"/></actuator>
</mujoco>"""
zero = lambda now: jnp.zeros(())


def model(text: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(text)


def test_an_episode_follows_the_functions_and_newton():
    """The cart of 2 kg is pushed by 4 N for each unit of control, and controls are in -1 .. 3."""

    def reset(key, sim):
        return sim.mj_model.qpos0, jnp.zeros(1), {"command": jnp.float32(5.0), "steps": 0}

    def remember(now):
        return {"command": now.memory["command"] + 1.0, "steps": now.memory["steps"] + 1}

    env = envs.from_mjcf(
        CART,
        reset,
        lambda now: {"obs": now.data.qvel, "command": now.memory["command"][None]},
        reward=lambda now: {
            "command": now.memory["command"],
            "change": -jnp.abs(now.action - now.last_action).sum(),
        },
        terminate=lambda now: now.data.qvel[0] > 0.2,
        remember=remember,
        frame_skip=SKIP,
        time_limit=None,
    )
    assert env.observation_space == {"obs": envs.Box((1,)), "command": envs.Box((1,))}
    assert isinstance(hash(jax.tree.structure(env)), int)  # an argument of compiled functions
    state = jax.jit(env.reset)(jax.random.key(0))
    assert float(state.obs["command"][0]) == 5.0
    step = jax.jit(env.step)
    # Beyond its range an action is clipped: 7 is 1, which is a control of 3.
    actions, controls = (-0.5, 0.5, 7.0), (0.0, 2.0, 3.0)
    velocity, last, endings = 0.0, 0.0, []
    for i, (action, control) in enumerate(zip(actions, controls, strict=True)):
        state = step(state, jnp.array([action]))
        velocity += SKIP * TIMESTEP * 4.0 * control / MASS
        assert float(state.obs["obs"][0]) == pytest.approx(velocity, rel=1e-4)
        # The reward is of the command that the policy saw, the observation of the next one.
        change = abs(min(action, 1.0) - last)
        assert float(state.metrics["reward_command"]) == 5.0 + i
        assert float(state.metrics["reward_change"]) == pytest.approx(-change)
        assert float(state.reward) == pytest.approx(5.0 + i - change)
        assert float(state.obs["command"][0]) == 6.0 + i
        endings.append(bool(state.terminated))
        last = min(action, 1.0)
    assert endings == [False, False, True] and int(state.data.memory["steps"]) == 3


def test_the_defaults_are_joints_a_time_limit_and_a_control_step_of_20_ms():
    env = envs.from_mjcf(CART, reward=zero)
    assert env.limit == 1000 and env.env.frame_skip == 2
    state = jax.eval_shape(env.reset, jax.random.key(0))
    assert state.obs.shape == env.observation_space.shape == (2,)
    assert env.action_space == envs.Box((1,), -1.0, 1.0)


def test_the_numbers_of_the_model_are_drawn_by_transforms():
    env = randomise(envs.from_mjcf(CART, reward=zero), scale_physics(0.5, 2.0, ("body_mass",)))
    assert any(path.endswith("model.body_mass") for path in env.paths)


FREE = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body><freejoint/><geom size=".1" contype="0" conaffinity="0"/>
      <body><joint name="hip" range="-1 1" limited="true"/><geom size=".1" contype="0" conaffinity="0"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="hip" ctrlrange="-1 1"/></actuator>{keyframe}
</mujoco>"""
KEYFRAME = '<keyframe><key qpos="1 2 3 1 0 0 0 1" qvel="0 0 5 0 0 0 1"/></keyframe>'


@pytest.mark.parametrize("keyframe", ["", KEYFRAME])
def test_the_default_reset_is_near_the_keyframe_and_within_limits(keyframe):
    sim = load(model(FREE.format(keyframe=keyframe)))
    reset = mjcf.near_keyframe(noise=0.1)
    starts = jax.jit(jax.vmap(lambda key: reset(key, sim)))
    qpos, qvel = starts(jax.random.split(jax.random.key(0), 64))
    home = [1, 2, 3, 1, 0, 0, 0] if keyframe else [0, 0, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(qpos[:, :7], np.tile(home, (64, 1)))
    hip = qpos[:, 7]
    assert hip.min() < (0.95 if keyframe else -0.05) and hip.max() <= (1.0 if keyframe else 0.1)
    np.testing.assert_array_equal(qvel[:, 2], 5.0 if keyframe else 0.0)
    assert qvel[:, 6].std() > 0.03 and jnp.abs(qvel[:, 6] - bool(keyframe)).max() <= 0.1


def branch(now):
    return 1.0 if now.data.qpos[0] > 0 else 0.0


@pytest.mark.parametrize(
    "functions, message",
    [
        ({"reward": lambda now: now.data.qpos}, r"reward: returned float32\[1\], expected float32\[\]"),
        ({"reward": lambda now: {"a": None}}, r"reward: returned \{'a': None\}, expected"),
        ({"reward": 3}, r"reward=3: must be a function reward\(now\)"),
        ({"reward": lambda: 0.0}, r"reward: is called as reward\(now\), but too many positional"),
        ({"reward": branch}, r"reward: raised TracerBool.*line \d+ of test_from_mjcf.py\); use jnp.where"),
        ({"reward": lambda now: np.sin(now.data.qpos[0])}, "reward: raised TracerArray.*use jnp for np"),
        ({"reward": lambda now: now.data.qposs}, "reward: raised AttributeError: .*'qposs'"),
        ({"reset": lambda key, sim: jnp.zeros(2)}, r"reset: returned float32\[2\], expected \(qpos fl"),
        ({"reset": lambda key, sim: (jnp.zeros(3), jnp.zeros(1))}, r"returned \(float32\[3\], float32\[1"),
        ({"reset": lambda key: 0}, r"reset: is called as reset\(key, sim\), but too many"),
        ({"observe": lambda now: [now.data.qpos]}, r"observe: returned \[float32\[1\]\], expected float"),
        ({"observe": lambda now: now.data.time}, r"observe: returned float32\[\], expected float32\[n"),
        ({"terminate": lambda now: now.data.qpos[0]}, r"terminate: returned float32\[\], expected bool"),
        ({"remember": lambda now: 1.0}, r"remember: returned 1.0, expected \(\), the memory of reset"),
        ({"action": lambda action, sim: jnp.zeros(2)}, r"action: returned float32\[2\], expected float32\[1"),
        ({"action": "torque"}, "action='torque': allowed are 'ctrl range' and a function"),
        ({"control_dt": 0.025}, "control_dt=0.025: .* timestep 0.01, such as 0.02 or 0.03$"),
        ({"control_dt": 0.001}, "control_dt=0.001: .* such as 0.01 or 0.02$"),
        ({"control_dt": 0.02, "frame_skip": 2}, "frame_skip=2: give one of them"),
        ({"frame_skip": 0}, "frame_skip=0: must be an integer, at least 1"),
        ({"time_limit": 0}, "time_limit=0: must be"),
        ({"physics": "slow"}, "physics='slow': allowed are 'accurate', 'balanced', 'fast' and a dict"),
        ({"physics": {"iteration": 2}}, "no field 'iteration', did you mean iterations"),
    ],
)  # fmt: skip
def test_a_wrong_function_or_number_is_named_in_one_line(functions, message):
    with pytest.raises(ValueError, match=f"^{message}|{message}") as raised:
        envs.from_mjcf(CART, **({"reward": zero} | functions))
    assert "\n" not in str(raised.value)


def test_physics_is_a_level_or_options_of_a_copy():
    own = model(CART.replace("<option ", '<option solver="PGS" '))
    options = lambda **given: envs.from_mjcf(own, reward=zero, **given).sim.mj_model.opt
    with pytest.warns(UserWarning, match="MJX has no PGS solver: Newton takes its place"):
        accurate = options()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balanced = options(physics="balanced")
        newton = int(mujoco.mjtSolver.mjSOL_NEWTON)
        few = options(physics={"iterations": 2, "solver": newton})
    assert (accurate.solver, accurate.iterations) == (newton, own.opt.iterations)
    assert balanced.iterations == BALANCED["iterations"] and few.iterations == 2
    assert own.opt.solver == mujoco.mjtSolver.mjSOL_PGS


def test_a_file_with_an_include_is_loaded_and_mistakes_name_file_and_line(tmp_path):
    leg = '<mujoco>\n  <worldbody>\n    <body><freejoint/>\n      <geom name="can" type="cylinder" size=".1 .1"/></body>\n  </worldbody>\n</mujoco>'
    body = """<mujoco>
  <include file="leg.xml"/>
  <worldbody>
    <geom name="wall" type="box" size="1 1 1"/>
  </worldbody>
  <actuator>
    <motor name="spin" site="s" {motor}/>
  </actuator>
  <worldbody><site name="s"/></worldbody>
</mujoco>"""
    (tmp_path / "leg.xml").write_text(leg)
    path = tmp_path / "robot.xml"
    path.write_text(body.format(motor=""))
    with pytest.raises(ValueError, match=r"actuator 'spin' \(robot.xml line 7\) has no ctrlrange"):
        envs.from_mjcf(path, reward=zero)
    path.write_text(body.format(motor='ctrlrange="-1 1"'))
    collide = r"contacts of cylinder 'can' \(leg.xml line 4\) with box 'wall' \(robot.xml line 4\)"
    with pytest.raises(ValueError, match=f"{collide} \\(use a capsule") as raised:
        envs.from_mjcf(path, reward=zero)
    assert "\n" not in str(raised.value)
    (tmp_path / "leg.xml").write_text(leg.replace('"cylinder"', '"capsule"'))
    assert envs.from_mjcf(str(path), reward=zero).observation_space.shape == (7 + 6,)


@pytest.mark.parametrize(
    "source, message",
    [
        ("nowhere.xml", "nowhere.xml: no such file"),
        ("<mujoco><worldbody><bodi/></worldbody></mujoco>", r"cannot read it \(XML Error.*'bodi', line 1\)"),
        ("<mujoco", "cannot read it"),
        (CART.replace("<motor", "<!--").replace('3"/>', '3"-->'), "the model has no actuator"),
        (CART.replace(' ctrlrange="-1 3"', ""), "actuator 'push' has no ctrlrange, expected one such as"),
    ],
)  # fmt: skip
def test_a_model_that_is_none_is_refused_in_one_line(source, message):
    with pytest.raises(ValueError, match=message) as raised:
        envs.from_mjcf(source, reward=zero)
    assert "\n" not in str(raised.value)


ROBOT = """
<mujoco>
  <option {option}><flag {flag}/></option>
  <asset><mesh name="wedge" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1" {floor}/>
    <body name="b"><joint name="hip"/><geom name="part" {geom}/></body>
  </worldbody>
  <actuator><general name="servo" joint="hip" {actuator}/></actuator>
  <sensor>{sensor}</sensor>
</mujoco>"""
PARTS = ("option", "flag", "floor", "actuator", "sensor")


@pytest.mark.parametrize(
    "parts, named",
    [
        ({}, None),
        ({"option": 'solver="PGS"'}, 'option solver="PGS" (use Newton or CG)'),
        ({"option": 'integrator="implicit"'}, 'option integrator="implicit" (use implicitfast'),
        ({"option": 'integrator="implicitfast" wind="1 0 0"'}, "with density, viscosity or wind (use"),
        ({"flag": 'energy="enable"'}, "flag energy (leave it out)"),
        ({"actuator": 'dyntype="user"'}, "actuator 'servo' of type user (use a motor"),
        ({"sensor": '<e_kinetic name="e"/>'}, "sensor 'e' of type e_kinetic (use no sensor"),
        ({"geom": 'type="mesh" mesh="wedge" margin=".1"'}, "geom 'part' (set margin to 0)"),
        ({"sensor": '<contact name="c" body1="b" data="found"/>'}, "contact sensor 'c' that matches bod"),
        (
            {"option": 'cone="elliptic"', "geom": 'size=".1" condim="1"', "floor": 'condim="1"'},
            "condim=\"1\" of geom 'floor', 'part' with",
        ),
    ],
)  # fmt: skip
def test_what_mjx_refuses_is_named_with_what_works(parts, named):
    text = ROBOT.format(**(dict.fromkeys(PARTS, "") | {"geom": 'size=".1"'} | parts))
    if named is None:
        assert refused(model(text)) == []
        load(model(text))
        return
    (found,) = refused(model(text))
    assert named in found
    with pytest.raises(ValueError, match="^MJX cannot simulate this model: " + re.escape(found)):
        load(model(text))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs packages with entry points in a folder."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})

    def install(package: str, **points: str) -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[jaxrl.envs]", *lines, ""]))
        importlib.invalidate_caches()

    return install


def test_an_installed_package_is_known_by_its_entry_points(installed, monkeypatch):
    module = types.ModuleType("maker_of_mazes")
    module.make = lambda radius=0.3: envs.make("point_maze", goal_radius=radius)
    monkeypatch.setitem(sys.modules, "maker_of_mazes", module)
    installed("mazes", our_maze="maker_of_mazes:make", lost="maker_of_mazes:nothing", ant="os:x")
    assert {"our_maze", "lost"} <= set(envs.names())
    env = envs.make("our_maze", radius=0.4)
    assert env.goal_radius == 0.4 and envs.made_by(env) == ("our_maze", {"radius": 0.4})
    with pytest.raises(ValueError, match="^env='our_maze': maker_of_mazes:make .*'radus'"):
        envs.make("our_maze", radus=0.4)
    with pytest.raises(
        ValueError, match="^env='lost': cannot load 'maker_of_mazes:nothing' of the"
    ):
        envs.make("lost")
    with pytest.raises(ValueError, match="unknown task 'our_mase', did you mean our_maze"):
        envs.make("our_mase")
    installed("others", our_maze="other:make")
    with pytest.raises(ValueError, match="packages mazes and others both have it"):
        envs.make("our_maze")
    envs.register("our_maze", lambda: envs.make("point_maze", goal_radius=0.1))
    assert envs.make("our_maze").goal_radius == 0.1  # one's own comes first


def test_the_report_says_sizes_cost_and_parity(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "LEVELS", {"accurate": {}})
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    assert report.main([str(path), "--batch", "2", "--seconds", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "1 bodies, 1 joints, 1 degrees of freedom, 1 actuators, 1 geoms, 0 meshes" in out
    assert "pairs that may touch: 0\nMJX ignores: nothing\ncontrol step of 0.02 s (2 physics" in out
    assert re.search(r"accurate +[\d,]+ steps/s, +[\d.]+ us each; compiles in \d+ s", out)
    assert "C MuJoCo over 100 random steps (accurate): agrees. " in out
    assert 'faster:\n  - iterations="100"' in out


def test_the_report_names_what_mjx_refuses(tmp_path, capsys):
    path = tmp_path / "robot.xml"
    text = dict.fromkeys(PARTS, "") | {"geom": 'size=".1"', "sensor": '<e_kinetic name="e"/>'}
    path.write_text(ROBOT.format(**text))
    assert report.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "MJX refuses: sensor 'e' (robot.xml line 10) of type e_kinetic" in out
    assert "pairs that may touch: 1 (1 plane - sphere)" in out and "steps/s" not in out
    assert report.main(["nowhere.xml"]) == 1
    assert capsys.readouterr().err == "nowhere.xml: no such file, expected an MJCF or URDF file\n"


def test_parity_finds_a_model_with_another_mass():
    """After one step of 0.01 s a push of up to 12 N gives 2 kg half the velocity that it gives 1 kg."""
    sim = load(model(CART))
    light = sim.replace(model=sim.model.replace(body_mass=sim.model.body_mass / 2))
    found = report.parity(light, steps=20)
    assert found.joint == "slide" and found.qvel > report.AGREES
    assert found.qvel <= 12.0 * TIMESTEP / MASS + 1e-6


def test_advice_names_what_costs():
    slow = model("""
<mujoco>
  <option integrator="RK4" cone="elliptic" timestep="0.001"/>
  <asset><mesh name="wedge" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>
  <worldbody>
    <geom type="plane" size="1 1 1" condim="6"/>
    <body><freejoint/><geom type="mesh" mesh="wedge"/></body>
  </worldbody>
</mujoco>""")
    found = "\n".join(report.advice(slow, substeps=20))
    for word in ("RK4", "elliptic", "'wedge'", "20 physics steps", "condim", "iterations"):
        assert word in found
    lean = model(CART.replace("<option ", '<option iterations="4" ls_iterations="8" '))
    assert report.advice(lean, substeps=2) == []


def test_the_robot_of_the_guide_is_made_and_steps(monkeypatch, tmp_path):
    text = (Path(envs.__file__).parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n# my_robot.py\n(.*?)```", text, re.S)
    (tmp_path / "my_robot.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    env = envs.make("my_robot:make", time_limit=30)
    monkeypatch.delitem(sys.modules, "my_robot")
    assert env.limit == 30 and env.env.frame_skip == 4 and env.sim.mj_model.opt.iterations == 4
    state = jax.jit(env.reset)(jax.random.key(0))
    new = jax.jit(env.step)(state, jnp.array([1.0, 0.0]))
    assert new.metrics["reward_height"] == pytest.approx(1.0, abs=0.01)
    assert new.metrics["reward_smooth"] == pytest.approx(-0.05)
    assert new.obs[0] > state.obs[0] and new.obs.shape == env.observation_space.shape
