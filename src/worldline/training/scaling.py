"""A scale of the loss for float16, whose small gradients would otherwise round to zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_FIRST_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000  # steps without an overflow after which the scale doubles


class LossScaler:
    """The rule of `torch.amp.GradScaler`: halve the scale when gradients overflow, double it after long without.

    The gradients are divided by the scale where they are clipped, in the same pass, and a step that overflowed is left
    out. All of it happens on the device, so no step waits. Unlike torch's, the scale does not fall below 1: what
    overflows there would overflow in float32 as well.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), _FIRST_SCALE, device=device)  # [] what losses are multiplied by
        self._good_steps = torch.zeros((), device=device)  # [] since the scale last changed

    def update(self, grad_norm: Tensor) -> Tensor:
        """Adapt the scale to a step's `grad_norm []`, and return whether the step overflowed: `[]` float32, 0 or 1."""
        has_overflowed = ~grad_norm.isfinite()
        good_steps = (self._good_steps + 1).masked_fill(has_overflowed, 0.0)
        grows = good_steps == _GROWTH_INTERVAL
        factor = torch.where(has_overflowed, 0.5, torch.where(grows, 2.0, 1.0))
        self.scale = (self.scale * factor).clamp_min(1.0)
        self._good_steps = good_steps.masked_fill(grows, 0.0)
        return has_overflowed.float()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the scale and how long it has been good."""
        return {"scale": self.scale, "good_steps": self._good_steps}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, or as before if `tensors` is empty."""
        if not tensors:
            return
        self.scale = tensors["scale"].to(self.scale.device)
        self._good_steps = tensors["good_steps"].to(self.scale.device)
