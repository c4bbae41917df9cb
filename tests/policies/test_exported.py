"""Policies outside of the library: the program, its files, and the program that runs them."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import drawn
from jax.extend.core import Primitive
from probes import Probe

import envs
from envs.transforms import residual
from jaxrl.learners.imitation import chunks
from jaxrl.learners.off_policy import sac
from jaxrl.learners.on_policy import ppo
from jaxrl.policies import contract, exported, run_policy
from jaxrl.policies.numpy_form import numpy_form
from jaxrl.policies.straight import as_function, straight
from jaxrl.types import Policy

PLAIN, SPLIT = Probe(), Probe(split=True)
SMALL = {"actor_hidden": (8,), "critic_hidden": (8,), "actor_out_scale": 1.0}
PPO = ppo.Config(num_envs=2, num_minibatches=1, **SMALL)
MADE = {
    "ppo": (ppo, PPO),
    "gru": (ppo, PPO.replace(gru_width=4)),
    "sac": (sac, sac.Config(num_envs=2, actor_hidden=(8,))),
    "flow": (
        chunks,
        chunks.Config(hidden=(8,), horizon=4, execute=3, denoise_steps=3, history=2),
    ),
}
MADE["diffusion"] = (chunks, MADE["flow"][1].replace(head="diffusion"))
MADE["gaussian"] = (chunks, MADE["flow"][1].replace(head="gaussian"))
EXPORTED = ("ppo", "gru", "sac", "flow")
STEPS = 200


def policy_on(env, name):
    module, config = MADE[name]
    learner = module.make(env, config)
    return learner.policy(drawn(jax.eval_shape(learner.init, jax.random.key(0))))


policy_of = functools.cache(functools.partial(policy_on, PLAIN))


def observations(env=PLAIN, steps=STEPS):
    size = env.observation_space.shape
    return np.random.default_rng(1).normal(size=(steps, *size)).astype(np.float32)


def actions_of(policy, obs, deterministic=True, restart=None):
    """What the policy does for obs [T, ...]. It begins anew at the step `restart`. [T, A]"""
    act = jax.jit(lambda carry, obs, key: policy.act(carry, obs, key, deterministic))
    carry, actions = policy.init_carry(), []
    for step, x in enumerate(obs):
        carry = policy.init_carry() if step == restart else carry
        begun = restart if restart and step >= restart else 0
        key = jnp.array([0, step - begun], jnp.uint32)  # the seed, and the step of the episode
        action, carry = act(carry, x, jax.random.wrap_key_data(key))
        actions.append(action)
    return np.array(actions)


# --- The program ---


@pytest.mark.parametrize("name", EXPORTED)
def test_the_program_acts_as_the_policy(name):
    policy, obs = policy_of(name), observations(steps=8)
    program = exported.exported(policy, PLAIN)
    call, carry, found = jax.jit(program.call), list(program.start.values()), []
    for step, x in enumerate(obs):
        key = [np.array([0, step], np.uint32)] * len(program.names("key"))
        action, *carry = call(x, *carry, *key)
        found.append(action)
    np.testing.assert_allclose(np.array(found), actions_of(policy, obs), atol=1e-5)
    assert np.ptp(found) > 0.1  # an action that never changes proves nothing


def test_only_what_actions_need_is_kept():
    """The critic's GRU is in the policy's carry, and a deterministic PPO draws nothing."""
    names = lambda *args: [e.name for e in exported.exported(*args).inputs]
    gru, mlp = policy_of("gru"), policy_of("ppo")
    assert len(jax.tree.leaves(gru.init_carry())) == 2
    assert names(gru, PLAIN) == ["obs", "carry.0"]
    assert names(mlp, PLAIN) == ["obs"]
    assert names(mlp, PLAIN, False) == ["obs", "key"]  # it samples
    assert names(policy_of("flow"), PLAIN)[-1] == "key"  # it starts from noise
    assert "key" not in names(policy_of("gaussian"), PLAIN)


def test_a_residual_is_exported_with_its_base():
    base = policy_of("ppo")
    env = residual(PLAIN, base, 0.1)
    own = policy_on(env, "ppo")
    program = exported.exported(own, env)
    assert [(e.name, e.shape) for e in program.inputs] == [("obs", (7,))]
    key = jax.random.key(0)
    for x in observations(steps=3):
        below, _ = base.act(base.init_carry(), x, key)
        correction, _ = own.act(own.init_carry(), {"obs": x, "base_action": below}, key)
        found = program.call(x)[0]
        np.testing.assert_allclose(found, env.combine(below, correction), atol=1e-6)


DRAWS = {
    "normal": lambda key: jax.random.normal(key, (5,)),
    "uniform": lambda key: jax.random.uniform(key, (2, 3), minval=-1.0),
    "split": lambda key: jax.vmap(lambda k: jax.random.bits(k, (2,)))(jax.random.split(key, 3)),
    "fold_in": lambda key: jax.random.bits(jax.random.fold_in(key, 7), (3,)),
    "categorical": lambda key: jax.random.categorical(key, jnp.array([0.1, 0.5, 0.2])),
    "in a loop": lambda key: jax.lax.fori_loop(
        0, 3, lambda i, x: x + jax.random.normal(jax.random.fold_in(key, i)), 0.0
    ),
}


@pytest.mark.parametrize("what", DRAWS)
def test_straight_programs_draw_what_jax_draws(what):
    f = lambda words: DRAWS[what](jax.random.wrap_key_data(words))
    words = jnp.array([3, 4_000_000_000], jnp.uint32)
    program = straight(f, words)
    (found,) = jax.core.eval_jaxpr(program.jaxpr, program.consts, words)
    np.testing.assert_allclose(found, f(words), rtol=1e-6)
    text = str(program)
    assert not any(x in text for x in ("key<", "jit[", "scan[", "threefry", "random_"))


def test_a_policy_that_sees_the_simulators_state_is_refused():
    planner = Policy((), lambda: (), lambda *args: (jnp.zeros(1), ()), sees_state=True)
    for policy, env in ((planner, PLAIN), (policy_of("ppo"), residual(PLAIN, planner, 0.1))):
        with pytest.raises(ValueError, match="acts on the simulator's state"):
            exported.exported(policy, env)


# --- Files ---


def written(tmp_path, policy, to, env=PLAIN, **about):
    out = tmp_path / "out"
    return out, exported.write(exported.exported(policy, env), to, out, about)


def test_a_serialised_jax_program_acts_the_same(tmp_path):
    policy, obs = policy_of("gru"), observations(steps=4)
    out, about = written(tmp_path, policy, "jax")
    call = jax.export.deserialize(bytearray((out / "policy.jax").read_bytes())).call
    carry, found = list(np.load(out / "start.npz").values()), []
    for x in obs:
        action, *carry = call(x, *carry)
        found.append(action)
    np.testing.assert_allclose(np.array(found), actions_of(policy, obs), atol=1e-5)
    assert [e["name"] for e in about["outputs"]] == ["action", "next.0"]


def test_stablehlo_is_a_portable_artifact(tmp_path):
    out, about = written(tmp_path, policy_of("ppo"), "stablehlo")
    content = (out / "policy.stablehlo").read_bytes()
    assert content.startswith(b"ML\xefR") and b"StableHLO" in content
    assert about["inputs"][0] == {
        "name": "obs",
        "role": "observation",
        "shape": [7],
        "dtype": "float32",
    }


def test_arrays_have_the_names_of_the_parameters(tmp_path):
    policy = policy_of("ppo")
    out, about = written(tmp_path, policy, "npz")
    arrays = dict(np.load(out / "policy.npz"))
    kernel = policy.params[0]["params"]["actor"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(arrays["params.0.params.actor.Dense_0.kernel"], kernel)
    assert len(arrays) == len(jax.tree.leaves(policy.params)) == len(about["arrays"])
    assert about["arrays"]["params.0.params.actor.Dense_0.kernel"]["shape"] == [7, 8]


def test_the_contract_of_a_mujoco_task_names_joints_and_actuators():
    about = contract.describe(envs.make("cartpole_swingup"))
    model = envs.make("cartpole_swingup").sim.mj_model
    joints, actuators = about["robot"]["joints"], about["robot"]["actuators"]
    assert [j["name"] for j in joints] == [model.joint(i).name for i in range(model.njnt)]
    assert {j["type"]: j["qpos_unit"] for j in joints} == {"slide": "m", "hinge": "rad"}
    assert [a["name"] for a in actuators] == [model.actuator(i).name for i in range(model.nu)]
    assert about["control"]["rate_hz"] == pytest.approx(1.0 / about["control"]["period_s"])
    assert about["task"] == {"name": "CartpoleSwingup", "transforms": ["TimeLimit"]}
    json.dumps(about, allow_nan=False)


def test_an_existing_folder_is_left_alone(tmp_path):
    program = exported.exported(policy_of("ppo"), PLAIN)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ValueError, match="exists: choose another --out"):
        exported.write(program, "npz", tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    def broken(program):
        raise OSError("disk full")

    monkeypatch.setitem(exported.CONTENTS, "npz", broken)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, policy_of("ppo"), "npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "to, names", [("onnx", "jax2onnx and onnxruntime"), ("jax", "flatbuffers")]
)
def test_a_missing_package_is_named(monkeypatch, to, names):
    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda name: None)
    message = rf"--to {to} needs {names}: pip install 'jaxrl\[export\]'"
    with pytest.raises(ValueError, match=message):
        exported.check_format(to)
    exported.check_format("stablehlo")  # needs nothing more


@pytest.mark.parametrize("name", [*EXPORTED, "diffusion"])
def test_numpy_acts_as_the_policy_for_1000_steps(tmp_path, name):
    """Recurrent states and chunks are in the carry, and a flow's noise is that of JAX."""
    policy, obs = policy_of(name), observations(steps=1000)
    out, about = written(tmp_path, policy, "npz")
    there, found = run_policy.Policy(out), []
    for step, x in enumerate(obs):
        if step == 500:
            there.reset()
        found.append(there.act(x))
    np.testing.assert_allclose(np.array(found), actions_of(policy, obs, restart=500), atol=1e-5)
    assert np.ptp(found) > 0.1 and about["checked"]["by"] == "NumPy"
    carried = [e["name"] for e in about["inputs"] if e["role"] == "carry"]
    assert bool(carried) == (name in ("gru", "flow", "diffusion"))
    assert carried == (list(np.load(out / "start.npz")) if carried else [])


