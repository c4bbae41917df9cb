"""Images in data sets: recorded as bytes, kept as bytes, and imitated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Lamp, assert_same

from envs.transforms import pixels
from jaxrl.data import describe, files, recording
from jaxrl.data.dataset import concatenate
from jaxrl.learners.imitation import chunks as imitation
from jaxrl.types import Policy

# A reward for half of the cue at each of three steps, and only the picture tells the cue.
ENV = pixels(Lamp(length=3.0, truncates=True, pays_goal=1.0, goal_cue=0.5), 4)


def by_the_picture(params, carry, obs, key, deterministic):
    """Half of the cue."""
    return jnp.where(obs["pixels"].mean() > 120, 0.5, -0.5)[None], carry


@functools.cache
def recorded():
    policy = Policy((), lambda: (), by_the_picture)
    return recording.record(policy, ENV, 12, jax.random.key(0), num_envs=12)


def test_recordings_of_pictures_are_bytes_and_statistics_read_them():
    dataset = recorded()
    images = dataset.steps.obs["pixels"]
    assert images.dtype == dataset.steps.next_obs["pixels"].dtype == np.uint8
    assert images.shape == (36, 1, 4, 4, 3) and images.nbytes == 36 * 48
    assert set(np.unique(images)) == {40, 200}
    both = concatenate(dataset, dataset.take([0, 3]))
    assert both.steps.obs["pixels"].dtype == np.uint8 and len(both) == 36 + 6
    assert both.steps_for(ENV).obs["pixels"].dtype == np.uint8
    assert 0.0 < describe.coverage(dataset) <= 1.0
    moments = dataset.obs_moments()
    assert moments.mean["pixels"].shape == (0,) and moments.mean["state"].shape == (7,)


@pytest.mark.parametrize("name", ["images.npz", "images.hdf5"])
def test_files_give_images_back_as_bytes(name, tmp_path):
    files.save(recorded(), tmp_path / name)
    again = files.load(tmp_path / name)
    assert again.steps.obs["pixels"].dtype == np.uint8
    assert_same(again.steps, recorded().steps)


def test_imitation_sees_the_pictures():
    config = imitation.Config(
        head="gaussian",
        horizon=1,
        execute=1,
        hidden=(8,),
        batch_size=16,
        updates_per_step=200,
        learning_rate=1e-2,
        ema_decay=0.9,
        obs_keys=("pixels",),
    )
    learner = imitation.make(ENV, config, recorded())
    state, _ = jax.jit(learner.step)(learner.init(jax.random.key(0)))
    policy = learner.policy(state)
    for cue in (-1.0, 1.0):
        first = ENV.reset(jax.random.key(0))
        seen = first.replace(data=first.data.replace(cue=jnp.asarray(cue)))
        obs = {"state": first.obs["state"] * jnp.nan, "pixels": ENV.draw(seen, 4, 4)}
        action, _ = policy.act(policy.init_carry(), obs, jax.random.key(0))
        assert float(action[0]) == pytest.approx(cue / 2, abs=0.1)
