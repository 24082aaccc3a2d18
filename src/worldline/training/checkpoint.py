"""Checkpoints on disk: written in full or not at all, verified before anything in them is parsed, never unpickled.

A checkpoint is a directory `step_00000007`:

    model.safetensors      weights and buffers, by their names in the model
    config.json            the model's configuration, if it has `save_pretrained`: the folder then loads as a model
    optimizer.safetensors  moments by parameter name, and update counts by group
    rng.safetensors        the states of torch's generators
    state.json             step, training configuration, state of the callbacks
    manifest.json          size and SHA-256 of all of these, and a digest of itself

It is written to a hidden sibling, flushed file by file, renamed, and the folder that holds it is flushed: after a
crash or a kill at any instant there is a whole checkpoint or none, and all older ones are untouched.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from worldline import files
from worldline.errors import DataError, FileError
from worldline.tensor_files import check_tensors, cpu_copies, read_tensors, write_tensors

_FORMAT = "worldline-checkpoint"
_VERSION = 1
_MANIFEST = "manifest.json"
_REQUIRED = {"model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"}
_ALLOWED = _REQUIRED | {"config.json"}
_MAX_JSON_BYTES = 1 << 24
_MAX_JSON_VALUES = 1 << 18  # parsed, each takes up to some hundred bytes
_FREE_BYTES = 1 << 24  # what a file may have for any model
_BYTES_PER_NUMBER = 64  # what it may have for each number of the model: moments in float64 take 16
_NAME = re.compile(r"step_(\d{8,12})")
_UNFINISHED = ".saving_"  # what a killed save leaves begins so,
_REMOVED = ".removing_"  # and what a killed removal leaves


# Reads a checkpoint for a model, whose shapes it compares before anything is made of it.
ReadCheckpoint: TypeAlias = "Callable[[nn.Module], Checkpoint]"
ResumeFrom: TypeAlias = "str | os.PathLike[str] | ReadCheckpoint"


@runtime_checkable
class SavesPretrained(Protocol):
    """A model that writes its own `config.json` and `model.safetensors`."""

    def save_pretrained(self, path: Path, *, state_dict: Mapping[str, Tensor]) -> None:
        """Write both files into the directory `path`, the latter with `state_dict`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The logical content of a checkpoint."""

    step: int  # optimiser steps done
    config: Mapping[str, Any]  # TrainingConfig as a dict
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: dict[str, Tensor]
    callbacks: Mapping[str, Any]  # name -> state
    path: Path | None = None  # where it was read from

    def snapshot(self) -> Checkpoint:
        """Return a copy in the CPU's memory, which training does not change any more."""
        return dataclasses.replace(
            self,
            model=cpu_copies(self.model),
            optimizer=cpu_copies(self.optimizer),
            rng=cpu_copies(self.rng),
            callbacks=copy.deepcopy(self.callbacks),
        )


def save_checkpoint(directory: Path, checkpoint: Checkpoint, model: nn.Module) -> Path:
    """Write `checkpoint` into `directory` and return its path, `directory/step_NNNNNNNN`.

    Raises:
        FileError: It cannot be written (disk full, no permission). Older checkpoints are as they were.
    """
    final = directory / f"step_{checkpoint.step:08d}"
    unfinished = directory / f"{_UNFINISHED}{final.name}"
    try:
        files.make_folders(directory)
        remove_unfinished(directory)
        files.change(unfinished.mkdir)
        _write(unfinished, checkpoint, model)
        files.change(unfinished.rename, final)
        files.sync(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            files.remove(unfinished)
        raise FileError(
            f"Cannot save the checkpoint {final}: {str(error).rstrip('.')}. Older checkpoints are untouched. "
            "Choose a folder you may write to, with room for it."
        ) from error
    return final


def load_checkpoint(path: Path, model: nn.Module | None = None) -> Checkpoint:
    """Read the checkpoint `path`, or the newest valid one if `path` is a folder of checkpoints.

    Args:
        path: Of either.
        model: The model that it is for: sizes, names and shapes are compared before any of it is read into memory.

    Raises:
        FileError: `path` is a damaged checkpoint, or a folder without any valid one.
        DataError: The checkpoint is of another model.
    """
    if _NAME.fullmatch(path.name) or (path / _MANIFEST).exists():
        return _read(path, model)
    candidates = list_checkpoints(path)
    for candidate in reversed(candidates):
        try:
            return _read(candidate, model)
        except FileError as error:
            warnings.warn(f"Skipping a damaged checkpoint. {error}", stacklevel=2)
    if candidates:
        raise FileError(f"None of the {len(candidates)} checkpoints in {path} is intact. Start the run again.")
    found = "it has no step_* folders" if path.is_dir() else "there is no such folder"
    raise FileError(f"No checkpoint to resume from in {path}: {found}. Give a checkpoint, or a folder of them.")


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in `directory`, valid or not, oldest first; none if it does not exist."""
    found = [path for path in directory.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step that the name of a checkpoint says."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint; a kill or a loss of power at any instant leaves it whole, or hidden.

    Raises:
        FileError: It cannot be deleted.
    """
    hidden = path.with_name(f"{_REMOVED}{path.name}")
    try:
        files.change(path.rename, hidden)
        files.sync(path.parent)
        files.remove(hidden)
    except OSError as error:
        raise FileError(f"Cannot delete the checkpoint {path}: {error}. Delete it yourself.") from error


def remove_unfinished(directory: Path) -> None:
    """Delete what saves and removals that were killed have left in `directory`."""
    for prefix in (_UNFINISHED, _REMOVED):
        for leftover in directory.glob(f"{prefix}*"):
            files.remove(leftover)


def _write(folder: Path, checkpoint: Checkpoint, model: nn.Module) -> None:
    if isinstance(model, SavesPretrained):
        model.save_pretrained(folder, state_dict=checkpoint.model)
    else:
        write_tensors(folder / "model.safetensors", checkpoint.model)
    write_tensors(folder / "optimizer.safetensors", checkpoint.optimizer)
    write_tensors(folder / "rng.safetensors", checkpoint.rng)
    state = {
        "format": _FORMAT,
        "version": _VERSION,
        "step": checkpoint.step,
        "config": checkpoint.config,
        "callbacks": checkpoint.callbacks,
    }
    text = json.dumps(state, indent=2, allow_nan=False) + "\n"
    _parse(text.encode())  # nothing is written that could not be read
    files.change((folder / "state.json").write_bytes, text.encode())
    written = sorted(path for path in folder.iterdir() if path.name in _ALLOWED)
    for path in written:
        files.sync(path)
    manifest = {path.name: {"sha256": files.sha256(path), "size": path.stat().st_size} for path in written}
    files.change((folder / _MANIFEST).write_bytes, _manifest_text(manifest).encode())
    files.sync(folder / _MANIFEST)
    files.sync(folder)


def _manifest_text(files: Mapping[str, Mapping[str, Any]]) -> str:
    body = {"files": files, "format": _FORMAT, "version": _VERSION}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}, indent=2, sort_keys=True) + "\n"


