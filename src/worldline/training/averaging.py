"""A running average of the weights, which often does better than the last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from worldline.errors import DataError
from worldline.training.optim import Optimizer


class WeightAverage:
    """The exponential moving average of all trained weights: average = decay * average + (1 - decay) * weights.

    The formula of `torch.optim.swa_utils.get_ema_avg_fn`, on the flat buffers: one operator for each group. It begins
    with the weights that training begins with. What the optimiser does not train (buffers, target networks) is not
    averaged: the averaged model has the present ones.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self._groups = optimizer.groups
        self._decay = decay
        self.buffers = [group.flat.values.clone() for group in self._groups]  # flat, as the groups are

    def update(self, skip: Tensor | None = None) -> None:
        """Move towards the present weights, unless `skip []` is 1."""
        for average, group in zip(self.buffers, self._groups, strict=True):
            weight = 1 - self._decay if skip is None else (1 - self._decay) * (1 - skip).to(average.dtype)
            average.lerp_(group.flat.values, weight)

    def attach(self) -> None:
        """Follow the weights to their device."""
        self.buffers = [
            average.to(group.flat.values.device) for average, group in zip(self.buffers, self._groups, strict=True)
        ]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Run the body with the averages in the place of the weights, which are put back afterwards."""
        weights = [param.detach() for group in self._groups for param in group.flat.params]
        averages = [view for _, view in self._named()]
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, averages)
        try:
            yield
        finally:
            torch._foreach_copy_(weights, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average of every parameter by name."""
        return {name: view.contiguous() for name, view in self._named()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy `tensors`, which `state_dict` returned, into place; begin with the present weights if there are none.

        Raises:
            DataError: One is missing or of another shape.
        """
        if not tensors:
            for average, group in zip(self.buffers, self._groups, strict=True):
                average.copy_(group.flat.values)
            return
        for name, view in self._named():
            if name not in tensors or tensors[name].shape != view.shape:
                raise DataError(
                    f"The averaged weights of the checkpoint do not fit this model at {name!r}. Resume with the model "
                    "that the checkpoint was made with."
                )
            view.copy_(tensors[name])

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for average, group in zip(self.buffers, self._groups, strict=True):
            yield from zip(group.names, group.flat.views(average), strict=True)
