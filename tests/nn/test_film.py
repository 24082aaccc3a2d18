"""FiLM: what a hidden layer computes, and that no layer passes the condition by."""

import pytest
import torch
from torch.nn import functional as F

from worldline.nn.film import ACTIVATIONS, FiLMNet


def make_net(**settings) -> FiLMNet:
    torch.manual_seed(0)
    return FiLMNet(3, 2, **({"units": 8, "layers": 2, "out_features": 4} | settings))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_layer_step_by_step(activation: str):
    net = make_net(layers=1, activation=activation)
    x, condition = torch.randn(5, 3), torch.randn(5, 2)
    scale, shift = net.modulation(F.silu(net.embed(condition))).chunk(2, -1)
    hidden = x @ net.hidden[0].weight.T + net.hidden[0].bias
    normed = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = ACTIVATIONS[activation](normed * (1 + scale) + shift) @ net.output.weight.T + net.output.bias
    torch.testing.assert_close(net(x, condition), expected)


def test_leading_dimensions_are_free():
    net = make_net()
    x, condition = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    torch.testing.assert_close(net(x, condition).flatten(0, 1), net(x.flatten(0, 1), condition.flatten(0, 1)))


def test_every_layer_is_scaled_and_shifted():
    """Where the modulation of one layer alone depends on the condition, the output still does."""
    x, conditions = torch.randn(1, 3), torch.randn(2, 2)
    for part in range(4):
        net = make_net()
        weight = net.modulation.weight
        with torch.no_grad():
            weight[: 8 * part] = 0
            weight[8 * (part + 1) :] = 0
        first, second = net(x.expand(2, 3), conditions)
        assert (first - second).abs().max() > 1e-4


def test_every_parameter_gets_a_gradient():
    net = make_net()
    net(torch.randn(5, 3), torch.randn(5, 2)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
