"""Images show the scene, and share their canvas."""

import gc

import numpy as np
import pytest

from worldline.envs.make import make_env
from worldline.envs.robot.rendering import _CANVASES
from worldline.envs.robot.tasks import COLORS

pytestmark = pytest.mark.usefixtures("renderer")


def count_of(image, color):
    """Return how many pixels are near to a colour's hue."""
    wanted = np.array(COLORS[color][:3]) / max(COLORS[color][:3])
    brightest = image.max(axis=-1, keepdims=True).clip(min=1)
    return int((np.abs(image / brightest - wanted).max(axis=-1) < 0.25).sum())


def test_all_balls_can_be_told_apart_at_64_pixels():
    env = make_env("robot:language_reach", observe="pixels")
    for seed in range(10):
        image, _ = env.reset(seed=seed)
        for color in COLORS:
            assert count_of(image, color) >= 4, (seed, color)


def test_environments_of_one_size_share_a_canvas_and_see_their_own_scene():
    first, second = (make_env("robot:reach", observe="pixels", image_size=24) for _ in range(2))
    images = [env.reset(seed=seed)[0] for env, seed in ((first, 1), (second, 2))]
    assert not np.array_equal(*images)
    np.testing.assert_array_equal(first.render(), images[0])
    assert first.unwrapped._canvas is second.unwrapped._canvas
    del images
    first.close()
    second.close()
    gc.collect()
    assert ("reach", (24, 24)) not in _CANVASES


def test_randomized_looks_are_seen():
    plain, other = (
        make_env("robot:reach", observe="pixels", randomization=randomization).reset(seed=1)[0]
        for randomization in (None, {"color": 0.2})
    )
    assert np.abs(plain.astype(int) - other).mean() > 3


def test_images_may_be_larger_than_the_screen_that_mujoco_supposes():
    image, _ = make_env("robot:reach", observe="pixels", image_size=(700, 650)).reset(seed=0)
    assert image.shape == (700, 650, 3)
    assert image[690].max() > 0


@pytest.mark.parametrize("camera", ["front", "top", "side"])
def test_every_camera_sees_the_target(camera):
    env = make_env("robot:reach", observe="pixels", camera=camera)
    seen = [count_of(env.reset(seed=seed)[0], "red") for seed in range(10)]
    assert sorted(seen)[3] >= 2  # the arm may hide it now and then
