"""Notice a loss or gradient that is not finite, or a loss that jumps, without waiting for the device at every step."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.errors import AnomalyError, NonFiniteError
from worldline.tensor_files import write_tensors
from worldline.training.config import TrainingConfig

RngState = dict[str, Tensor]

_SPIKE_RATE = 0.01  # of the running mean and variance of losses
_SPIKE_WARMUP = 100  # finite losses before the first can be called a spike
_SPIKE_MIN_DEVIATION = 1e-3  # in terms of the mean: a loss that hardly moves has no spikes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anomaly:
    """A step whose batch is not to be learnt from."""

    step: int  # counted from 1
    kind: Literal["nonfinite", "spike"]
    rng: RngState  # the generators' state before the loss was computed

    @property
    def description(self) -> str:
        """What is wrong with the step, as the beginning of a message."""
        if self.kind == "nonfinite":
            return f"The loss or a gradient of step {self.step} is NaN or infinite."
        return f"The loss of step {self.step} is far above those before it (spike_threshold)."


class _Pending(NamedTuple):
    """A step that nobody has looked at yet."""

    step: int
    rng: RngState
    value: Tensor  # [] finite if the loss and the gradients are
    is_spike: Tensor | None  # [] bool


class AnomalyWatch:
    """Keeps what the last steps' losses and norms were on the device, and looks at them now and then.

    On the CPU the loss is there when the step returns, so it is looked at in every step; elsewhere looking would stall
    the device, and happens in the steps that `log_interval` divides.

    Args:
        config: `on_anomaly`, `max_anomalies`, `spike_threshold` and `log_interval` are read.
        device: Where the losses are.
        record: Called with every anomaly that is found; returns a sentence that says where its batch is.
    """

    def __init__(self, config: TrainingConfig, device: torch.device, record: Callable[[Anomaly], str]) -> None:
        self.interval = 1 if device.type == "cpu" else config.log_interval
        self.num_anomalies = 0
        self._mode = config.on_anomaly
        self._max_anomalies = config.max_anomalies
        self._spikes = None if config.spike_threshold is None else SpikeRule(config.spike_threshold, device)
        self._record = record
        self._pending: list[_Pending] = []

    def add(self, step: int, rng: RngState, loss: Tensor, grad_norm: Tensor) -> Tensor | None:
        """Note a step, and return whether to leave it out: `[]` float32, 0 or 1; None where that is not asked for."""
        value = loss + grad_norm  # finite only if both are
        is_spike = None if self._spikes is None else self._spikes.judge(loss)
        self._pending.append(_Pending(step, rng, value, is_spike))
        if self._mode != "skip":
            return None
        is_bad = ~value.isfinite()
        return (is_bad if is_spike is None else is_bad | is_spike).float()

    def is_due(self, step: int) -> bool:
        """Return whether to check at `step`."""
        return step % self.interval == 0

    def check(self) -> bool:
        """Look at all steps since the last check, waiting for the device, and return whether any was an anomaly.

        Raises:
            NonFiniteError: One was not finite, and `on_anomaly` is "stop" or there were too many.
            AnomalyError: The same for a loss that jumped.
        """
        anomalies = self._take()
        for anomaly in anomalies:
            self.num_anomalies += 1
            saved = self._record(anomaly)
            if self._mode == "stop" or self.num_anomalies > self._max_anomalies:
                raise self._error(anomaly, saved)
            if self._mode == "rollback":
                break  # what follows is its consequence, and is undone
        return bool(anomalies)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of anomalies so far, and the statistics of the losses; nothing where nobody asks."""
        state = {} if self._mode == "stop" else {"count": torch.tensor(self.num_anomalies)}
        return state if self._spikes is None else state | {"losses": self._spikes.statistics}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        if "count" in tensors:
            self.num_anomalies = int(tensors["count"])
        if self._spikes is not None and "losses" in tensors:
            self._spikes.statistics = tensors["losses"].to(self._spikes.statistics.device)

    def _take(self) -> list[Anomaly]:
        """Return the anomalies among the pending steps, of which none is left."""
        pending, self._pending = self._pending, []
        if len(pending) == 1 and pending[0].is_spike is None and math.isfinite(pending[0].value.item()):
            return []  # the usual case on a CPU, in every step
        kinds = [_kind(*numbers) for numbers in _to_host(pending)]
        return [
            Anomaly(step=item.step, kind=kind, rng=item.rng)
            for item, kind in zip(pending, kinds, strict=True)
            if kind is not None
        ]

    def _error(self, anomaly: Anomaly, saved: str) -> AnomalyError:
        error = NonFiniteError if anomaly.kind == "nonfinite" else AnomalyError
        limit = ""
        if self._mode != "stop":
            limit = f" It is anomaly number {self.num_anomalies}, more than max_anomalies={self._max_anomalies} allows."
        return error(
            f"{anomaly.description}{limit} {saved} "
            "Look for extreme values in the batch; otherwise lower learning_rate or grad_clip, or use precision='fp32'."
        )


