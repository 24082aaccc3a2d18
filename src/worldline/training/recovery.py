"""What becomes of a bad step: it is left out, or training goes back to before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldline import seeding
from worldline.training.anomalies import RngState
from worldline.training.averaging import WeightAverage
from worldline.training.optim import Optimizer
from worldline.training.scaling import LossScaler


class Skip:
    """Undoes what a bad step did besides its update, which the optimiser leaves out: to buffers and target networks.

    Whether a step was bad is known to the device alone. Generators are not put back.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._copies: list[Tensor] = []

    def begin(self) -> None:
        """Remember everything as it is before the step."""
        self._copies = _copied(_untrained(self._model, self._optimizer), self._copies)

    def finish(self, is_bad: Tensor) -> None:
        """Put it back where `is_bad []` is 1."""
        for tensor, copy in zip(_untrained(self._model, self._optimizer), self._copies, strict=True):
            tensor.copy_(torch.where(is_bad > 0, copy, tensor))


class RollBack:
    """Goes back to the state of training after the last check that found nothing.

    That state is the weights, moments and counts of the optimiser, the averaged weights, buffers and target networks,
    the loss scale, and the generators. The data goes on, and so do the numbers of steps and anomalies.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, average: WeightAverage | None, scaler: LossScaler | None
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._average = average
        self._scaler = scaler
        self._is_current = False
        self._copies: list[Tensor] = []
        self._counts: list[tuple[int, Tensor | None]] = []
        self._scale: dict[str, Tensor] = {}
        self._rng: RngState = {}

    def begin(self, rng: RngState) -> None:
        """Take a copy of everything before the step, if the last one is outdated; `rng` is that of the generators."""
        if self._is_current:
            return
        self._is_current = True
        self._copies = _copied(self._tensors(), self._copies)
        self._counts = self._optimizer.counts()
        self._scale = {} if self._scaler is None else self._scaler.state_dict()
        self._rng = rng

    def accept(self) -> None:
        """Take another copy before the next step: the present state is good, or somebody else's."""
        self._is_current = False

    def undo(self) -> None:
        """Go back."""
        for tensor, copy in zip(self._tensors(), self._copies, strict=True):
            tensor.copy_(copy)
        self._optimizer.set_counts(self._counts)
        if self._scaler is not None:
            self._scaler.load_state_dict(self._scale)
        seeding.set_rng_state(self._rng)

    def _tensors(self) -> list[Tensor]:
        average = [] if self._average is None else self._average.buffers
        return [*self._optimizer.buffers(), *average, *_untrained(self._model, self._optimizer)]


def _copied(tensors: Sequence[Tensor], copies: list[Tensor]) -> list[Tensor]:
    """Return copies of `tensors`, in the memory of earlier `copies` of them if there are any."""
    if not copies:
        return [tensor.clone() for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return copies


def _untrained(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Return what may change in training besides what the optimiser trains: buffers, and target networks."""
    trained = {id(param) for group in optimizer.groups for param in group.flat.params}
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in trained]
