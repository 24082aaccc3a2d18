from __future__ import annotations

import pytest
import torch

from worldline.ops.masking import extend, masked_mean


def test_by_hand():
    values = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_mean(values, mask) == 2.0


def test_an_empty_mask_gives_zero():
    values = torch.ones(3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean == 0
    assert (values.grad == 0).all()


@pytest.mark.parametrize("padding", [float("nan"), float("inf"), 3e38])
def test_what_is_not_real_does_not_matter(padding: float):
    values = torch.tensor([1.0, padding, 3.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True]))
    mean.backward()
    assert mean == 2.0
    assert torch.equal(values.grad, torch.tensor([0.5, 0.0, 0.5]))


def test_gradients():
    values = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(lambda x: masked_mean(x.square(), mask), values)


def test_shapes_are_checked():
    with pytest.raises(AssertionError, match=r"\(3,\) do not match mask \(3, 1\)"):
        masked_mean(torch.zeros(3), torch.ones(3, 1, dtype=torch.bool))


def test_extending_repeats_the_first_and_the_last_real_row():
    values = torch.tensor([[float("nan"), 1.0, 2.0, float("inf")], [5.0, 6.0, 7.0, 8.0], [float("nan")] * 4])
    mask = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    assert extend(values, mask).tolist() == [[1.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0], [0.0] * 4]
    images = torch.arange(8, dtype=torch.uint8).view(1, 4, 2)
    assert extend(images, mask[:1]).tolist() == [[[2, 3], [2, 3], [4, 5], [4, 5]]]
    with pytest.raises(AssertionError, match="does not lead"):
        extend(values, mask[:, :3])
