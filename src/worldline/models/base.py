"""What every model is: a module with a loss, parameter groups and a directory to be saved in.

A saved model is a directory of two files, `config.json` (family, configuration, size and SHA-256 of the weights) and
`model.safetensors`. Nothing in it is ever unpickled or run.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from worldline.batch import Batch, Obs
from worldline.config import to_dict
from worldline.errors import DataError, FileError
from worldline.protocols import ParamGroup

_FORMAT = "worldline-model"
_VERSION = 1
_MAX_CONFIG_BYTES = 1 << 20
_MAX_WEIGHT_BYTES = 1 << 36


class Model(nn.Module, abc.ABC):
    """A trainable model. Subclasses define `family`, take their config, and give a loss."""

    family: ClassVar[str]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @abc.abstractmethod
    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return "loss", the scalar to minimise, and other detached scalars by name."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss: what a data-parallel wrapper calls."""
        return self.compute_loss(batch)

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return the parameters to optimise; by default all that take gradients, in one group."""
        return [ParamGroup(name="all", params=[p for p in self.parameters() if p.requires_grad])]

    def after_update(self) -> None:  # noqa: B027 - most models have nothing to do here
        """Do what follows each optimiser step; by default nothing."""

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` into the directory `path`, each atomically.

        Raises:
            FileError: The directory cannot be written.
        """
        directory = Path(path)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.state_dict().items()}
        weights = save_tensors(tensors)
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "family": self.family,
            "config": to_dict(self.config),
            "weights": {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()},
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _write_atomically(directory / "model.safetensors", weights)
            _write_atomically(directory / "config.json", (json.dumps(document, indent=2) + "\n").encode())
        except OSError as error:
            raise FileError(
                f"Cannot save the model in {directory}: {error}. Choose a folder you may write to."
            ) from error


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """An imagined future, time first: H steps of B trajectories."""

    rewards: Tensor  # [H, B], expected reward of each step
    continues: Tensor  # [H, B], probability in [0, 1] that the episode goes on after the step
    states: Any  # the family's state after each step, leaves [H, B, ...]


class WorldModel(Model):
    """A model that encodes observations, imagines what actions lead to, and acts."""

    @abc.abstractmethod
    def encode(self, obs: Obs) -> Any:
        """Return the state after a first observation, `obs [B, *obs]`."""

    @abc.abstractmethod
    def observe(self, batch: Batch) -> Any:
        """Return the state at every row of the batch (leaves `[B, T, ...]`), from its observations and actions."""

    @abc.abstractmethod
    def imagine(self, state: Any, actions: Tensor) -> Trajectory:
        """Return what `actions [H, B, A]` lead to from `state` (leaves `[B, ...]`)."""

    @abc.abstractmethod
    def decode(self, state: Any) -> Obs:
        """Return the observations that states (leaves `[..., *]`) stand for, float: images in [0, 1]."""

    @abc.abstractmethod
    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, Any]:
        """Choose actions for N environments; see `protocols.Policy`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a saved model's directory holds, read and verified."""

    family: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def read_pretrained(path: str | os.PathLike[str]) -> Pretrained:
    """Read and verify a directory that `save_pretrained` wrote.

    Raises:
        FileError: A file is missing, damaged or of another format; the message names it.
    """
    directory = Path(path)
    document = _read_document(directory)
    weights_path = directory / "model.safetensors"
    expected = document["weights"]
    size = weights_path.stat().st_size if weights_path.is_file() else -1
    if size < 0:
        raise FileError(f"{directory} has no model.safetensors. Save the model again, or restore the file from a copy.")
    if size != expected["size"] or size > _MAX_WEIGHT_BYTES:
        raise FileError(f"{weights_path} has {size} bytes, but config.json says {expected['size']}. {_RESTORE}")
    weights = weights_path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != expected["sha256"]:
        raise FileError(f"{weights_path} is damaged: its SHA-256 is not the one in config.json. {_RESTORE}")
    try:
        tensors = load_tensors(weights)
    except SafetensorError as error:
        raise FileError(f"{weights_path} is not a safetensors file: {error}. {_RESTORE}") from error
    return Pretrained(family=document["family"], config=document["config"], tensors=tensors)


def load_weights(model: nn.Module, tensors: dict[str, Tensor], *, where: str) -> None:
    """Copy `tensors` into `model`, all of them and no others.

    Raises:
        DataError: A tensor is missing, unknown or of another shape.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise DataError(f"{where} lacks the tensor {name!r} of shape {tuple(tensor.shape)}. {_RESTORE}")
        if tensors[name].shape != tensor.shape:
            raise DataError(
                f"{where}: {name!r} has shape {tuple(tensors[name].shape)}, the model's is {tuple(tensor.shape)}. {_RESTORE}"
            )
    if unknown := sorted(tensors.keys() - own.keys()):
        raise DataError(f"{where} has tensors that the model does not know: {', '.join(unknown[:5])}. {_RESTORE}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


_RESTORE = "Restore it from a copy, or train and save the model again."


def _read_document(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        found = "nothing is there" if not directory.exists() else "it has no config.json"
        raise FileError(f"{directory} is not a saved model: {found}. Expected a folder that save_pretrained wrote.")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise FileError(f"{path} has {path.stat().st_size} bytes; a configuration has fewer than {_MAX_CONFIG_BYTES}.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(f"{path} is not valid JSON: {error}. {_RESTORE}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise FileError(f'{path} does not describe a Worldline model (its "format" is not {_FORMAT!r}).')
    if document.get("version") != _VERSION:
        raise FileError(f"{path} has format version {document.get('version')!r}; this release reads {_VERSION}.")
    weights = document.get("weights")
    valid = (
        isinstance(document.get("family"), str)
        and isinstance(document.get("config"), dict)
        and isinstance(weights, dict)
        and isinstance(weights.get("size"), int)
        and isinstance(weights.get("sha256"), str)
    )
    if not valid:
        raise FileError(f"{path} lacks family, config or weights. {_RESTORE}")
    return document


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
