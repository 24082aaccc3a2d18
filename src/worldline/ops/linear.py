"""Matrix products that take the fastest kernel of the machine.

In float32 on a CPU, torch sends matrix products to MKL, which runs at half speed on processors of other makers than
Intel; oneDNN, which torch carries for inference, runs at full speed on all (measured on AMD EPYC: 95 against 215
GFLOP/s on one core). So there, and only there, `linear` and `block_linear` call oneDNN, with gradients written out.
Elsewhere they are torch's own operators: on Intel's processors MKL is the faster one of small products (a step of
DreamerV3 size1m on 256 rows takes 0.75 of the time, on 1,024 rows 0.88). A compiled `linear` takes the same kernel,
`block_linear` torch's.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Below this many multiply-adds, oneDNN's cost of a call (13 us against 2) is more than its speed saves.
_MIN_WORK = 1 << 19


def is_made_by_intel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the processor says that it is one of Intel's: in Linux's `cpuinfo`, or by the name it has."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as file:
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return "GenuineIntel" in platform.processor()


# Asked here, for the compiler cannot trace the questions
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
_PREFERS_ONEDNN = _HAS_ONEDNN and not (torch.backends.mkl.is_available() and is_made_by_intel())


def uses_onednn(x: Tensor) -> bool:
    """Tell whether products with `x` go through oneDNN: where it is the faster one, float32 on a CPU, no autocast."""
    is_plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return _PREFERS_ONEDNN and x.device.type == "cpu" and is_plain


def may_cut_products(device: torch.device) -> bool:
    """Tell whether products may be cut into smaller ones for the cache: on a CPU, if nothing is being compiled."""
    return _HAS_ONEDNN and device.type == "cpu" and not torch.compiler.is_compiling()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, without gradient.

    Args:
        x: `[N, I]`, rows may be strided.
        weight: `[O, I]`, or the transpose of an `[I, O]` tensor.
        bias: `[O]` or None.
    """
    if len(x) * weight.numel() >= _MIN_WORK and uses_onednn(x):
        if torch.compiler.is_compiling():
            traced: Tensor = torch.ops.worldline.product(x, weight, bias)
            return traced
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x if x.stride(1) == 1 else _dense(x), _dense(weight), bias, "none", [], ""
        )
        return result
    return F.linear(x, weight, bias)


def _fake_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


# The product as one operator that the compiler takes as it is, where it would call MKL. Registered at import, as the
# compiler finds operators by their names alone; by a `Library`, whose calls cost 3 us, those of a `custom_op` 26. It
# has no gradient of its own: `_Linear` calls it.
_library = torch.library.Library("worldline", "DEF")
_library.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("product", product, "CPU")
torch.library.register_fake("worldline::product", _fake_product)


def _dense(matrix: Tensor) -> Tensor:
    """Return a matrix whose rows or columns follow each other without gaps.

    Anything else sends oneDNN to its reference kernel, which is a thousand times slower.
    """
    if matrix.is_contiguous() or matrix.t().is_contiguous():
        return matrix
    return matrix.contiguous() if matrix.stride(1) == 1 else matrix.t().contiguous().t()


def block_product(x: Tensor, weight: Tensor, parts: int = 1) -> Tensor:
    """Return the block-diagonal product of `x [N, G * I]` and `weight [G, I, O]`, without gradient.

    Args:
        x: The input, its blocks side by side.
        weight: One matrix a block.
        parts: Into how many equal parts each block's output falls.

    Returns:
        `[N, G * O]`, or with `parts` P > 1 `[P, N, G * O / P]`: the same part of all blocks together, which keeps
        what is computed from one part contiguous.
    """
    blocks, size, out = weight.shape
    rows = len(x)
    if rows * size * out >= _MIN_WORK and _splits_blocks(x):
        pieces = zip(x.view(rows, blocks, size).unbind(1), weight.unbind(0), strict=True)
        outputs = [product(piece, kernel.t()) for piece, kernel in pieces]
        if parts == 1:
            return torch.cat(outputs, 1)
        return torch.cat([output.view(rows, parts, -1).transpose(0, 1) for output in outputs], 2)
    grouped = x.view(rows, blocks, size).transpose(0, 1)  # [G, N, I]
    joined = torch.bmm(grouped, weight)  # [G, N, O]
    if parts == 1:
        return joined.transpose(0, 1).reshape(rows, blocks * out)
    return joined.view(blocks, rows, parts, -1).permute(2, 1, 0, 3).reshape(parts, rows, -1)


