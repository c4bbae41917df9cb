"""One control step of MJX: batches, the derivative, and how often it is traced."""

import functools
import warnings
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.mjx import simulator as physics

OUTER, INNER = 2, 3
TORQUE = jnp.linspace(-1.0, 1.0, OUTER * INNER).reshape(OUTER, INNER, 1)


@functools.cache
def simulator():
    return envs.make("pendulum_swingup").env.sim


@pytest.fixture(autouse=True)
def made_outside_of_any_trace():
    simulator()


def swing(damping, torque, substeps=3):
    """qvel [nv] after some substeps from rest."""
    sim = simulator()
    sim = sim.replace(model=sim.model.replace(dof_damping=damping))
    start = sim.physics(sim.model.qpos0, jnp.zeros(sim.model.nv))
    return sim.simulate(start, torque, substeps)[0].qvel


@pytest.mark.parametrize("outer, inner", [(None, None), (0, None), (None, 0), (0, 0)])
def test_a_nested_batch_is_its_instances_whatever_of_the_model_varies(outer, inner):
    damping = jnp.arange(1.0, 1 + OUTER * INNER).reshape(OUTER, INNER, 1) * 0.1
    damping = damping if outer == 0 else damping[0]
    damping = damping if inner == 0 else damping[..., 0, :]
    together = jax.vmap(jax.vmap(swing, (inner, 0)), (outer, 0))
    found = jax.jit(together)(damping, TORQUE)
    alone = jax.jit(swing)
    for i in range(OUTER):
        for j in range(INNER):
            one = damping[i] if outer == 0 else damping
            one = one[j] if inner == 0 else one
            np.testing.assert_allclose(found[i, j], alone(one, TORQUE[i, j]), rtol=1e-5)


def test_mjx_is_traced_once_for_programs_that_nest_loops_and_batches(monkeypatch):
    calls = []
    step = lambda model, data: calls.append(1) or physics.mjx.step(model, data)
    monkeypatch.setattr(physics, "_step", physics._batched_once(step))
    damping = simulator().model.dof_damping
    swung = lambda torque: swing(damping, torque)
    loop = lambda torque: jax.lax.fori_loop(0, 4, lambda _, t: t + swung(t), torque)
    jax.eval_shape(jax.vmap(jax.vmap(loop)), TORQUE)
    jax.eval_shape(jax.vmap(lambda t: jax.lax.scan(lambda c, x: (c, swung(x)), 0, t)), TORQUE)
    assert len(calls) == 1


def precisions(f, *args):
    """Of every product that `f` computes."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append(eqn.params["precision"])
            for inner in jax.core.jaxprs_in_params(eqn.params):
                visit(inner)

    visit(jax.make_jaxpr(f)(*args).jaxpr)
    return found


@pytest.mark.parametrize("name", ["pendulum_swingup", "brax/inverted_pendulum"])
def test_physics_is_in_full_precision_whatever_networks_are_in(name):
    env = envs.make(name)
    with jax.default_matmul_precision("bfloat16"):
        state = jax.eval_shape(env.reset, jax.random.key(0))
        step = precisions(env.step, state, jnp.zeros(env.action_space.shape))
        reset = precisions(env.reset, jax.random.key(0))
    assert step and {p for p in step + reset} == {(jax.lax.Precision.HIGHEST,) * 2}


def test_a_step_has_a_reverse_mode():
    speed = lambda torque: swing(simulator().model.dof_damping, torque, 1).sum()
    found = jax.jit(jax.vmap(jax.grad(speed)))(TORQUE[0])
    up, down = (jax.jit(jax.vmap(speed))(TORQUE[0] + d) for d in (0.01, -0.01))
    np.testing.assert_allclose(found[:, 0], (up - down) / 0.02, rtol=1e-3)


@pytest.mark.parametrize(
    "name, contacts", [("ant", 8), ("humanoid", 16), ("humanoid_standup", 32), ("hopper", 11)]
)
def test_fast_physics_of_robots_with_many_contacts_keeps_the_deepest(name, contacts):
    assert envs.make(name, physics="fast").env.sim.template.contact.dist.shape == (contacts,)


def test_contacts_are_limited_without_a_difference_while_no_more_touch():
    def dropped(limit):
        sim = physics.load_gymnasium("hopper.xml", "fast", fast_contacts=limit)
        start = sim.physics(sim.model.qpos0, jnp.array([1.0, -1.0, 0.5, 0.0, 0.0, 0.0]))
        derive = lambda data: (data.contact.dist < 0).sum()
        return sim.simulate(start, jnp.zeros(3), 60, derive)

    (limited, touching), (free, all_touching) = (
        jax.jit(dropped, static_argnums=0)(n) for n in (4, None)
    )
    assert 0 < touching == all_touching <= 4
    np.testing.assert_allclose(limited.qpos, free.qpos, atol=1e-4)


def test_loading_prints_nothing_and_scales_masses_as_mujoco_does(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo also writes its warnings to a file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = physics.load_gymnasium("half_cheetah.xml").mj_model
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    assets = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    expected = physics.mujoco.MjModel.from_xml_path(str(assets / "half_cheetah.xml"))  # this warns
    assert found.body_mass.sum() == pytest.approx(14.0)
    assert found.stat.meanmass == expected.stat.meanmass
    assert found.stat.meaninertia == expected.stat.meaninertia
    arrays = [n for n in dir(expected) if isinstance(getattr(expected, n), np.ndarray)]
    assert "body_inertia" in arrays
    for name in arrays:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def test_load_does_not_change_the_callers_model():
    model = physics.mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    before = model.opt.iterations, model.opt.disableflags
    sim = physics.load(model, options={"iterations": before[0] + 7, "disableflags": 1})
    assert (model.opt.iterations, model.opt.disableflags) == before
    assert sim.mj_model.opt.iterations == before[0] + 7


def test_a_push_accelerates_its_body_alone_and_a_torque_turns_it():
    slide = "<joint type='slide' axis='1 0 0'/><geom size='.1' mass='2'/>"
    hinge = "<joint axis='0 0 1'/><inertial pos='0 0 0' mass='1' diaginertia='1 1 .5'/>"
    sim = physics.load(
        physics.mujoco.MjModel.from_xml_string(
            "<mujoco><option gravity='0 0 0' timestep='.01'/><worldbody>"
            f"<body name='a'>{slide}</body><body name='b'>{slide}</body><body name='c'>{hinge}</body>"
            "</worldbody></mujoco>"
        ),
        options={"disableflags": int(physics.mujoco.mjtDisableBit.mjDSBL_CONTACT)},
    )
    start, none = sim.physics(sim.model.qpos0, jnp.zeros(3)), jnp.zeros(0)

    @jax.jit
    def speeds(push):
        return sim.simulate(start, none, 5, xfrc_applied=push)[0].qvel

    row = lambda name: sim.mj_model.body(name).id
    push = jnp.zeros((4, 6)).at[row("b"), 0].set(3.0).at[row("c"), 5].set(2.0)
    np.testing.assert_allclose(speeds(push), [0.0, 3 / 2 * 0.05, 2 / 0.5 * 0.05], rtol=1e-5)
    several = jax.vmap(speeds)(jnp.stack([push, -push, 0 * push]))
    np.testing.assert_allclose(several[1], -several[0], rtol=1e-5)
    np.testing.assert_array_equal(several[2], jnp.zeros(3))
    with pytest.raises(ValueError, match=r"xfrc_applied of shape \(6,\): must be \(4, 6\)"):
        sim.simulate(start, none, 1, xfrc_applied=jnp.zeros(6))
