"""Losses compiled by `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.errors import ConfigError

ComputeLoss = Callable[[Batch], dict[str, Tensor]]


def compiled(compute_loss: ComputeLoss) -> ComputeLoss:
    """Return `compute_loss` compiled, when it is first called: the method alone, so the model keeps its names.

    Shapes are taken for constant, as a run's are: every new one compiles again.
    """
    function: ComputeLoss = torch.compile(compute_loss, dynamic=False)

    def call(batch: Batch) -> dict[str, Tensor]:
        try:
            return function(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ConfigError(
                f"torch.compile cannot compile this model's loss here: {reason.strip()} Compiling needs a C++ compiler "
                "(CPU) or Triton (CUDA), and a loss that it can trace. Use compile=False."
            ) from error

    return call
