"""TrainingConfig: every number that a training run depends on, and nothing that depends on the machine's libraries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from worldline.config import to_dict
from worldline.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training run. Intervals count optimiser steps.

    Raises:
        ConfigError: A value is outside what the setting allows.
    """

    total_steps: int = 100_000  # optimiser steps of the whole run, resumed parts included
    batch_size: int = 16  # B, windows in a batch
    sequence_length: int = 50  # T, rows of a window
    learning_rate: float = 3e-4  # peak rate; a parameter group may scale it
    weight_decay: float = 0.0  # decoupled (AdamW); a parameter group may set its own
    grad_clip: float = 100.0  # largest joint gradient norm of the groups without a rule of their own; 0 is off
    warmup_steps: int = 0  # steps over which the rate rises linearly to its peak; 0 starts at the peak
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of the rate, from the warm-up to total_steps
    final_rate: float = 0.0  # what a falling schedule ends at, as a fraction of the peak
    log_interval: int = 100  # steps between two lines of the log
    eval_interval: int = 1000  # steps between two evaluations
    save_interval: int = 10_000  # steps between two checkpoints
    device: str = "auto"  # "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps"
    seed: int = 42  # of the data order and of torch's default generators
    strategy: Literal["ddp", "fsdp"] = "ddp"  # of several processes: each has the whole model, or a part of it
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the loss, by torch.autocast; weights stay float32
    num_micro_batches: int = 1  # pieces that a batch is cut into, one after the other, to save memory
    ema_decay: float | None = None  # of a moving average of the weights, in (0, 1), such as 0.999; None keeps none
    compile: bool = False  # compile the loss with torch.compile
    deterministic: bool = False  # use only algorithms that give the same bits every time
    on_anomaly: Literal["stop", "skip", "rollback"] = "stop"  # what to do about a loss or gradient that is not finite
    max_anomalies: int = 100  # how many may be skipped or rolled back in a run; one more stops it
    spike_threshold: float | None = None  # deviations above its mean from which a loss is an anomaly; None: none is

    overfit_batches: int = 0  # train on the first so many batches for ever, to see the loss fall; 0 for all data

    def __post_init__(self) -> None:
        for name in ("total_steps", "batch_size", "sequence_length", "log_interval", "eval_interval", "save_interval"):
            _check_whole(name, getattr(self, name), at_least=1)
        for name in ("warmup_steps", "seed", "max_anomalies", "overfit_batches"):
            _check_whole(name, getattr(self, name), at_least=0)
        if self.seed >= 1 << 32:
            raise ConfigError(f"seed must be below 2**32 = {1 << 32}, which every generator takes; got {self.seed}.")
        for name in ("weight_decay", "grad_clip"):
            _check_number(name, getattr(self, name), zero_allowed=True)
        _check_number("learning_rate", self.learning_rate, zero_allowed=False)
        _check_number("final_rate", self.final_rate, zero_allowed=True)
        if self.final_rate > 1:
            raise ConfigError(f"final_rate is a fraction of the peak, at most 1; got {self.final_rate!r}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(map(repr, known))}; got {getattr(self, name)!r}.")
        self._check_numbers()
        if not isinstance(self.device, str) or not self.device:
            raise ConfigError(f"device must be a name such as 'auto', 'cpu' or 'cuda:0'; got {self.device!r}.")

    def _check_numbers(self) -> None:
        _check_whole("num_micro_batches", self.num_micro_batches, at_least=1)
        if self.num_micro_batches > self.batch_size:
            raise ConfigError(
                f"num_micro_batches must be at most batch_size={self.batch_size}, the windows there are to share out; "
                f"got {self.num_micro_batches}."
            )
        if self.ema_decay is not None:
            _check_number("ema_decay", self.ema_decay, zero_allowed=False)
            if self.ema_decay >= 1:
                raise ConfigError(f"ema_decay must be below 1, or the average never moves; got {self.ema_decay!r}.")
        if self.spike_threshold is not None:
            _check_number("spike_threshold", self.spike_threshold, zero_allowed=False)


_CHOICES = {
    "schedule": ("constant", "linear", "cosine"),
    "strategy": ("ddp", "fsdp"),
    "precision": ("fp32", "bf16", "fp16"),
    "on_anomaly": ("stop", "skip", "rollback"),
}


def free_settings(config: TrainingConfig) -> frozenset[str]:
    """Return the settings that a run may be resumed with other values of: it goes on with the same steps.

    They change no number, except that another kind of device rounds differently, and that a run which an anomaly has
    stopped may go on without it. `total_steps` is one of them where the schedule is constant; a falling learning rate
    depends on where it ends. On an accelerator, where a rollback leads to depends on when losses are looked at.
    """
    free = {"eval_interval", "device", "strategy", "on_anomaly", "max_anomalies"}
    if config.on_anomaly != "rollback" or config.device == "cpu":
        free |= {"log_interval", "save_interval"}
    return frozenset(free | {"total_steps"} if config.schedule == "constant" else free)


def changed_settings(saved: Mapping[str, Any], config: TrainingConfig) -> list[str]:
    """Return which settings of `config` that a run depends on are not those of `saved`, as a dict has them."""
    saved = to_dict(TrainingConfig()) | dict(saved)  # what an older version did not have was as it is by default
    free = free_settings(config)
    return [
        f"{name} {saved.get(name)!r} -> {value!r}"
        for name, value in to_dict(config).items()
        if name not in free and saved.get(name) != value
    ]


def fast_dev_config(config: TrainingConfig) -> TrainingConfig:
    """Return the settings of a run of 4 steps in which everything happens, to see that a set-up works."""
    return dataclasses.replace(config, total_steps=4, log_interval=1, eval_interval=2, save_interval=2)


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 1.

    A pure function of the step: there is no scheduler to save, restore or forget.

    >>> learning_rate_at(TrainingConfig(learning_rate=1.0, warmup_steps=4), 1)
    0.25
    >>> learning_rate_at(TrainingConfig(learning_rate=1.0, warmup_steps=0), 1)
    1.0
    >>> learning_rate_at(TrainingConfig(learning_rate=1.0, schedule="linear", total_steps=10), 6)
    0.5
    """
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    # The first step after the warm-up has the whole rate; the one after the last would have the final one.
    begin = max(config.warmup_steps, 1)
    done = min((step - begin) / max(config.total_steps + 1 - begin, 1), 1.0)
    share = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * share)


def _check_whole(name: str, value: Any, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name} must be a whole number of at least {at_least}; got {value!r}.")


def _check_number(name: str, value: Any, *, zero_allowed: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
        bound = "of at least 0" if zero_allowed else "above 0"
        raise ConfigError(f"{name} must be a finite number {bound}; got {value!r}.")
