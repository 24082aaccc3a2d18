from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from worldline.ops.norm import inverse_rms, layer_norm_mish, mish_gate, rms_norm_silu, simplicial_norm


def plain(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.silu(x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * scale)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_by_hand():
    # The mean square of (3, 4) is 12.5; silu(z) = z / (1 + exp(-z)).
    scaled = [3 / math.sqrt(12.5), 2 * 4 / math.sqrt(12.5)]
    expected = torch.tensor([z / (1 + math.exp(-z)) for z in scaled])
    assert torch.allclose(rms_norm_silu(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 0.0), expected)
    assert inverse_rms(torch.tensor([[3.0, 4.0]]), 0.0).item() == pytest.approx(1 / math.sqrt(12.5))


def test_zeros_give_zero_and_a_finite_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    output = rms_norm_silu(x, torch.ones(3), 1e-4)
    output.sum().backward()
    assert (output == 0).all()
    assert torch.allclose(x.grad, torch.full((2, 3), 0.5 / math.sqrt(1e-4)))  # silu'(0) = 1/2, the root of eps


@pytest.mark.parametrize("shape", [(5,), (1, 1), (4, 7), (2, 3, 8)])
def test_values_and_gradients_are_those_of_the_formula(shape: tuple[int, ...]):
    x, scale, grad = noise(*shape) * 3, noise(shape[-1]) + 1, noise(*shape).flip(-1)
    results = []
    for function in (rms_norm_silu, plain):
        leaves = x.clone().requires_grad_(), scale.clone().requires_grad_()
        output = function(*leaves, 1e-4)
        output.backward(grad)
        results.append((output.detach(), *(leaf.grad for leaf in leaves)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_values_are_the_same_without_gradient():
    x, scale = noise(4, 7), noise(7)
    with_gradient = rms_norm_silu(x, scale.clone().requires_grad_(), 1e-4)
    before = x.clone()
    assert torch.equal(rms_norm_silu(x, scale, 1e-4), with_gradient.detach())
    with torch.no_grad():
        assert torch.equal(rms_norm_silu(x, scale.requires_grad_(), 1e-4), with_gradient)
    assert torch.equal(x, before)  # what is done in place is done to a copy


def test_low_precision_is_widened_and_gets_its_gradient_back():
    x = noise(4, 7).to(torch.bfloat16).requires_grad_()
    output = rms_norm_silu(x, torch.ones(7), 1e-4)
    assert output.dtype == torch.float32
    assert torch.allclose(output, plain(x.float(), torch.ones(7), 1e-4), rtol=1e-5, atol=1e-6)
    output.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_shapes_are_checked():
    with pytest.raises(AssertionError, match=r"x \(2, 3\) does not match scale \(2,\)"):
        rms_norm_silu(torch.zeros(2, 3), torch.ones(2), 1e-4)


def test_layer_norm_mish_is_its_parts():
    torch.manual_seed(0)
    x = (3 * torch.randn(5, 7, 16)).requires_grad_()
    scale, shift = torch.randn(16, requires_grad=True), torch.randn(16, requires_grad=True)
    cotangent = torch.randn(5, 7, 16)
    ours = layer_norm_mish(x, scale, shift)
    theirs = F.mish(F.layer_norm(x, (16,), scale, shift))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # by another formula
        torch.testing.assert_close(layer_norm_mish(x, scale, shift), ours, rtol=1e-5, atol=1e-6)
        far = layer_norm_mish(torch.tensor([[-1.0, 1.0]]), torch.ones(2), torch.tensor([-1e30, 1e30]))
        assert far.tolist() == [[0, torch.tensor(1e30).item()]]
    inputs = (x, scale, shift)
    for own, other in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(theirs, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_the_gate_of_mish_far_out():
    x = torch.tensor([-1e30, -80.0, -20.0, 0.0, 20.0, 1e30], dtype=torch.float64)
    expected = torch.tanh(torch.log1p(torch.exp(x)))
    torch.testing.assert_close(mish_gate(torch.sigmoid(x.float())).double(), expected, rtol=1e-6, atol=0)
    assert mish_gate(torch.full((1,), 0.5)).item() == pytest.approx(0.6)  # 3 / 5


def test_simplicial_norm_is_a_softmax_of_neighbours():
    torch.manual_seed(0)
    x = (4 * torch.randn(3, 24)).requires_grad_()
    ours, theirs = simplicial_norm(x, 8), torch.softmax(x.view(3, 3, 8), -1).view(3, 24)
    torch.testing.assert_close(ours, theirs)
    cotangent = torch.randn(3, 24)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, cotangent)[0] for y in (ours, theirs)))
    assert simplicial_norm(torch.tensor([[1e30, -1e30, 0.0, 0.0]]), 2).tolist() == [[1, 0, 0.5, 0.5]]
    with pytest.raises(AssertionError, match="24 features do not fall into groups of 7"):
        simplicial_norm(x, 7)
