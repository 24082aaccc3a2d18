"""Checkpoints as SimScaleAI documents them: one file with seven keys, which `torch.load(weights_only=True)` reads.

    step                    optimiser steps done
    model_state_dict        weights and buffers, by their names in the model
    optimizer_state_dict    as `torch.optim.AdamW(model.parameters())` has it
    scheduler_state_dict    last_epoch, and what an exact resume needs besides: "generators", "callbacks", "training"
    scaler_state_dict       as `torch.amp.GradScaler` has it; empty unless amp_dtype is "float16"
    config                  `TrainConfig` as a dict of plain values
    best_eval_loss          inf before the first evaluation

Nothing but tensors and plain values is ever read from such a file, and its content is compared with the model before it
is used. It is written beside its place, flushed and renamed.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from simscaleai.training.adapter import Adapter
from simscaleai.training.config import TrainConfig
from worldline import files
from worldline.config import to_dict
from worldline.errors import DataError, FileError
from worldline.tensor_files import check_tensors, cpu_copies
from worldline.training.checkpoint import Checkpoint

KEYS = (
    "step",
    "model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
    "scaler_state_dict",
    "config",
    "best_eval_loss",
)

FINAL = "final.pt"  # of a run that has ended
_NAME = re.compile(r"step_(\d{1,12})\.pt")
_PREFIX = "model."  # of the adapter's names
_MOMENTS = ("exp_avg", "exp_avg_sq")
_FREE_BYTES = 1 << 24  # what a file may have for any model
_BYTES_PER_NUMBER = 64  # what it may have for each number of the model: moments in float64 take 16
_MAX_STATES = 1 << 12  # generators in a file
_REMEDY = "Resume from an older checkpoint, or from the folder to take the newest whole one."


def write_checkpoint(path: Path, checkpoint: Checkpoint, config: TrainConfig, model: Adapter, *, best: float) -> None:
    """Write a checkpoint that Worldline's trainer has captured.

    Raises:
        FileError: It cannot be written; what was at `path` is unchanged.
    """
    document = {
        "step": checkpoint.step,
        "model_state_dict": {
            name.removeprefix(_PREFIX): tensor for name, tensor in cpu_copies(checkpoint.model).items()
        },
        "optimizer_state_dict": _adamw_state(checkpoint, config, model),
        "scheduler_state_dict": {
            "last_epoch": checkpoint.step,
            "base_lrs": [config.lr],
            "generators": cpu_copies(checkpoint.rng),
            "callbacks": dict(checkpoint.callbacks),
            "training": dict(checkpoint.config),
        },
        "scaler_state_dict": _scaler_state(checkpoint.optimizer),
        "config": to_dict(config),
        "best_eval_loss": best,
    }
    try:
        files.make_folders(path.parent)
        with files.replacing(path) as (beside,):
            files.change(torch.save, document, beside)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter where a disk is full
        raise FileError(
            f"Cannot save the checkpoint {path}: {str(error).splitlines()[0]}. Older checkpoints are untouched. "
            "Choose a folder you may write to, with room for it."
        ) from error


def read_checkpoint(path: Path, model: nn.Module, *, settings: Mapping[str, Any] = MappingProxyType({})) -> Checkpoint:
    """Read a checkpoint for `model`, an `Adapter`; of a folder the newest whole one.

    `settings` are those of Worldline's trainer; a file of somebody else's, which does not say them, has the same.

    Raises:
        FileError: It is missing, damaged or holds more than tensors and plain values.
        DataError: It is of another model.
    """
    assert isinstance(model, Adapter)
    if not path.is_dir():
        return _checked(path, load_document(path, model), model, settings)
    for candidate in reversed(list_checkpoints(path)):
        try:
            return _checked(candidate, load_document(candidate, model), model, settings)
        except FileError as error:
            warnings.warn(f"Skipping a damaged checkpoint. {error}", stacklevel=2)
    raise FileError(f"No whole checkpoint step_N.pt to resume from in {path}. Give a checkpoint file.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the files `step_N.pt` of a folder, oldest first."""
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("step_*.pt")}
    return sorted((path for path, match in found.items() if match), key=step_of)


