"""Normalisations fused with what follows them, as one operation with a short backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def rms_norm_silu(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Return silu(n * scale) with n = x / sqrt(mean(x^2) + eps) over the last dimension, in float32.

    Args:
        x: `[..., D]`, any floating type.
        scale: `[D]` float32.
        eps: Added to the mean square.
    """
    assert x.shape[-1:] == scale.shape, f"x {tuple(x.shape)} does not match scale {tuple(scale.shape)}"
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        result: Tensor = _RMSNormSiLU.apply(x, scale, eps)  # type: ignore[no-untyped-call]
        return result
    x = x.float()
    scaled: Tensor = (x * inverse_rms(x, eps)).mul_(scale)
    return F.silu(scaled, inplace=True)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return (mean(x^2) + eps)^(-1/2) over the last dimension, `[..., 1]`."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse: Tensor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return inverse


class _RMSNormSiLU(torch.autograd.Function):
    """With r the inverse root mean square, n = x r, z = n s, y = silu(z), and t = dL/dz * n:

    dL/ds = sum t over rows;  dL/dx = r (dL/dz s - n mean(t s))
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = inverse_rms(wide, eps)
        normed = wide * inverse
        ctx.save_for_backward(normed, inverse, scale)
        ctx.dtype = x.dtype
        return F.silu(normed * scale, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse, scale = ctx.saved_tensors
        inner = torch.ops.aten.silu_backward(grad.to(normed.dtype), normed * scale)
        product = inner * normed
        scale_grad = product.reshape(-1, len(scale)).sum(0)
        mean = (product @ scale)[..., None] / normed.shape[-1]
        x_grad = inner.mul_(scale).addcmul_(normed, mean, value=-1).mul_(inverse)
        return x_grad.to(ctx.dtype), scale_grad, None


def layer_norm_mish(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """Return mish(n * scale + shift) with n the layer norm of `x` over its last dimension, in float32.

    Args:
        x: `[..., D]`, any floating type.
        scale: `[D]` float32.
        shift: `[D]` float32.
        eps: Added to the variance.
    """
    assert x.shape[-1:] == scale.shape == shift.shape, (
        f"x {tuple(x.shape)} does not match scale {tuple(scale.shape)} and shift {tuple(shift.shape)}"
    )
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad or shift.requires_grad):
        result: Tensor = _LayerNormMish.apply(x, scale, shift, eps)  # type: ignore[no-untyped-call]
        return result
    # With m = -y and q = sigmoid(m)^2, mish(y) = m - 2 m / (1 + q): four passes where the gate by itself takes six.
    # It is as exact in absolute terms (2e-6), but not relative to values that are nearly zero, below y = -8.
    minus: Tensor = F.layer_norm(x.float(), scale.shape, -scale, -shift, eps)
    return minus.addcdiv_(minus, torch.sigmoid(minus).square_().add_(1), value=-2)


def mish_gate(sigmoid: Tensor) -> Tensor:
    """Return tanh(softplus(x)), by which Mish multiplies x, from `sigmoid` of x; elementwise.

    In rational form: with s the sigmoid and u = s (2 - s) it is u / (2 - u). The sigmoid is the one transcendental
    function that is fast on a CPU (a third of the time of exp), and nothing overflows.
    """
    numerator = torch.rsub(sigmoid, 2).mul_(sigmoid)
    return torch.div(numerator, torch.rsub(numerator, 2), out=numerator)


class _LayerNormMish(torch.autograd.Function):
    """With y = n * scale + shift, g = tanh(softplus(y)):

    d(y g)/dy = g + y g',   g' = (1 - g^2) sigmoid(y)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        wide = x.float()
        normed, mean, inverse = torch.native_layer_norm(wide, scale.shape, scale, shift, eps)
        sigmoid = torch.sigmoid(normed)
        gate = mish_gate(sigmoid)
        result = normed * gate
        # What the backward pass needs of y and its sigmoid is their product.
        ctx.save_for_backward(wide, scale, shift, sigmoid.mul_(normed), gate, mean, inverse)
        ctx.dtype = x.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide, scale, shift, weighted, gate, mean, inverse = ctx.saved_tensors
        slope = torch.addcmul(weighted, weighted, gate.square(), value=-1).add_(gate)
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        x_grad, scale_grad, shift_grad = torch.ops.aten.native_layer_norm_backward(
            slope.mul_(grad), wide, scale.shape, mean, inverse, scale, shift, wanted
        )
        return None if x_grad is None else x_grad.to(ctx.dtype), scale_grad, shift_grad, None


def simplicial_norm(x: Tensor, group: int) -> Tensor:
    """Return the softmax of every `group` neighbouring features of `x [..., D]` (Lavoie et al. 2022), in float32."""
    assert x.shape[-1] % group == 0, f"{x.shape[-1]} features do not fall into groups of {group}"
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _SimplicialNorm.apply(x, group)  # type: ignore[no-untyped-call]
        return result
    return _group_softmax(x, group)


def _group_softmax(x: Tensor, group: int) -> Tensor:
    # Over so few features torch's softmax takes many times as long as its parts, and those are fastest where each
    # feature of all groups is contiguous. exp(z) = s / (1 - s) with s = sigmoid(z), exact for z <= 0, and faster.
    columns = x.float().unflatten(-1, (-1, group)).movedim(-1, 0).contiguous()  # [group, ..., D / group]
    weights = (columns - columns.amax(0)).sigmoid_()
    weights.div_(torch.rsub(weights, 1))
    probs: Tensor = weights.div_(weights.sum(0))
    return probs.movedim(0, -1).flatten(-2)


class _SimplicialNorm(torch.autograd.Function):
    """With p the softmax of a group: dL/dx = p (dL/dp - sum over the group of p dL/dp)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: int) -> Tensor:
        probs = _group_softmax(x, group)
        ctx.save_for_backward(probs)
        ctx.group, ctx.dtype = group, x.dtype
        return probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (probs,) = ctx.saved_tensors
        product = (grad.float() * probs).unflatten(-1, (-1, ctx.group))
        product -= probs.unflatten(-1, (-1, ctx.group)) * product.sum(-1, keepdim=True)
        return product.flatten(-2).to(ctx.dtype), None
