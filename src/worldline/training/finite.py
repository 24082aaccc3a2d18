"""Notice a loss or gradient that became NaN or infinite, without waiting for the device at every step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from worldline.batch import Batch

RngState = dict[str, Tensor]


class NonFiniteStep(Exception):  # noqa: N818 - a signal within the trainer, which raises NonFiniteError for it
    """Step `step` had a non-finite loss or gradient; `rng` is the generators' state before its loss was computed."""

    def __init__(self, step: int, rng: RngState) -> None:
        super().__init__(step)
        self.step = step
        self.rng = rng


class FiniteCheck:
    """Keeps the last steps' losses and norms on the device, and looks at them every `interval` steps."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._pending: list[tuple[int, RngState, Tensor]] = []

    def add(self, step: int, rng: RngState, loss: Tensor, grad_norm: Tensor) -> None:
        """Note a step, and check if it is time.

        Raises:
            NonFiniteStep: The first bad step since the last check.
        """
        self._pending.append((step, rng, loss + grad_norm))  # finite only if both are
        if len(self._pending) >= self._interval:
            self.check()

    def check(self) -> None:
        """Look at all steps noted since the last check.

        Raises:
            NonFiniteStep: The first bad one.
        """
        pending, self._pending = self._pending, []
        if len(pending) == 1:
            values = [pending[0][2].item()]
        else:
            values = torch.stack([value for _, _, value in pending]).tolist() if pending else []
        for (step, rng, _), value in zip(pending, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteStep(step, rng)


def save_offending_batch(directory: Path, batch: Batch, *, step: int, seed: int, rng: RngState) -> Path:
    """Write what is needed to compute a bad loss again, and return the folder.

    `batch.safetensors` has the fields of the batch ("obs", or "obs/NAME" for each of a dict), `rng.safetensors`
    torch's generators before the loss was computed, `step.json` the step and the seed.
    """
    folder = directory / f"nonfinite_step_{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors(batch)},
        folder / "batch.safetensors",
    )
    save_file(rng, folder / "rng.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step, "seed": seed}) + "\n", encoding="utf-8")
    return folder


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for name in batch:
        value = batch[name]
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", tensor) for key, tensor in value.items())
        elif value is not None:
            yield name, value
