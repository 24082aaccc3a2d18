"""Feature-wise linear modulation (Perez et al.: "FiLM: Visual Reasoning with a General Conditioning Layer", 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldline.nn.layers import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "mish": F.mish,
    "tanh": torch.tanh,
}


class FiLMNet(nn.Module):
    """Hidden layers of which each is scaled and shifted by a condition, then a plain linear layer.

    A hidden layer is act(n (1 + s) + b), n the normalised output of a linear layer; s and b, one number per unit, are a
    linear function of an embedding of the condition. So no layer can pass the condition by.

    Args:
        in_features: D, of what is looked at.
        condition_features: C, of what it is looked at for.
        units: Of each hidden layer.
        layers: Hidden ones.
        out_features: O.
        activation: A name of `ACTIVATIONS`.
        embedding: Units of the condition's embedding.
    """

    def __init__(
        self,
        in_features: int,
        condition_features: int,
        *,
        units: int,
        layers: int,
        out_features: int,
        activation: str = "silu",
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.units = units
        self.activation = ACTIVATIONS[activation]
        self.embed = Linear(condition_features, embedding)
        self.modulation = Linear(embedding, 2 * units * layers)
        self.hidden = nn.ModuleList(Linear(units if index else in_features, units) for index in range(layers))
        self.output = Linear(units, out_features, scale=0.1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map `x [..., D]` and `condition [..., C]` to `[..., O]`."""
        modulation = self.modulation(F.silu(self.embed(condition)))
        parts = modulation.split(self.units, -1)  # of each layer two, [..., units]
        for index, layer in enumerate(self.hidden):
            normed = F.layer_norm(layer(x), (self.units,))
            x = self.activation(normed * (parts[2 * index] + 1) + parts[2 * index + 1])
        result: Tensor = self.output(x)
        return result
