from __future__ import annotations

import torch
from torch.nn import functional as F

from worldline.nn.normed import NormedLinear, NormedMLP, PlainLinear


def test_a_layer_is_linear_norm_and_mish():
    torch.manual_seed(0)
    layer = NormedLinear(3, 16)
    x = torch.randn(2, 5, 3)
    expected = F.mish(F.layer_norm(F.linear(x, layer.weight, layer.bias), (16,)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_the_output_is_on_simplices():
    torch.manual_seed(0)
    y = NormedMLP(3, 16, 2, 24, simplex=8)(torch.randn(5, 3))
    torch.testing.assert_close(y.view(5, 3, 8).sum(-1), torch.ones(5, 3))
    assert (y >= 0).all()


def test_initialisation():
    torch.manual_seed(0)
    layer = PlainLinear(400, 300)
    assert abs(layer.weight.std().item() - 0.02) < 1e-3
    assert not layer.bias.any()
    mlp = NormedMLP(4, 8, 3, 5, zero_output=True)
    assert len(mlp.layers) == 3
    assert not mlp(torch.randn(2, 4)).any()


def test_frozen_parameters_take_no_gradient_but_let_it_through():
    torch.manual_seed(0)
    mlp = NormedMLP(4, 8, 3, 5)
    x = torch.randn(2, 4, requires_grad=True)
    mlp(x).square().sum().backward()
    expected = x.grad
    x.grad = None
    mlp.zero_grad()
    mlp(x, frozen=True).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert all(parameter.grad is None for parameter in mlp.parameters())


def test_dropout_is_of_training_and_of_the_first_layer():
    torch.manual_seed(0)
    mlp = NormedMLP(4, 64, 3, 5, dropout=0.5)
    assert [layer.dropout for layer in list(mlp.layers)[:2]] == [0.5, 0.0]
    x = torch.randn(2, 4)
    assert not torch.equal(mlp(x), mlp(x))
    assert torch.equal(mlp.eval()(x), mlp(x))
