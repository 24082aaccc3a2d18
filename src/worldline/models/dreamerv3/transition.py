"""The transition of many states on a CPU, one block of the recurrent state after the other.

Of 1,024 states, the hidden layer and the gates are tens of megabytes, which every operation would carry from memory
and back, and the products of the blocks would have to be put together and taken apart. One block's share stays in the
processor's cache, and nothing is joined but the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from worldline.models.dreamerv3.scan import gate, matrix_dtype
from worldline.nn.layers import NormSiLU
from worldline.ops.linear import product

if TYPE_CHECKING:
    from worldline.models.dreamerv3.rssm import RSSM, State

# With fewer states, laying out the weights takes longer than it saves.
MIN_ROWS = 128


class BlockwiseTransition:
    """`RSSM.step` without gradient, with its weights laid out once for a sequence of steps."""

    def __init__(self, rssm: RSSM) -> None:
        self.rssm, self.dtype = rssm, matrix_dtype(rssm.hidden.weight.device)
        self.blocks, self.size, _ = rssm.gates.weight.shape
        hidden = rssm.hidden.weight.to(self.dtype)  # [G, D/G + 3h, D/G]
        self.own = [weight.t() for weight in hidden[:, : self.size].unbind(0)]
        self.shared = [weight.t() for weight in hidden[:, self.size :].unbind(0)]
        self.bias = rssm.hidden.bias.to(self.dtype).view(self.blocks, -1).unbind(0)
        self.scale = rssm.hidden_norm.scale.view(self.blocks, -1).unbind(0)
        gates = rssm.gates.weight.to(self.dtype).unflatten(2, (3, -1)).permute(0, 2, 3, 1).contiguous()
        self.gates = [block.unbind(0) for block in gates.unbind(0)]  # G of 3 of [D/G, D/G]
        gate_bias = rssm.gates.bias.to(self.dtype).view(self.blocks, 3, -1)
        self.gate_bias = [block.unbind(0) for block in gate_bias.unbind(0)]

    @torch.no_grad()
    def __call__(self, state: State, action: Tensor) -> Tensor:
        """Return the next deter `[N, D]` after `action [N, A]`."""
        with torch.autocast(state.deter.device.type, enabled=False):
            return self._step(state.deter, state.stoch, action)

    def _step(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        dtype, rssm = self.dtype, self.rssm
        low = deter.to(dtype)
        inputs = ((rssm.deter_in, low), (rssm.stoch_in, stoch.to(dtype)), (rssm.action_in, rssm.bounded(action)))
        parts = [
            layer.norm(product(x, layer.linear.weight.to(x.dtype), layer.linear.bias.to(x.dtype)))
            for layer, x in inputs
        ]
        embedding = torch.cat(parts, 1).to(dtype)
        hidden = [
            product(embedding, shared, bias).float().add_(product(x, own))
            for x, own, shared, bias in zip(low.split(self.size, 1), self.own, self.shared, self.bias, strict=True)
        ]
        norms = torch.cat([torch.linalg.vector_norm(block, dim=1, keepdim=True) for block in hidden], 1)
        inverse = norms.square().sum(1, keepdim=True).div_(deter.shape[1]).add_(NormSiLU.eps).rsqrt_()
        result = torch.empty_like(deter)
        blocks = zip(hidden, self.scale, self.gates, self.gate_bias, deter.split(self.size, 1), strict=True)
        for (block, scale, weights, biases, before), after in zip(blocks, result.split(self.size, 1), strict=True):
            seen = F.silu(block.mul_(inverse).mul_(scale), inplace=True).to(dtype)
            gates = [product(seen, weight, bias).float() for weight, bias in zip(weights, biases, strict=True)]
            gate(gates, before, overwrite=True, out=after)
        return result