def step_of(path: Path) -> int:
    """Return the step that the name of a checkpoint says."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def load_document(path: Path, model: nn.Module | None = None) -> dict[str, Any]:
    """Return what is in a checkpoint, all of its keys, whatever they hold.

    Args:
        path: The file.
        model: The model that it is for, if that is known: larger files are not read.

    Raises:
        FileError: It is missing, damaged or holds more than tensors and plain values.
        DataError: It is far too large for the model.
    """
    try:
        size = files.regular_size(path)
        if model is not None:
            _check_size(path, size, model)
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise FileError(f"{path} is not what torch.save writes: it is compressed. {_REMEDY}")
            if damaged := archive.testzip():
                raise FileError(f"{path} is damaged in {damaged[:200]}. {_REMEDY}")
        # SimScaleAI's own files hold a TrainConfig; of it, too, values are taken and nothing is called.
        with torch.serialization.safe_globals([TrainConfig]):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileError(f"There is no checkpoint {path}. Give a file such as checkpoints/step_5000.pt.") from error
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, *_MISTAKES) as error:
        if isinstance(error, FileError | DataError):
            raise
        raise FileError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[:1]}. {_REMEDY}") from error
    if not isinstance(document, dict) or (missing := [key for key in KEYS if key not in document]):
        lacks = ", ".join(missing) if isinstance(document, dict) else "all of its keys"
        raise FileError(f"{path} is no checkpoint: it lacks {lacks}. {_REMEDY}")
    return document


_MISTAKES = (ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError)


def _check_size(path: Path, size: int, model: nn.Module) -> None:
    most = _FREE_BYTES + _BYTES_PER_NUMBER * sum(tensor.numel() for tensor in model.state_dict().values())
    if size > most:
        raise DataError(f"{path} was made with another model: it has {size:,} bytes, of at most {most:,}.")


def _checked(path: Path, document: Mapping[str, Any], model: Adapter, settings: Mapping[str, Any]) -> Checkpoint:
    """Return the content of a file, compared with the model.

    Raises:
        FileError: It has not the form that it should.
        DataError: It is of another model.
    """
    try:
        step = document["step"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError("step is no number of steps")
        schedule = document["scheduler_state_dict"]
        weights = {f"{_PREFIX}{name}": tensor for name, tensor in document["model_state_dict"].items()}
        if not all(map(_is_plain, weights.values())):
            raise ValueError("model_state_dict holds more than tensors")
        where = f"{path} was made with another model: its weights"
        check_tensors(model, weights, where=where, remedy="Build the model with the same settings.")
        return Checkpoint(
            step=step,
            config=dict(schedule.get("training", settings)),
            model=weights,
            optimizer={
                **_flat_moments(document["optimizer_state_dict"], model),
                **_scaler_tensors(document["scaler_state_dict"]),
            },
            rng=_generators(schedule.get("generators")),
            callbacks=dict(schedule.get("callbacks", {})),
            path=path,
        )
    except (*_MISTAKES, RuntimeError) as error:
        if isinstance(error, FileError | DataError):
            raise
        raise FileError(f"{path} has not the content of a checkpoint ({error!r}). {_REMEDY}") from error


def _adamw_state(checkpoint: Checkpoint, config: TrainConfig, model: Adapter) -> dict[str, Any]:
    """Return the moments as AdamW numbers them: all parameters of the model, of which frozen ones have none."""
    moments = cpu_copies(checkpoint.optimizer)
    num_updates = moments["num_updates/all"].float()
    names = [name for name, _ in model.named_parameters()]
    state = {
        index: {"step": num_updates.clone(), **{kind: moments[f"{kind}/{name}"] for kind in _MOMENTS}}
        for index, name in enumerate(names)
        if f"exp_avg/{name}" in moments
    }
    group = {
        "lr": config.lr,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": config.weight_decay,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": True,
        "params": list(range(len(names))),
    }
    return {"state": state, "param_groups": [group]}


def _flat_moments(saved: Mapping[str, Any], model: Adapter) -> dict[str, Tensor]:
    """Return the moments by the names of Worldline's optimiser; what AdamW has not met yet is zero.

    Raises:
        DataError: They are those of other parameters.
    """
    named = dict(model.named_parameters())
    trained = {name: param for name, param in named.items() if param.requires_grad}
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    names = list(named) if len(indices) == len(named) else list(trained)
    if len(names) != len(indices):
        raise DataError(f"The optimiser state is of {len(indices)} parameters, the model has {len(named)}.")
    state = {name: saved["state"].get(index, {}) for name, index in zip(names, indices, strict=True)}
    tensors: dict[str, Tensor] = {}
    for name, param in trained.items():
        for kind in _MOMENTS:
            moment = state[name].get(kind)
            if moment is not None and not _is_plain(moment):
                raise ValueError(f"{kind} of {name} is no tensor")
            tensors[f"{kind}/{name}"] = torch.zeros(param.shape) if moment is None else moment.detach()
    steps = [int(entry["step"]) for entry in state.values() if "step" in entry]
    return tensors | {"num_updates/all": torch.tensor(max(steps, default=0))}


def _scaler_state(optimizer: Mapping[str, Tensor]) -> dict[str, Any]:
    if "scaler/scale" not in optimizer:
        return {}
    return {
        "scale": float(optimizer["scaler/scale"]),
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": int(optimizer["scaler/good_steps"]),
    }


def _scaler_tensors(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    if not saved:
        return {}
    good_steps = float(saved["_growth_tracker"])
    return {"scaler/scale": torch.tensor(float(saved["scale"])), "scaler/good_steps": torch.tensor(good_steps)}


def _generators(saved: Any) -> dict[str, Tensor]:
    """Return the states of torch's generators; a file of others has none, and those of the present seed go on."""
    if saved is None:
        return {"cpu": torch.get_rng_state()}
    if len(saved) > _MAX_STATES or not all(map(_is_plain, saved.values())):
        raise ValueError("generators are no states of generators")
    return dict(saved)


def _is_plain(value: object) -> bool:
    """Return whether it is a tensor that has its numbers in memory, one by one."""
    return isinstance(value, Tensor) and value.device.type == "cpu" and value.layout == torch.strided
