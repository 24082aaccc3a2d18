"""Random shifts of images."""

from __future__ import annotations

import torch

from worldline.ops.augment import random_shift


def test_every_image_is_moved_as_a_whole_and_keeps_its_edges():
    torch.manual_seed(0)
    images = torch.arange(25.0).view(1, 1, 5, 5).expand(200, 2, 5, 5)
    moved = random_shift(images, 1)
    found = {(round(float(image[0, 2, 2])) // 5 - 2, round(float(image[0, 2, 2])) % 5 - 2) for image in moved}
    assert found == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    for image in moved:
        down, right = divmod(round(float(image[0, 2, 2])), 5)
        rows = (torch.arange(5) + down - 2).clamp(0, 4)
        columns = (torch.arange(5) + right - 2).clamp(0, 4)
        assert torch.equal(image[0], images[0, 0][rows][:, columns])
        assert torch.equal(image[1], image[0])


def test_no_shift_is_no_change():
    images = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    assert random_shift(images, 0) is images
    assert random_shift(images, 2).dtype == torch.uint8
