"""Observations made ready: which is what, in which order and range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldline.errors import ConfigError, DataError
from worldline.models.inputs import InputLayer, Layout
from worldline.statistics import ColumnStatistics

SHAPES = {"a": (2,), "front": (4, 4, 3), "language": (5,), "side": (3, 4, 4), "z": (2, 2)}


def test_the_layout_tells_numbers_images_and_text():
    layout = Layout.of(SHAPES)
    assert (layout.vectors, layout.images, layout.texts) == (("a", "z"), ("front", "side"), ("language",))
    assert (layout.vector_size, layout.image_shape, layout.text_length) == (6, (6, 4, 4), 5)
    with pytest.raises(ConfigError, match="Resize them"):
        Layout.of({"front": (4, 4, 3), "side": (8, 8, 3)})


def test_cameras_are_put_together_with_channels_first():
    layer = InputLayer(SHAPES, kind="symlog", shift=1).eval()
    front = torch.randint(256, (2, 1, 4, 4, 3), dtype=torch.uint8)
    side = torch.randint(256, (2, 1, 3, 4, 4), dtype=torch.uint8)
    words = torch.tensor([[[104, 105, 0, 0, 0]], [[0, 0, 0, 0, 0]]], dtype=torch.uint8)
    numbers = torch.tensor([[[0.0, 1.0]], [[-1.0, 2.0]]])
    inputs = layer({"a": numbers, "front": front, "side": side, "language": words, "z": torch.zeros(2, 1, 2, 2)})
    assert inputs.images is not None
    assert inputs.images.shape == (2, 1, 6, 4, 4)
    assert torch.allclose(inputs.images[1, 0, 2], front[1, 0, :, :, 2] / 127.5 - 1)
    assert torch.allclose(inputs.images[:, :, 3:], side / 127.5 - 1)
    assert inputs.text is not None
    assert inputs.text.tolist() == [[104, 105, 0, 0, 0], [0] * 5]
    assert inputs.vectors is not None
    expected = numbers.sign() * numbers.abs().log1p()
    assert torch.allclose(inputs.vectors, torch.cat([expected, torch.zeros(2, 1, 4)], -1))


def test_columns_are_fitted_in_the_order_of_the_layout():
    layer = InputLayer(SHAPES, kind="range", shift=0)
    a, z = np.array([[0.0, 0.0], [2.0, 4.0]]), np.zeros((2, 2, 2)) + np.array([[[1.0]], [[3.0]]])
    assert not layer.is_fitted
    layer.fit({"obs.z": ColumnStatistics.of([z]), "obs.a": ColumnStatistics.of([a])})
    assert layer.normalizer is not None
    assert layer.normalizer.shift.tolist() == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert layer.normalizer.scale.tolist() == [1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(DataError, match=r"'obs\.z'.*Known: obs\.a"):
        layer.fit({"obs.a": ColumnStatistics.of([a])})


def test_images_are_moved_in_training_only():
    layer = InputLayer({"obs": (8, 8, 3)}, kind="range", shift=2)
    images = torch.randint(256, (16, 2, 8, 8, 3), dtype=torch.uint8)
    still = layer.eval()({"obs": images}).images
    moved = layer.train()({"obs": images}).images
    assert still is not None
    assert moved is not None
    assert torch.equal(still, layer.eval()({"obs": images}).images)
    assert not torch.equal(moved, still)
    assert layer.is_fitted, "there are no numbers to fit"