def test_an_operation_that_numpy_lacks_leaves_the_arrays_alone(tmp_path):
    act = lambda params, carry, obs, key, sure: (params * jax.lax.sort(obs), carry)
    out, about = written(tmp_path, Policy(jnp.float32(2.0), lambda: (), act), "npz")
    assert about["program"] is None and "no operation 'sort'" in about["no_program"]
    assert sorted(x.name for x in out.iterdir()) == ["contract.json", "policy.npz"]
    with pytest.raises(ValueError, match="holds arrays without a program"):
        run_policy.Policy(out)


ARRAY = jnp.array([[0.3, -2.0, 1.5], [0.1, 7.0, -0.4]])
FORMS = {
    "erf_inv": lambda x: jax.lax.erf_inv(jnp.clip(x, -0.9999, 1.0)),
    "erf": jax.lax.erf,
    "logistic": jax.nn.sigmoid,
    "softmax": lambda x: jax.nn.softmax(x) * jax.nn.gelu(x) + jnp.where(x > 0, jnp.log1p(x), x),
    "batched product": lambda x: jnp.einsum("bi,bij->jb", x, jnp.stack([ARRAY.T @ ARRAY, x.T @ x])),
    "reductions": lambda x: jnp.stack(
        [x.max(), x.min(), x.prod(), x.sum(), x.var(), x.argmax(1)[1]]
    ),
    "cumsum": lambda x: jax.lax.cumsum(x, 1, reverse=True) + jnp.cumsum(x, 0),
    "slices": lambda x: jax.lax.dynamic_slice(x, (5, x[0, 1].astype(int)), (1, 2)) + x[::2, 1:],
    "update": lambda x: jax.lax.dynamic_update_slice(x, x[:1] * 3, (1, 0))[::-1].T,
    "powers": lambda x: jnp.abs(x) ** 0.3 + x**3 + x**-2 + jax.lax.rsqrt(jnp.abs(x)) + x % 0.7,
    "integers": lambda x: (x * 1e4).astype(jnp.int32) // 7 % 5 + jnp.arange(3),
    "choice": lambda x: jnp.concatenate([jnp.sign(x), jnp.floor(x), jnp.clip(x, -1.0, 1.0)], 1),
}


