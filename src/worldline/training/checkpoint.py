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

import dataclasses
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldline.errors import FileError
from worldline.files import sha256, sync

_FORMAT = "worldline-checkpoint"
_VERSION = 1
_MANIFEST = "manifest.json"
_REQUIRED = {"model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"}
_ALLOWED = _REQUIRED | {"config.json"}
_MAX_JSON_BYTES = 1 << 24
_NAME = re.compile(r"step_(\d{8,12})")
_UNFINISHED = ".saving_"


@runtime_checkable
class SavesPretrained(Protocol):
    """A model that writes its own `config.json` and `model.safetensors`."""

    def save_pretrained(self, path: Path) -> None:
        """Write both files into the directory `path`."""
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


def save_checkpoint(directory: Path, checkpoint: Checkpoint, model: nn.Module) -> Path:
    """Write `checkpoint` into `directory` and return its path, `directory/step_NNNNNNNN`.

    Raises:
        FileError: It cannot be written (disk full, no permission). Older checkpoints are as they were.
    """
    final = directory / f"step_{checkpoint.step:08d}"
    unfinished = directory / f"{_UNFINISHED}{final.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_unfinished(directory)
        unfinished.mkdir()
        _write(unfinished, checkpoint, model)
        unfinished.rename(final)
        sync(directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise FileError(
            f"Cannot save the checkpoint {final}: {str(error).rstrip('.')}. Older checkpoints are untouched. "
            "Choose a folder you may write to, with room for it."
        ) from error
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint `path`, or the newest valid one if `path` is a folder of checkpoints.

    Raises:
        FileError: `path` is a damaged checkpoint, or a folder without any valid one.
    """
    if _NAME.fullmatch(path.name) or (path / _MANIFEST).exists():
        return _read(path)
    candidates = list_checkpoints(path)
    for candidate in reversed(candidates):
        try:
            return _read(candidate)
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


def remove_unfinished(directory: Path) -> None:
    """Delete what saves that were killed have left in `directory`."""
    for leftover in directory.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover)


def _write(folder: Path, checkpoint: Checkpoint, model: nn.Module) -> None:
    if isinstance(model, SavesPretrained):
        model.save_pretrained(folder)
    else:
        save_file(_copies(checkpoint.model), folder / "model.safetensors")
    save_file(_copies(checkpoint.optimizer), folder / "optimizer.safetensors")
    save_file(_copies(checkpoint.rng), folder / "rng.safetensors")
    state = {
        "format": _FORMAT,
        "version": _VERSION,
        "step": checkpoint.step,
        "config": checkpoint.config,
        "callbacks": checkpoint.callbacks,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    files = sorted(path for path in folder.iterdir() if path.name in _ALLOWED)
    for path in files:
        sync(path)
    manifest = {path.name: {"sha256": sha256(path), "size": path.stat().st_size} for path in files}
    (folder / _MANIFEST).write_text(_manifest_text(manifest), encoding="utf-8")
    sync(folder / _MANIFEST)
    sync(folder)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a contiguous CPU copy of each: safetensors refuses those that share memory (tied or flat weights)."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _manifest_text(files: Mapping[str, Mapping[str, Any]]) -> str:
    body = {"files": files, "format": _FORMAT, "version": _VERSION}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}, indent=2, sort_keys=True) + "\n"


def _read(path: Path) -> Checkpoint:
    _verify(path)
    try:
        state = json.loads((path / "state.json").read_bytes())
        tensors = {name: load_file(path / f"{name}.safetensors") for name in ("model", "optimizer", "rng")}
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"{path} cannot be read: {error}. {_REMEDY}") from error
    is_known = isinstance(state, dict) and state.get("format") == _FORMAT and state.get("version") == _VERSION
    if not is_known or state.get("step") != step_of(path):
        raise FileError(f"{path}/state.json is not that of version {_VERSION} and of this step. {_REMEDY}")
    return Checkpoint(step=state["step"], config=state["config"], callbacks=state["callbacks"], path=path, **tensors)


def _verify(path: Path) -> None:
    """Check every file of a checkpoint against the manifest, and the manifest against itself."""
    manifest_path = path / _MANIFEST
    try:
        if manifest_path.stat().st_size > _MAX_JSON_BYTES:
            raise FileError(f"{manifest_path} is too large to be a manifest. {_REMEDY}")
        text = manifest_path.read_text(encoding="utf-8")
        files = json.loads(text)["files"]
        if text != _manifest_text(files) or not _REQUIRED <= files.keys() <= _ALLOWED:
            raise FileError(f"{manifest_path} is damaged, or of another version. {_REMEDY}")
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["size"]:
                raise FileError(f"{path / name} has {size} bytes instead of {expected['size']}. {_REMEDY}")
            if sha256(path / name) != expected["sha256"]:
                raise FileError(f"{path / name} is damaged: its SHA-256 is not the one in the manifest. {_REMEDY}")
    except FileNotFoundError as error:
        raise FileError(f"{error.filename} is missing. {_REMEDY}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{manifest_path} cannot be read: {error!r}. {_REMEDY}") from error


_REMEDY = "Resume from an older checkpoint, or from a folder of them to take the newest valid one."
