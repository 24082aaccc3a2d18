"""Matrix products that take the fastest kernel of the machine.

In float32 on a CPU, torch sends matrix products to MKL, which runs at half speed on processors of other makers;
oneDNN, which torch carries for inference, runs at full speed on all (measured on AMD EPYC: 95 against 215 GFLOP/s on
one core). So there, and only there, `linear` and `block_linear` call oneDNN, with gradients written out. Elsewhere
they are torch's own operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# One product of a block-diagonal layer below this many multiply-adds is dominated by its call: use one batched call.
_MIN_BLOCK_WORK = 1 << 19


def uses_onednn(x: Tensor) -> bool:
    """Tell whether products with `x` go through oneDNN: float32 on a CPU outside autocast."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, without gradient.

    Args:
        x: `[N, I]`, rows may be strided.
        weight: `[O, I]`, or the transpose of an `[I, O]` tensor.
        bias: `[O]` or None.
    """
    if uses_onednn(x):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


def block_product(x: Tensor, weight: Tensor) -> Tensor:
    """Return the block-diagonal product `[N, G * O]` of `x [N, G * I]` and `weight [G, I, O]`, without gradient."""
    blocks, size, out = weight.shape
    rows = len(x)
    if uses_onednn(x) and rows * size * out >= _MIN_BLOCK_WORK:
        parts = x.view(rows, blocks, size).unbind(1)
        return torch.cat([product(part, kernel.t()) for part, kernel in zip(parts, weight.unbind(0), strict=True)], 1)
    grouped = x.view(rows, blocks, size).transpose(0, 1)  # [G, N, I]
    return torch.bmm(grouped, weight).transpose(0, 1).reshape(rows, blocks * out)


def block_weight_grad(x: Tensor, grad: Tensor, blocks: int) -> Tensor:
    """Return `[G, I, O]`: what a block-diagonal product's weight gets from `x [N, G * I]` and `grad [N, G * O]`."""
    rows, size, out = len(x), x.shape[1] // blocks, grad.shape[1] // blocks
    if uses_onednn(x) and rows * size * out >= _MIN_BLOCK_WORK:
        inputs, grads = x.view(rows, blocks, size).unbind(1), grad.view(rows, blocks, out).unbind(1)
        return torch.stack([product(part.t(), part_grad.t()) for part, part_grad in zip(inputs, grads, strict=True)])
    inputs_grouped = x.view(rows, blocks, size).permute(1, 2, 0)  # [G, I, N]
    return torch.bmm(inputs_grouped, grad.view(rows, blocks, out).transpose(0, 1))


class _Linear(torch.autograd.Function):
    """x @ weight.T + bias through oneDNN, for x [N, I]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = product(grad.t(), x.t()) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


class _BlockLinear(torch.autograd.Function):
    """The block-diagonal product with its gradients, for x [N, G * I] and weight [G, I, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return block_product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = block_product(grad, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        grad_weight = block_weight_grad(x, grad, len(weight)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, `[..., O]`, for `x [..., I]`, `weight [O, I]`, `bias [O]`."""
    assert x.shape[-1] == weight.shape[1], f"x {tuple(x.shape)} does not match weight {tuple(weight.shape)}"
    if not uses_onednn(x):
        return F.linear(x, weight, bias)
    flat: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return flat.view(*x.shape[:-1], -1)


def block_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the block-diagonal layer `[..., G * O]` of `x [..., G * I]`, `weight [G, I, O]`, `bias [G * O]`."""
    blocks, size, _ = weight.shape
    assert x.shape[-1] == blocks * size, f"x {tuple(x.shape)} does not match weight {tuple(weight.shape)}"
    flat = x.reshape(-1, x.shape[-1])
    if uses_onednn(x):
        result: Tensor = _BlockLinear.apply(flat, weight)  # type: ignore[no-untyped-call]
    else:
        result = block_product(flat, weight)
    result = result.view(*x.shape[:-1], -1)
    return result if bias is None else result + bias.to(result.dtype)
