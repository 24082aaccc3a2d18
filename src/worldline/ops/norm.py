"""RMSNorm followed by SiLU, as one operation with a short backward pass."""

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
