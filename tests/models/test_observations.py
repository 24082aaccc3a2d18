from __future__ import annotations

import pytest
import torch

from worldline.errors import ConfigError, DataError
from worldline.models.observations import blank, check_shapes, image_size, named_obs, shapes_by_name


def test_a_model_takes_what_it_knows_in_its_order():
    shapes = shapes_by_name({"b": (2,), "a": (1,)})
    obs = {"c": torch.zeros(5, 3), "b": torch.zeros(5, 2), "a": torch.zeros(5, 1)}
    assert list(named_obs(obs, shapes, leading=1)) == ["a", "b"]
    with pytest.raises(DataError, match=r"Observation 'b' must be \[B, 2\]; got \[2\]"):
        named_obs({"a": torch.zeros(5, 1), "b": torch.zeros(2)}, shapes, leading=1)
    with pytest.raises(DataError, match="b is missing from those given"):
        named_obs({"a": torch.zeros(5, 4, 1)}, shapes, leading=2)


def test_a_nameless_observation():
    assert shapes_by_name((4,)) == {"obs": (4,)}


def test_images_have_one_size():
    images = {"a": (8, 6, 3), "b": (1, 8, 6)}
    assert [image_size(shape) for shape in images.values()] == [(8, 6), (8, 6)]
    check_shapes(images, images)
    with pytest.raises(ConfigError, match="one height and width"):
        check_shapes(images | {"c": (6, 8, 3)}, images | {"c": (6, 8, 3)})
    with pytest.raises(ConfigError, match="1 to 3 positive dimensions"):
        check_shapes({"a": (0,)}, {})


def test_what_is_not_real_is_zero():
    mask = torch.tensor([[True, False]])
    x = torch.tensor([[[1.0, 2.0], [float("nan"), float("inf")]]])
    assert blank(x, mask).tolist() == [[[1, 2], [0, 0]]]
    image = torch.ones(1, 2, 3, dtype=torch.uint8)
    assert blank(image, mask) is image