def _splits_blocks(x: Tensor) -> bool:
    """Tell whether block-diagonal products with `x` become one product a block."""
    return uses_onednn(x) and not torch.compiler.is_compiling()


def block_weight_grad(x: Tensor, grad: Tensor, blocks: int) -> Tensor:
    """Return `[G, I, O]`: what a block-diagonal product's weight gets from `x [N, G * I]` and `grad [N, G * O]`."""
    rows, size, out = len(x), x.shape[1] // blocks, grad.shape[1] // blocks
    if rows * size * out >= _MIN_WORK and _splits_blocks(x):
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
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = product(grad.t(), x.t()) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


class _BlockLinear(torch.autograd.Function):
    """The block-diagonal product with its gradients, for x [N, G * I] and weight [G, I, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, parts: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parts = parts
        result = block_product(x, weight, parts)
        # The product of one row is a view, and autograd lets nobody add to a view in place.
        return result.clone() if result._is_view() else result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = join_parts(grad, len(weight)) if ctx.parts > 1 else grad.contiguous()
        grad_x = block_product(grad, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        grad_weight = block_weight_grad(x, grad, len(weight)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, `[..., O]`, for `x [..., I]`, `weight [O, I]`, `bias [O]`."""
    assert x.shape[-1] == weight.shape[1], f"x {tuple(x.shape)} does not match weight {tuple(weight.shape)}"
    if not uses_onednn(x):
        return F.linear(x, weight, bias)
    flat: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return flat.view(*x.shape[:-1], len(weight))


def block_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, parts: int = 1) -> Tensor:
    """Return the block-diagonal layer of `x [..., G * I]`, `weight [G, I, O]`, `bias [G * O]`.

    The result is `[..., G * O]`, or `[P, ..., G * O / P]` in P `parts`, as `block_product` has them; with a bias it is
    of the bias's type.
    """
    blocks, size, _ = weight.shape
    assert x.shape[-1] == blocks * size, f"x {tuple(x.shape)} does not match weight {tuple(weight.shape)}"
    flat = x.reshape(-1, x.shape[-1])
    if _splits_blocks(x):
        result: Tensor = _BlockLinear.apply(flat, weight, parts)  # type: ignore[no-untyped-call]
    else:
        result = block_product(flat, weight, parts)
    if bias is not None:
        offset = split_parts(bias, blocks, parts)
        # A product in bfloat16 and a bias in float32 add up in float32, in one pass.
        result = result.add_(offset) if result.dtype == offset.dtype else result + offset
    leading = (parts, *x.shape[:-1]) if parts > 1 else x.shape[:-1]
    shaped: Tensor = result.view(*leading, -1)
    return shaped


def split_parts(bias: Tensor, blocks: int, parts: int) -> Tensor:
    """Return a bias `[G * O]` as what is added to a product in P parts: `[P, 1, G * O / P]`, or itself for one."""
    return bias.view(blocks, parts, -1).transpose(0, 1).reshape(parts, 1, -1) if parts > 1 else bias


def join_parts(x: Tensor, blocks: int) -> Tensor:
    """Return `[P, N, G * O / P]` as `[N, G * O]`: each block's parts side by side again."""
    joined: Tensor = x.unflatten(-1, (blocks, -1)).permute(1, 2, 0, 3).reshape(x.shape[1], -1)
    return joined