@pytest.mark.parametrize("what", FORMS)
def test_numpy_computes_what_jax_computes(tmp_path, what):
    f = lambda *xs: tuple(FORMS[what](x) for x in xs)
    program = straight(f, ARRAY)
    (tmp_path / "program.npz").write_bytes(numpy_form(as_function(program), [ARRAY]))
    contract = {"program": {"file": "program.npz"}, "inputs": [{"name": "x"}]}
    (found,) = run_policy.program(tmp_path, contract)({"x": np.asarray(ARRAY)})
    (expected,) = f(ARRAY)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == expected.dtype


# --- ONNX: the packages of the extra `export`, which holds others back, are not in `test` ---


def onnx_or_skip():
    pytest.importorskip("jax2onnx", reason="pip install 'jaxrl[export]'")
    pytest.importorskip("onnxruntime", reason="pip install 'jaxrl[export]'")


@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_runtime_acts_as_the_policy(tmp_path, name):
    onnx_or_skip()
    policy, obs = policy_of(name), observations()
    out, _ = written(tmp_path, policy, "onnx")
    there, found = run_policy.Policy(out), []
    for step, x in enumerate(obs):
        if step == STEPS // 2:
            there.reset()
        found.append(there.act(x))
    expected = actions_of(policy, obs, restart=STEPS // 2)
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5)
    assert np.ptp(found) > 0.1


