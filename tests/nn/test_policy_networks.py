"""Networks of imitation policies: what their outputs depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldline.nn.residual import ConditionalMLP
from worldline.nn.transformer import Block, Transformer
from worldline.nn.unet1d import ConditionalUNet1d
from worldline.nn.vision import ImageEncoder, SpatialSoftmax


@pytest.fixture(params=["unet", "mlp"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    if request.param == "unet":
        return ConditionalUNet1d(2, 5, (8, 16, 24))
    return ConditionalMLP(8, 2, 5, units=16, blocks=2)


def test_a_denoiser_depends_on_all_it_is_given(network: nn.Module):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # away from blocks that add nothing
    x = torch.randn(3, 8, 2, requires_grad=True)
    condition = torch.randn(3, 5, requires_grad=True)
    result = network(x, condition)
    assert result.shape == (3, 8, 2)
    result[1, 0].sum().backward()
    for given in (x, condition):
        assert given.grad is not None
        depends = given.grad.flatten(1).abs().sum(1)
        assert depends[1] > 0
        assert depends[0] == depends[2] == 0  # not on other sequences
    assert (x.grad[1].abs().sum(-1) > 0).all()


def test_a_length_that_cannot_be_halved_is_refused():
    with pytest.raises(AssertionError, match="6 rows are no multiple of 4"):
        ConditionalUNet1d(2, 5, (8, 8, 8))(torch.zeros(1, 6, 2), torch.zeros(1, 5))


def test_masked_elements_are_not_looked_at():
    torch.manual_seed(0)
    block = Transformer(8, 2, 2, units=16)
    x = torch.randn(2, 4, 8)
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]])
    moved = x.clone()
    moved[0, 2] += torch.randn(8)
    first, second = block(x, mask), block(moved, mask)
    kept = torch.tensor([0, 1, 3])
    assert torch.allclose(first[0, kept], second[0, kept], atol=1e-6)
    assert not torch.allclose(block(x)[0, kept], block(moved)[0, kept], atol=1e-3)


def test_a_block_looks_at_its_context():
    torch.manual_seed(0)
    block = Block(8, 2, 16, has_context=True)
    x, context = torch.randn(1, 3, 8), torch.randn(1, 2, 8, requires_grad=True)
    block(x, torch.tensor([[True, False]]), context).sum().backward()
    assert context.grad is not None
    assert context.grad[0, 0].abs().sum() > 0
    assert context.grad[0, 1].abs().sum() == 0


def test_the_spatial_softmax_says_where_a_feature_is():
    layer = SpatialSoftmax(1, 1)
    with torch.no_grad():
        layer.project.weight.fill_(100.0)
        layer.project.bias.zero_()
    features = torch.zeros(2, 1, 5, 3)
    features[0, 0, 0, 2] = features[1, 0, 2, 1] = 1.0
    assert torch.allclose(layer(features), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), atol=1e-5)


def test_each_level_halves_an_image():
    images: Tensor = torch.zeros(2, 3, 20, 12)
    assert ImageEncoder(3, (8, 16))(images).shape == (2, 16, 5, 3)
