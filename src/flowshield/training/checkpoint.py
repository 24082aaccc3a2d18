"""Checkpoints of training loops of one's own: one file of tensors and JSON, never unpickled.

The file is a safetensors file: "agent.NAME" and "shield.NAME" are weights, "optimizer.INDEX.NAME" what the optimiser
keeps of each parameter, "rng.NAME" the states of torch's generators, and "state" everything else as JSON in uint8.
`Trainer` has no use for it: Worldline's trainer writes its own checkpoints, with more in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowshield.models import adapted
from worldline import seeding
from worldline.config import to_dict
from worldline.create import rebuild
from worldline.errors import DataError, FileError, shown
from worldline.files import make_folders, replacing
from worldline.models.base import Model, Pretrained
from worldline.tensor_files import RESTORE, read_tensors, write_tensors

_FORMAT = "flowshield-checkpoint"
_VERSION = 1
_MAX_STATE_BYTES = 1 << 20
_PARTS = ("agent", "shield")


def save_checkpoint(
    path: str | os.PathLike[str],
    agent: Model | None,
    shield: Model | None,
    optimizer: torch.optim.Optimizer | None,
    epoch: int,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file; folders above it are made.
        agent: Or None.
        shield: Or None.
        optimizer: One of torch's, or None.
        epoch: The last one that was finished.

    Raises:
        FileError: It cannot be written; an older file is as it was.
        DataError: The optimiser keeps something that is neither a tensor nor a plain value.
    """
    file = Path(path)
    models = {name: model for name, model in zip(_PARTS, (agent, shield), strict=True) if model is not None}
    tensors = {f"rng.{name}": state for name, state in seeding.rng_state().items()}
    for name, model in models.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in model.state_dict().items()}
    state: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "epoch": int(epoch)}
    state |= {name: {"family": model.family, "config": to_dict(model.config)} for name, model in models.items()}
    if optimizer is not None:
        state["optimizer"], kept = _flattened(optimizer.state_dict())
        tensors |= kept
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The optimiser has a setting that is no plain value: {error}. Use one of torch.optim."
        ) from error
    tensors["state"] = torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())
    try:
        make_folders(file.parent)
        with replacing(file) as (beside,):
            write_tensors(beside, tensors)
    except OSError as error:
        raise FileError(f"Cannot save the checkpoint {file}: {error}. Choose a folder you may write to.") from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint.

    To go on as if nothing had happened, give what is returned back:

        optimizer.load_state_dict(checkpoint["optimizer"])
        seeding.set_rng_state(checkpoint["rng"])  # worldline.seeding
        dataset.seek(seed=0, step=number of batches drawn so far)

    Returns:
        "agent" and "shield", the models (or None) in evaluation mode; "model", the agent or else the shield;
        "optimizer", what `Optimizer.load_state_dict` takes (or None), for an optimiser of the parameters of `agent` and
        `shield` in the order that was saved; "epoch"; and "rng", the states of torch's generators.

    Raises:
        FileError: It is missing, damaged, or no checkpoint.
        ConfigError: Its models cannot be built.
        DataError: Its weights are not those of its models.
    """
    tensors = read_tensors(Path(path))
    state = _read_state(tensors, path)
    models: dict[str, Model | None] = dict.fromkeys(_PARTS)
    for name in _PARTS:
        described = state.get(name)
        if described is not None:
            models[name] = _model(described, _within(tensors, name), where=f"{os.fspath(path)}: {name}")
    optimizer = state.get("optimizer")
    return {
        **models,
        "model": models["agent"] or models["shield"],
        "optimizer": None if optimizer is None else _nested(optimizer, _within(tensors, "optimizer"), path),
        "epoch": state["epoch"],
        "rng": {name: tensor.clone() for name, tensor in _within(tensors, "rng").items()},
    }


def _model(described: Any, tensors: Mapping[str, Tensor], *, where: str) -> Model:
    if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
        raise FileError(f"{where} is not described. {RESTORE}")
    saved = Pretrained(family=str(described.get("family")), config=described["config"], tensors=dict(tensors))
    return rebuild(saved, config_at=where, weights_at=where, adapt=adapted)


def _read_state(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Any]:
    text = tensors.get("state")
    if text is None or text.dtype != torch.uint8 or text.numel() > _MAX_STATE_BYTES:
        raise FileError(f"{os.fspath(path)} is not a checkpoint: it has no state. Give one that save_checkpoint wrote.")
    try:
        state = json.loads(text.numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{os.fspath(path)} has a state that is no JSON: {error}. {RESTORE}") from error
    is_known = isinstance(state, dict) and (state.get("format"), state.get("version")) == (_FORMAT, _VERSION)
    if not is_known or type(state.get("epoch")) is not int:
        raise FileError(f"{os.fspath(path)} is not a checkpoint of this version. {RESTORE}")
    found: dict[str, Any] = state
    return found


def _within(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of a part, by their names in it."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _flattened(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return an optimiser's state as plain values, and its tensors by name."""
    tensors = {}
    values: dict[str, dict[str, Any]] = {}
    for index, kept in state["state"].items():
        for name, value in kept.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value
    return {"param_groups": state["param_groups"], "state": values}, tensors


def _nested(state: Any, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return an optimiser's state as its `load_state_dict` takes it."""
    try:
        kept: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in state["state"].items()}
        for key, tensor in tensors.items():
            index, _, name = key.partition(".")
            kept.setdefault(int(index), {})[name] = tensor.clone()
        groups = [
            {
                key: tuple(value) if key != "params" and isinstance(value, list) else value
                for key, value in group.items()
            }
            for group in state["param_groups"]
        ]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise FileError(f"{os.fspath(path)} has an optimiser that cannot be read: {shown(error)}. {RESTORE}") from error
    return {"state": dict(sorted(kept.items())), "param_groups": groups}
