"""What every learner from recorded data must withstand: entries of one value, and rare values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from envs.types import Box, State, first_state
from jaxrl.data.dataset import Dataset, from_arrays
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.learners.offline import bc, iql, td3_bc


@struct.dataclass
class Point:
    """Two numbers seen, two actions taken; it is never stepped."""

    observation_space = Box((2,))
    action_space = Box((2,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> State:
        return first_state(jnp.zeros(()), jnp.zeros(2))

    def step(self, state: State, action: jax.Array) -> State:
        return state


def steps(obs: np.ndarray, action: np.ndarray) -> Dataset:
    end = np.arange(len(obs)) % 20 == 19
    return from_arrays(obs, action, np.ones(len(obs)), obs, np.zeros(len(obs)), end)


SMALL = {"updates_per_step": 100, "batch_size": 64}
OFFLINE = SMALL | {"actor_hidden": (32,), "actor_lr": 3e-3}
CRITIC = {"critic_hidden": (32,)}
CHUNKS = SMALL | {"hidden": (32,), "horizon": 1, "execute": 1, "learning_rate": 3e-3}
LEARNERS = {
    "bc": (bc, bc.Config(**OFFLINE)),
    "bc, gaussian": (bc, bc.Config(**OFFLINE, loss="gaussian")),
    "iql": (iql, iql.Config(**OFFLINE, **CRITIC)),
    "td3_bc": (td3_bc, td3_bc.Config(**OFFLINE, **CRITIC)),
    "imitation, flow": (imitation, imitation.Config(**CHUNKS)),
    "imitation, gaussian": (imitation, imitation.Config(**CHUNKS, head="gaussian")),
}


def trained(name: str, dataset: Dataset, iterations: int):
    """Actions [B, 2] of the learner's mode for observations [B, 2]."""
    module, config = LEARNERS[name]
    learner = module.make(Point(), config, dataset)
    state, step = learner.init(jax.random.key(0)), jax.jit(learner.step)
    for _ in range(iterations):
        state, _ = step(state)
    policy = learner.policy(state)
    one = lambda obs: policy.act(policy.init_carry(), obs, jax.random.key(1), True)[0]
    return jax.jit(jax.vmap(one))


@pytest.mark.parametrize("name", ["bc", "iql", "td3_bc", "imitation, flow"])
def test_a_small_deviation_of_a_constant_entry_changes_actions_a_little(name):
    """A sensor that reads 0.7 in all the data reads 0.701: that was +-10 to the network."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 1))
    obs = np.concatenate([x, np.full_like(x, 0.7)], 1)
    act = trained(name, steps(obs, np.concatenate([-x, x], 1)), 2)
    grid = np.stack([np.linspace(-0.5, 0.5, 9), np.full(9, 0.7)], 1).astype(np.float32)
    moved = act(grid + np.array([0.0, 1e-3], np.float32)) - act(grid)
    assert np.abs(moved).max() < 0.01


@pytest.mark.parametrize("name", ["bc, gaussian", "imitation, gaussian"])
def test_a_gaussian_learns_a_value_that_few_rows_hold(name):
    """A gripper that closes in a tenth of the rows: a deviation that depends on the observation
    grows there instead, and the mean never follows."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (1000, 2))
    grip = np.where(obs[:, 0] > 0.8, 1.0, -1.0)
    act = trained(name, steps(obs, np.stack([obs[:, 1], grip], 1)), 20)
    found = np.asarray(act(obs.astype(np.float32)))
    assert (found[grip > 0, 1] > 0).mean() > 0.8
    assert (found[grip < 0, 1] < 0).mean() > 0.95
    assert np.abs(found[:, 0] - obs[:, 1]).mean() < 0.15
