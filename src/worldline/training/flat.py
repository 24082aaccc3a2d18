"""Parameters as views of one contiguous buffer, and their gradients as views of another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register


class FlatParameters:
    """The parameters of a group as views of one buffer, their gradients as views of another.

    Building one moves the parameters in; `release` moves them out.
    """

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        self.params = tuple(params)
        first = self.params[0]
        self._slots, self.size = _layout(self.params)
        self.values = torch.zeros(self.size, dtype=first.dtype, device=first.device)  # [size], padding stays zero
        self.grads = torch.zeros_like(self.values)  # [size]
        self.value_views = self.views(self.values)
        self.grad_views = self.views(self.grads)
        for param, value, grad in zip(self.params, self.value_views, self.grad_views, strict=True):
            value.copy_(param.detach())
            param.data = value
            param.grad = grad

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the views of a buffer `flat [size]` that are shaped (and strided) as the parameters."""
        return [torch.as_strided(flat, shape, strides, offset) for shape, strides, offset in self._slots]

    def collect(self) -> None:
        """Bring gradients that somebody replaced (or set to None) back into the buffer."""
        for param, view in zip(self.params, self.grad_views, strict=True):
            grad = param.grad
            if grad is view:
                continue
            if grad is None:
                view.zero_()
            else:
                view.copy_(grad)
            param.grad = view

    def release(self) -> None:
        """Give every parameter memory of its own again, and drop the gradients."""
        for param, view in zip(self.params, self.value_views, strict=True):
            # A parameter that was moved meanwhile (model.to) has memory of its own, and newer values than the buffer.
            if param.data_ptr() == view.data_ptr():
                param.data = view.clone()
            param.grad = None


def _layout(params: Sequence[nn.Parameter]) -> tuple[list[tuple[torch.Size, tuple[int, ...], int]], int]:
    """Return (shape, strides, offset) of every parameter in a buffer with aligned starts, and the buffer's size."""
    alignment = _ALIGNMENT_BYTES // params[0].element_size()
    slots = []
    size = 0
    for param in params:
        strides = torch.empty_like(param, device="meta").stride()  # dense, channels_last kept
        slots.append((param.shape, strides, size))
        size += math.ceil(param.numel() / alignment) * alignment
    return slots, size
