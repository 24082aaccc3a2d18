"""Metrics: how they leave the device, and what those are called that callbacks monitor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worldline.errors import ConfigError, nearest

_EVALUATION = "eval/"


def to_floats(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars `[]` (or one-element tensors) as floats, copied from the device all at once."""
    if not metrics:
        return {}
    values = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    return dict(zip(metrics, values.tolist(), strict=True))


def named_results(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the results of an evaluation as logs and monitors call them: "eval/NAME"."""
    return {f"{_EVALUATION}{name}": value for name, value in metrics.items()}


def is_result(monitor: str) -> bool:
    """Return whether `monitor` means a result of an evaluation; otherwise it is a loss, which every step has."""
    return monitor.startswith(_EVALUATION)


def check_monitor(monitor: str, losses: Mapping[str, Tensor], *, callback: str) -> None:
    """Check that a step's losses have what `callback` monitors, unless that is a result of an evaluation.

    Raises:
        ConfigError: They do not; the message has the nearest.
    """
    if not is_result(monitor) and monitor not in losses:
        raise ConfigError(
            f"{callback} cannot monitor {monitor!r}, which no step has. {nearest(monitor, losses)} "
            'A result of an evaluation is called "eval/NAME".'
        )
