"""The trainer by SimScaleAI's names."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from simscaleai.training.adapter import Adapter, BuiltByName
from simscaleai.training.callbacks import Checkpoints, Results
from simscaleai.training.carrier import carry
from simscaleai.training.checkpoint import read_checkpoint
from simscaleai.training.config import TrainConfig, core_config
from simscaleai.training.loader import OrderedLoader, open_loader
from worldline.config import to_dict
from worldline.errors import ConfigError, DataError
from worldline.seeding import repeatable
from worldline.training import trainer as core
from worldline.training.callbacks import Callback, EvaluationCallback, LoggingCallback, ProgressCallback
from worldline.training.distributed import join
from worldline.training.metrics import is_result, to_floats

__all__ = ["TrainConfig", "Trainer"]

_LOGS = "logs"
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_LOG_NAMES = {
    "learning_rate": "train/lr",
    "rows_per_second": "train/samples_per_second",
    "train_seconds": "train/seconds",
}


class Trainer:
    """Trains a model on the batches of a loader: Worldline's trainer, with SimScaleAI's arguments and files.

    Attributes:
        model: The model, on the device.
        config: The settings; `batch_size` is the loader's, and `model_name` and `model_kwargs` those of a model that
            `ModelRegistry` created, so that its checkpoints say how to build it.
        global_step: Optimiser steps done so far.

    Args:
        model: A module with `model(batch) -> {"loss": ..., ...}`, where a batch is a dict as the loader gives it.
        train_loader: A `DataLoader`; `simscaleai.training.loader` says in which order its samples come.
        config: The settings.
        eval_loader: All of it is evaluated every `eval_every` steps, and after the last.
        eval_fn: Called with the model in evaluation mode after that; what it returns (numbers by name) is logged.

    Raises:
        ConfigError: A setting cannot be, or the device is not here.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Any],
        config: TrainConfig | None = None,
        eval_loader: Iterable[Any] | None = None,
        eval_fn: Callable[[Any], Any] | None = None,
    ) -> None:
        config = config or TrainConfig()
        num_ranks = join().num_ranks
        _warn_of_processes(config, num_ranks)
        self._data = open_loader(train_loader, num_ranks=num_ranks)
        if isinstance(self._data, OrderedLoader):
            config = dataclasses.replace(config, batch_size=self._data.batch_size)
        self.model = model
        self.config = config = _naming_the_model(config, model)
        self._eval_loader = eval_loader
        self._eval_fn = eval_fn
        self._results = Results()
        self._core = core.Trainer(
            Adapter(model), core_config(config, batch_size=config.batch_size * num_ranks), self._callbacks()
        )

    @property
    def global_step(self) -> int:
        """Optimiser steps done so far."""
        return self._core.step

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._core.device

    def train(self) -> dict[str, Any]:
        """Train up to `max_steps` and return what came of it.

        Returns:
            "final_loss" (of the last step), "global_step", "best_eval_loss", the last evaluation as "eval/NAME",
            "samples_per_second" over all processes, and "train_seconds" of this call.

        Raises:
            NonFiniteError: A loss or gradient became NaN or infinite; the batch was saved in `checkpoint_dir`.
            FileError: `resume_from` cannot be read, or the last checkpoint not be written.
            DataError: The checkpoint is of another model, or the loader gave nothing to learn from.
        """
        begun, rows = time.perf_counter(), self._core.num_rows
        resume_from = None
        if self.config.resume_from is not None and self.global_step == 0:
            settings = {**to_dict(self._core.config), "device": str(self.device)}
            resume_from = functools.partial(read_checkpoint, Path(self.config.resume_from), settings=settings)
        try:
            self._core.train(self._data, resume_from=resume_from)
        finally:
            self._data.close()
        seconds = time.perf_counter() - begun
        num_samples = (self._core.num_rows - rows) * self._core.ranks.num_ranks
        return {
            "final_loss": self._results.final_loss,
            "global_step": self.global_step,
            "best_eval_loss": self._results.best_eval_loss,
            **self._results.evaluation,
            "samples_per_second": num_samples / seconds,
            "train_seconds": seconds,
        }

    def evaluate(self) -> dict[str, float]:
        """Return the mean of every number that the model reports, over all samples of `eval_loader`, and `eval_fn`'s.

        Raises:
            DataError: The loader is empty.
        """
        return self._core.measure(self._evaluated)

    def _callbacks(self) -> list[Callback]:
        config = self.config
        callbacks: list[Callback] = [self._results, Checkpoints(config, self._results), ProgressCallback()]
        wandb = {"project": config.wandb_project, "name": config.wandb_run_name} if config.use_wandb else False
        logs = Path(config.checkpoint_dir) / _LOGS
        callbacks.append(LoggingCallback(logs, use_wandb=wandb, console=False, rename=_log_name))
        if self._eval_loader is not None or self._eval_fn is not None:
            callbacks.append(EvaluationCallback(lambda model, step: self._evaluated()))
        return callbacks

    def _evaluated(self) -> dict[str, float]:
        """Evaluate; the model is in evaluation mode already."""
        with repeatable(self.config.seed):  # loaders and simulations may draw from any generator
            found = {} if self._eval_loader is None else self._mean_losses(self._eval_loader)
            if self._eval_fn is not None:
                found |= _numbers(self._eval_fn(self.model))
        return found

    def _mean_losses(self, loader: Iterable[Any]) -> dict[str, float]:
        totals: dict[str, Tensor] = {}
        num_samples = 0
        dtype = _DTYPES[self.config.amp_dtype]
        for samples in loader:
            batch = carry(samples, self.device)
            with torch.autocast(self.device.type, dtype=dtype, enabled=self.config.use_amp):
                losses = self._core.model.compute_loss(batch)
            num_samples += batch.batch_size
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value * batch.batch_size
        if num_samples == 0:
            raise DataError("eval_loader gave no batch. Give it samples, or leave it out.")
        return {name: total / num_samples for name, total in to_floats(totals).items()}


