"""Attention by the fastest way that the machine has."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(query key^T / sqrt(D)) value, over all keys or those of the mask.

    On a CPU, the gradient of torch's fused operator takes four to seven times as long in bfloat16 as in float32 or as
    that of the products one by one (measured on AMD EPYC, 64 x 4 heads of 82 x 24), so there it is not used.

    Args:
        query: `[B, heads, S, D]`.
        key: `[B, heads, C, D]`.
        value: `[B, heads, C, D]`.
        mask: `[B, C]` bool, True where a key may be looked at; each row has one such key at least.
    """
    assert key.shape == value.shape, f"key {tuple(key.shape)} and value {tuple(value.shape)} differ"
    assert mask is None or mask.shape == (key.shape[0], key.shape[2]), f"mask {tuple(mask.shape)} is not [B, C]"
    where = None if mask is None else mask[:, None, None, :]
    if query.device.type != "cpu" or query.element_size() == 4:
        seen: Tensor = F.scaled_dot_product_attention(query, key, value, attn_mask=where)
        return seen
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, heads, S, C]
    if where is not None:
        scores = scores.masked_fill(~where, float("-inf"))
    weights = scores.softmax(-1).to(value.dtype)  # autocast has made them float32
    result: Tensor = weights @ value
    return result
