from __future__ import annotations

import pytest
import torch

from worldline.nn.layers import MLP, BlockLinear, Dense, Linear, NormSiLU, truncated_normal_


def test_truncated_normal_has_the_deviation_asked_for():
    torch.manual_seed(0)
    weight = truncated_normal_(torch.empty(400, 400), fan_in=100, scale=3.0)
    assert weight.std().item() == pytest.approx(3.0 / 10, rel=0.01)
    assert abs(weight.mean().item()) < 0.003
    # Cut at two deviations of the normal before it was scaled up to unit deviation.
    assert weight.abs().max().item() <= 2 * 1.1368 * 3.0 / 10 + 1e-6


def test_truncated_normal_of_scale_zero():
    assert (truncated_normal_(torch.empty(3, 3), fan_in=3, scale=0.0) == 0).all()


def test_linear_by_hand():
    layer = Linear(2, 3)
    assert (layer.bias == 0).all()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.0, 5.0]))
    assert layer(torch.tensor([[1.0, 3.0]])).tolist() == [[1, 6, 9]]


def test_linear_is_drawn_by_fan_in():
    torch.manual_seed(0)
    assert Linear(256, 256, scale=2.0).weight.std().item() == pytest.approx(2 / 16, rel=0.02)


def test_block_linear_by_hand():
    layer = BlockLinear(4, 2, blocks=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]))
        layer.bias.copy_(torch.tensor([0.5, -0.5]))
    assert layer(torch.tensor([[1.0, 1.0, 10.0, 10.0]])).tolist() == [[3.5, 69.5]]


def test_block_linear_is_drawn_by_the_whole_input():
    torch.manual_seed(0)
    assert BlockLinear(1024, 1024, blocks=4).weight.std().item() == pytest.approx(1 / 32, rel=0.01)


def test_blocks_must_divide():
    with pytest.raises(AssertionError, match=r"\(6, 8, 4\)"):
        BlockLinear(6, 8, blocks=4)


def test_norm_and_silu():
    layer = NormSiLU(2)
    x = torch.tensor([3.0, -4.0])
    normed = x / (x.square().mean() + 1e-4).sqrt()
    assert torch.allclose(layer(x), normed * torch.sigmoid(normed))
    assert [tuple(parameter.shape) for parameter in layer.parameters()] == [(2,)]


def test_dense_is_linear_then_norm():
    torch.manual_seed(0)
    layer, x = Dense(3, 5), torch.randn(2, 4, 3)
    assert torch.equal(layer(x), layer.norm(layer.linear(x)))
    assert layer(x).shape == (2, 4, 5)


@pytest.mark.parametrize("layers", [1, 3])
def test_mlp(layers: int):
    torch.manual_seed(0)
    mlp = MLP(3, 5, layers)
    assert [tuple(block.linear.weight.shape) for block in mlp] == [(5, 3), (5, 5), (5, 5)][:layers]
    mlp(torch.randn(7, 3)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in mlp.parameters())
