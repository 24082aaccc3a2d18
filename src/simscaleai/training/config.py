"""TrainConfig: the settings of a training run by SimScaleAI's names."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from worldline.config import to_dict
from worldline.errors import ConfigError, shown
from worldline.training.config import TrainingConfig

_PRECISIONS: Mapping[str, Literal["bf16", "fp16"]] = {"bfloat16": "bf16", "float16": "fp16"}
_BACKENDS = ("nccl", "gloo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run.

    Raises:
        ConfigError: A value is outside what the setting allows.
    """

    # Model
    model_name: str = "bc"  # in `ModelRegistry`; read by `simscale train`
    model_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # further arguments of its constructor

    # Data
    dataset_path: str = ""  # HDF5 file; "" is random numbers. Read by `simscale train`, as the next two are
    batch_size: int = 32  # samples of a step in each process; a `DataLoader` that is given has its own
    num_workers: int = 4  # processes that load data, unless it is in memory

    # Optimisation
    lr: float = 1e-4  # peak learning rate
    weight_decay: float = 1e-5  # weight decay of AdamW
    warmup_steps: int = 500  # steps over which the rate rises from 0
    max_steps: int = 100_000  # optimiser steps of the whole run; the rate falls to 0 along a cosine until then
    grad_clip: float = 1.0  # largest norm of all gradients; 0 clips none

    # Mixed precision
    use_amp: bool = True  # compute the loss in `amp_dtype` (torch.autocast), or else in float32 as the weights are
    amp_dtype: str = "bfloat16"  # "bfloat16", or "float16" with a scaled loss

    # Distributed
    distributed: bool = False  # expect several processes; it is torchrun that starts them, and they train together
    backend: str = "nccl"  # what carries tensors between GPUs; those on CPUs always go through gloo

    # Checkpoints
    checkpoint_dir: str = "checkpoints"  # folder of `step_N.pt`, `final.pt` and the logs
    save_every: int = 5000  # steps between two checkpoints
    resume_from: str | None = None  # a checkpoint to go on from, or a folder of them, for the newest that is whole

    # Logging
    log_every: int = 100  # steps between two lines of the log
    eval_every: int = 1000  # steps between two evaluations
    use_wandb: bool = False  # log to Weights & Biases, too
    wandb_project: str = "simscaleai"  # project there
    wandb_run_name: str | None = None  # name of the run there; None lets W&B choose

    # Device
    device: str = "auto"  # where to train: "auto" (CUDA, else MPS, else CPU), "cuda", "mps" or "cpu"

    # Beyond the document
    seed: int = 42  # seed of the order of samples, of random transforms and of torch's generators

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "save_every", "log_every", "eval_every"):
            _check(name, getattr(self, name), int, 1)
        for name in ("num_workers", "warmup_steps", "seed"):
            _check(name, getattr(self, name), int, 0)
        for name in ("lr", "weight_decay", "grad_clip"):
            _check(name, getattr(self, name), float, 0)
        if self.lr == 0:
            raise ConfigError("lr must be above 0: with a rate of 0 nothing is learnt.")
        for name, known in (("amp_dtype", tuple(_PRECISIONS)), ("backend", _BACKENDS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(map(repr, known))}; got {getattr(self, name)!r}.")
        try:
            json.dumps(to_dict(self))  # checkpoints hold plain values only
        except TypeError as error:
            raise ConfigError(f"model_kwargs must be plain values (numbers, texts, lists): {error}.") from error


def core_config(config: TrainConfig, *, batch_size: int) -> TrainingConfig:
    """Return the settings by Worldline's names; `batch_size` is the number of samples of a step in all processes."""
    return TrainingConfig(
        total_steps=config.max_steps,
        batch_size=batch_size,
        sequence_length=1,  # a sample is a window of one row, whatever it holds
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        grad_clip=config.grad_clip,
        warmup_steps=config.warmup_steps,
        schedule="cosine",
        log_interval=config.log_every,
        eval_interval=config.eval_every,
        save_interval=config.save_every,
        device=config.device,
        seed=config.seed,
        precision=_PRECISIONS[config.amp_dtype] if config.use_amp else "fp32",
    )


def _check(name: str, value: Any, kind: type, least: int) -> None:
    is_right = isinstance(value, kind | int) and not isinstance(value, bool)
    if not is_right or not math.isfinite(value) or value < least:
        expected = "a whole number" if kind is int else "a finite number"
        raise ConfigError(f"{name} must be {expected} of at least {least}; got {shown(value)}.")
