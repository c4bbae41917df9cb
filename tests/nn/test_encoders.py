"""Encoders of images: convolutions, where images are in flat observations, shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.types import Box
from jaxrl.nn import pixels, spaces
from jaxrl.ops.moments import Moments

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPACE = {
    "goal": Box((2,)),
    "left": Box((3, 4, 1), 0, 255, np.uint8),
    "right": Box((2, 2, 3), 0, 255, np.uint8),
    "speed": Box((1,)),
}


def draw(space, batch=()):
    """Random observations."""
    return {
        name: jnp.asarray(
            RNG.integers(0, 256, (*batch, *box.shape)).astype(np.uint8)
            if box.dtype == np.uint8
            else RNG.normal(size=(*batch, *box.shape)).astype(np.float32)
        )
        for name, box in space.items()
    }


@pytest.mark.parametrize("shape", [(8, 8, 2), (5, 7, 1), (1, 2, 3)])
def test_a_convolution_is_xlas(shape):
    x = jnp.asarray(RNG.normal(size=(2, *shape)), jnp.float32)
    conv = pixels.Conv(4)
    params = conv.init(KEY, x)
    kernel = params["params"]["Dense_0"]["kernel"].reshape(3, 3, shape[-1], 4)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv.apply(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keys", [(), ("speed", "right", "goal"), ("left",), ("goal",)])
def test_the_layout_finds_images_in_flat_observations(keys):
    obs = draw(SPACE, (2,))
    flat = spaces.select(obs, keys, 1)
    layout = pixels.layout(SPACE, keys)
    assert layout.size == flat.shape[1]
    names = [name for name in (keys or sorted(SPACE)) if name in ("left", "right")]
    assert len(layout.images) == len(names)
    for name, image in zip(names, layout.images, strict=True):
        expected = np.asarray(obs[name], np.float32) / 255
        np.testing.assert_allclose(pixels.of_image(flat, image), expected, rtol=1e-6)
    others = [flat[:, part] for part in layout.others]
    rest = [obs[name] for name in (keys or sorted(SPACE)) if name not in names]
    np.testing.assert_array_equal(
        np.concatenate([np.zeros((2, 0)), *others], 1), np.concatenate([np.zeros((2, 0)), *rest], 1)
    )


def test_eyes_see_each_image_and_pass_the_rest_on():
    flat = spaces.select(draw(SPACE, (2,)), (), 1)
    layout = pixels.layout(SPACE, ())
    eyes = pixels.Eyes(layout, (3,), 5)
    params = eyes.init(KEY, flat)
    seen = eyes.apply(params, flat)
    assert seen.shape == (2, 5 + 5 + 3)
    np.testing.assert_array_equal(seen[:, 10:12], flat[:, :2])
    np.testing.assert_array_equal(seen[:, 12], flat[:, -1])
    right = layout.images[1]
    other = eyes.apply(params, flat.at[:, right.first].add(0.5))
    changed = np.asarray(seen != other).any(0)
    assert not changed[:5].any() and changed[5:10].any() and not changed[10:].any()


def test_observations_without_images_have_no_eyes():
    assert pixels.eyes({"obs": Box((3,)), "mask": Box((2,), dtype=np.bool_)}, (), ("obs",)) is None
    assert pixels.eyes(Box((3, 3, 3)), ()) is None  # real numbers


def test_a_shift_moves_all_images_alike_and_repeats_the_border():
    space = {"a": Box((3, 3, 1), 0, 255, np.uint8), "b": Box((3, 3, 2), 0, 255, np.uint8)}
    layout = pixels.layout(space | {"c": Box((1,))}, ())
    ramp = np.arange(9.0).reshape(3, 3)
    flat = np.concatenate([ramp.ravel(), np.stack([ramp, -ramp], -1).ravel(), [7.0]])
    batch = jnp.asarray(np.tile(flat, (200, 1)), jnp.float32)
    moved = np.asarray(pixels.shifted(batch, layout, 1, jax.random.split(KEY, 200)))
    np.testing.assert_array_equal(moved[:, -1], 7.0)
    padded = np.pad(ramp, 1, mode="edge")
    windows = {(i, j): padded[1 + i : 4 + i, 1 + j : 4 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    found = set()
    for row in moved:
        (shift,) = [k for k, w in windows.items() if (row[:9] == w.ravel()).all()]
        other = np.stack([windows[shift], -windows[shift]], -1)
        np.testing.assert_array_equal(row[9:27], other.ravel())
        found.add(shift)
    assert found == set(windows)
    assert pixels.shifted(batch, layout, 0, jax.random.split(KEY, 200)) is batch


def test_images_are_bytes_divided_by_255_and_have_no_moments():
    obs = draw(SPACE, (4, 3))
    moments = Moments.zeros(jax.tree.map(lambda x: x[0, 0], obs))
    moments = moments.update(obs, jnp.ones((4, 3)))
    assert moments.mean["left"].shape == moments.var["left"].shape == (0,)
    np.testing.assert_allclose(moments.mean["goal"], obs["goal"].mean((0, 1)), atol=1e-5)
    seen = moments.normalize(obs)
    assert seen["left"] is obs["left"]
    np.testing.assert_allclose(
        spaces.select(seen, ("right",), 2),
        np.asarray(obs["right"], np.float32).reshape(4, 3, -1) / 255,
        rtol=1e-6,
    )