class SpikeRule:
    """A loss is a spike if it is more than `threshold` deviations above the mean of those before it.

    Mean and variance are exponential moving ones. A spike enters them as if it were at the bound: it hardly moves them,
    but a loss that stays at a new level is accepted in time.
    """

    def __init__(self, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        self.statistics = torch.zeros(3, device=device)  # mean, variance, number of finite losses

    def judge(self, loss: Tensor) -> Tensor:
        """Return whether `loss []` is a spike, `[]` bool, and take it into account."""
        loss = loss.float()
        mean, variance, count = self.statistics.unbind()
        deviation = torch.maximum(variance.sqrt(), _SPIKE_MIN_DEVIATION * mean.abs())
        bound = mean + self._threshold * deviation
        is_spike = (count >= _SPIKE_WARMUP) & (loss > bound)
        is_finite = loss.isfinite()
        seen = torch.where(is_spike, bound, torch.where(is_finite, loss, mean))
        rate = (1 / (count + 1)).clamp_min(_SPIKE_RATE) * is_finite
        change = seen - mean
        variance = (1 - rate) * (variance + rate * change.square())
        self.statistics = torch.stack([mean + rate * change, variance, count + is_finite])
        return is_spike


def save_offending_batch(directory: Path, batch: Batch, anomaly: Anomaly, *, seed: int) -> Path:
    """Write what is needed to compute a bad loss again, and return the folder, `KIND_step_NNNNNNNN`.

    `batch.safetensors` has the fields of the batch ("obs", or "obs/NAME" for each of a dict), `rng.safetensors`
    torch's generators before the loss was computed, `step.json` the step and the seed.

    Raises:
        OSError: It cannot be written.
    """
    folder = directory / f"{anomaly.kind}_step_{anomaly.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "batch.safetensors", dict(_tensors(batch)))
    write_tensors(folder / "rng.safetensors", anomaly.rng)
    (folder / "step.json").write_text(json.dumps({"step": anomaly.step, "seed": seed}) + "\n", encoding="utf-8")
    return folder


def _to_host(pending: list[_Pending]) -> list[tuple[float, float]]:
    """Return (value, whether it is a spike) of every step, copied from the device all at once."""
    numbers = [(item.value, 0 * item.value if item.is_spike is None else item.is_spike) for item in pending]
    if not numbers:
        return []
    values, spikes = (torch.stack([pair[index].float() for pair in numbers]) for index in (0, 1))
    return list(zip(*torch.stack([values, spikes]).tolist(), strict=True))


def _kind(value: float, spike: float) -> Literal["nonfinite", "spike"] | None:
    if not math.isfinite(value):
        return "nonfinite"
    return "spike" if spike > 0 else None


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for name in batch:
        value = batch[name]
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", tensor) for key, tensor in value.items())
        elif value is not None:
            yield name, value