def test_entries_of_an_observation_have_names(tmp_path):
    onnx_or_skip()
    policy = policy_on(SPLIT, "ppo")
    out, about = written(tmp_path, policy, "onnx", SPLIT)
    assert [e["name"] for e in about["inputs"]] == ["obs.clock", "obs.cue"]
    there, clock = run_policy.Policy(out), np.arange(6.0)
    action = there.act({"clock": clock, "cue": [0.5]})
    obs = {"clock": jnp.asarray(clock, jnp.float32), "cue": jnp.array([0.5])}
    expected, _ = policy.act(policy.init_carry(), obs, jax.random.key(0))
    np.testing.assert_allclose(action, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"observation: has no entry 'cue'; it has \['clock'\]"):
        there.act({"clock": clock})
    with pytest.raises(ValueError, match=r"obs.cue: has shape \[2\], must be \[1\]"):
        there.act({"clock": clock, "cue": [0.5, 0.5]})


ALONE = """
import runpy, sys
for name in ("jax", "jaxlib", "jaxrl", "envs", "flax", "mujoco"):
    sys.modules[name] = None  # importing it fails
sys.argv = ["run_policy.py", "--obs", "obs.npy", "--out", "actions.npy"]
runpy.run_path("out/run_policy.py", run_name="__main__")
"""


def test_run_policy_needs_neither_jax_nor_this_library(tmp_path):
    onnx_or_skip()
    policy, obs = policy_of("flow"), observations(steps=20)
    written(tmp_path, policy, "onnx", control={"rate_hz": 50.0})
    np.save(tmp_path / "obs.npy", obs)
    ended = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "20 steps, median" in ended.stdout and "runs at 50 Hz" in ended.stdout
    found = np.load(tmp_path / "actions.npy")
    np.testing.assert_allclose(found, actions_of(policy, obs), atol=1e-5)


def test_a_model_that_is_not_the_contracts_is_refused(tmp_path):
    onnx_or_skip()
    out, _ = written(tmp_path, policy_of("ppo"), "onnx")
    with open(out / "policy.onnx", "ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match="policy.onnx: not the file of contract.json"):
        run_policy.Policy(out)


def test_an_operation_that_onnx_lacks_is_named(tmp_path):
    onnx_or_skip()
    toy = Primitive("toy")
    toy.def_impl(lambda x: x)
    toy.def_abstract_eval(lambda x: x)
    policy = Policy((), lambda: (), lambda params, carry, obs, key, sure: (toy.bind(obs), carry))
    with pytest.raises(ValueError, match="'toy'.*Use --to stablehlo") as raised:
        written(tmp_path, policy, "onnx")
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_onnx_runtime_that_acts_in_another_way_is_refused(tmp_path, monkeypatch):
    onnx_or_skip()
    monkeypatch.setattr(run_policy.Policy, "act", lambda self, obs, key: np.ones(1))
    with pytest.raises(RuntimeError, match="ONNX Runtime and JAX differ by .* use --to stablehlo"):
        written(tmp_path, policy_of("ppo"), "onnx")