def _log_name(name: str) -> str:
    """Return what the logs call a metric."""
    return _LOG_NAMES.get(name, name if is_result(name) else f"train/{name}")


def _numbers(result: object) -> dict[str, float]:
    """Return the numbers of what an `eval_fn` returned: a dict or a dataclass of them, or one, or None."""
    if result is None:
        return {}
    if _is_number(result):
        return {"eval_fn": float(result)}
    if dataclasses.is_dataclass(result) and not isinstance(result, Mapping):
        result = vars(result)
    if not isinstance(result, Mapping):
        raise ConfigError(f"eval_fn must return numbers by name; got a {type(result).__name__}.")
    return {str(name): float(value) for name, value in result.items() if _is_number(value)}


def _is_number(value: object) -> TypeGuard[SupportsFloat]:
    if isinstance(value, Tensor | np.ndarray):
        return math.prod(value.shape) == 1
    return isinstance(value, int | float | np.number | np.bool_)


def _naming_the_model(config: TrainConfig, model: object) -> TrainConfig:
    """Return the settings with the name and the arguments of a model that knows them, unless they say some."""
    if config.model_kwargs or not isinstance(model, BuiltByName) or model.built_as is None:
        return config
    name, kwargs = model.built_as
    try:
        return dataclasses.replace(config, model_name=name, model_kwargs=kwargs)
    except ConfigError:  # arguments that a file cannot hold
        return config


def _warn_of_processes(config: TrainConfig, num_ranks: int) -> None:
    if config.distributed and num_ranks == 1 and os.environ.get("WORLD_SIZE", "1") == "1":
        warnings.warn(
            "distributed=True, but this process is alone: it is torchrun that starts several. Start it as "
            "`torchrun --nproc_per_node=N ...` to train on N processes.",
            stacklevel=3,
        )
    if num_ranks > 1 and config.backend == "gloo" and torch.cuda.is_available() and config.device != "cpu":
        warnings.warn("backend='gloo' is for CPUs: tensors on GPUs go through NCCL all the same.", stacklevel=3)