def _read(path: Path, model: nn.Module | None) -> Checkpoint:
    _verify(path, model)
    try:
        state = _parse((path / "state.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}/state.json cannot be read: {error}. {_REMEDY}") from error
    is_known = isinstance(state, dict) and state.get("format") == _FORMAT and state.get("version") == _VERSION
    step = step_of(path)
    if not is_known or state.get("step") != step:
        raise FileError(f"{path}/state.json is not that of version {_VERSION} and of this step. {_REMEDY}")
    config, callbacks = state.get("config"), state.get("callbacks")
    if not isinstance(config, dict) or not isinstance(callbacks, dict):
        raise FileError(f"{path}/state.json lacks the settings or the state of the callbacks. {_REMEDY}")
    tensors = {
        name: read_tensors(path / f"{name}.safetensors", remedy=_REMEDY) for name in ("model", "optimizer", "rng")
    }
    if model is not None:
        check_tensors(
            model, tensors["model"], where=f"{path} was made with another model: its weights", remedy=_SAME_MODEL
        )
    return Checkpoint(step=step, config=config, callbacks=callbacks, path=path, **tensors)


def _parse(content: bytes) -> Any:
    """Return what JSON says, if that takes little memory.

    Raises:
        ValueError, RecursionError: It does not, or is no JSON.
    """
    num_values = sum(map(content.count, (b",", b"[", b"{")))  # those within texts too: there are few
    if len(content) > _MAX_JSON_BYTES or num_values > _MAX_JSON_VALUES:
        raise ValueError(f"it has {len(content):,} bytes and about {num_values:,} values, which are too many")
    return json.loads(content)


def _verify(path: Path, model: nn.Module | None) -> None:
    """Check every file of a checkpoint against the manifest, and the manifest against itself."""
    manifest_path = path / _MANIFEST
    try:
        if files.regular_size(manifest_path) > _MAX_JSON_BYTES:
            raise FileError(f"{manifest_path} is too large to be a manifest. {_REMEDY}")
        content = manifest_path.read_bytes()
        listed = _parse(content)["files"]
        if content != _manifest_text(listed).encode() or not _REQUIRED <= listed.keys() <= _ALLOWED:
            raise FileError(f"{manifest_path} is damaged, or of another version. {_REMEDY}")
        for name, expected in listed.items():
            size = files.regular_size(path / name)
            if size != expected["size"]:
                raise FileError(f"{path / name} has {size} bytes instead of {expected['size']}. {_REMEDY}")
            _check_size(path / name, size, model)
            if files.sha256(path / name) != expected["sha256"]:
                raise FileError(f"{path / name} is damaged: its SHA-256 is not the one in the manifest. {_REMEDY}")
    except FileNotFoundError as error:
        raise FileError(f"{error.filename} is missing. {_REMEDY}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, (FileError, DataError)):
            raise
        raise FileError(f"{manifest_path} cannot be read: {error!r}. {_REMEDY}") from error


def _check_size(path: Path, size: int, model: nn.Module | None) -> None:
    """Check, before a file is read, that it is not far larger than what `model` can have in it."""
    if model is None:
        return
    most = _FREE_BYTES + _BYTES_PER_NUMBER * sum(tensor.numel() for tensor in model.state_dict().values())
    if size > most:
        raise DataError(
            f"{path} was made with another model: it has {size:,} bytes, of at most {most:,}. {_SAME_MODEL}"
        )


_REMEDY = "Resume from an older checkpoint, or from a folder of them to take the newest valid one."
_SAME_MODEL = "Build the model with the same settings."
