"""Numbers to a common scale and back, by the statistics of the data that a model learns from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from worldline.errors import DataError
from worldline.statistics import ColumnStatistics

_MIN_SCALE = 1e-6  # what varies by less, relative to its size, is taken for constant


class Normalizer(nn.Module):
    """Shifts and scales `[..., *shape]`, element by element; saved with the model.

    Args:
        shape: Of one row.
        kind: "standard" is zero mean and unit deviation over the data, "range" takes its least and greatest value to
            -1 and 1. What is constant in the data is shifted to 0 and not scaled.
    """

    shift: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, shape: tuple[int, ...], *, kind: Literal["standard", "range"] = "standard") -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self._is_fitted = False  # what `fitted` says, without a wait for the device

    @property
    def is_fitted(self) -> bool:
        """Whether it has the statistics of some data."""
        if not self._is_fitted:
            self._is_fitted = bool(self.fitted)
        return self._is_fitted

    @torch.no_grad()
    def fit(self, statistics: ColumnStatistics) -> None:
        """Take the statistics of a column whose rows have this shape.

        Raises:
            DataError: Its rows have another shape.
        """
        if statistics.mean.shape != tuple(self.shift.shape):
            raise DataError(
                f"The data has rows of shape {statistics.mean.shape}; the model was built for "
                f"{tuple(self.shift.shape)}. Build it for this data."
            )
        mean, std, low, high = (
            torch.from_numpy(value) for value in (statistics.mean, statistics.std, statistics.low, statistics.high)
        )
        shift, scale = (mean, std) if self.kind == "standard" else ((low + high) / 2, (high - low) / 2)
        constant = scale <= _MIN_SCALE * shift.abs().clamp(min=1.0)
        self.shift.copy_(shift)
        self.scale.copy_(scale.masked_fill(constant, 1.0))
        self.fitted.fill_(True)
        self._is_fitted = True

    def forward(self, values: Tensor) -> Tensor:
        """Return `values [..., *shape]` normalised, as float.

        Raises:
            DataError: It was never fitted.
        """
        self._check_fitted()
        return (values.float() - self.shift) / self.scale

    def inverse(self, values: Tensor) -> Tensor:
        """Return what `forward` takes to `values [..., *shape]`.

        Raises:
            DataError: It was never fitted.
        """
        self._check_fitted()
        return values * self.scale + self.shift

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise DataError(
                "The model does not know the scale of its data yet. Train it on data that has statistics() (a "
                "ReplayBuffer, a data set), or call model.fit(data.statistics())."
            )
