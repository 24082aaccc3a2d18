"""What every model is: a module with a loss, parameter groups and a directory to be saved in.

A saved model is a directory of two files, `config.json` (family, configuration, size and SHA-256 of the weights) and
`model.safetensors`. Nothing in it is ever unpickled or run.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldline import files
from worldline.batch import PLAIN_WINDOWS, Batch, Obs, WindowSpec
from worldline.config import to_dict
from worldline.errors import DataError, FileError, shown
from worldline.protocols import ParamGroup
from worldline.tensor_files import RESTORE, check_tensors, read_tensors, write_tensors

ModelT = TypeVar("ModelT", bound=nn.Module)

_FORMAT = "worldline-model"
_VERSION = 1
_MAX_CONFIG_BYTES = 1 << 16  # usual are some thousand; it also bounds how many observations can be named


class Model(nn.Module, abc.ABC):
    """A trainable model. Subclasses define `family`, take their config, and give a loss."""

    family: ClassVar[str]
    samples_actions: ClassVar[bool] = False  # where it acts: whether it is meant to sample; see `protocols.Samples`
    windows: WindowSpec = PLAIN_WINDOWS  # which it learns from; see `protocols.ChoosesWindows`

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

    def after_update(self) -> None:
        """Do what follows each optimiser step; by default nothing."""

    def save_pretrained(self, path: str | os.PathLike[str], *, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write `config.json` and `model.safetensors` into the directory `path`.

        Both are written in full beside their places before either is renamed, so that a crash or a full disk leaves
        an older model as it was. A crash between the two renames leaves a pair that does not match; loading refuses it.

        Args:
            path: The directory.
            state_dict: What to write instead of the present `state_dict()`, such as a copy from an earlier step.

        Raises:
            FileError: The directory cannot be written.
        """
        directory = Path(path)
        try:
            files.make_folders(directory)
            with files.replacing(directory / "model.safetensors", directory / "config.json") as (weights, config):
                write_tensors(weights, self.state_dict() if state_dict is None else state_dict)
                document = {
                    "format": _FORMAT,
                    "version": _VERSION,
                    "family": self.family,
                    "config": to_dict(self.config),
                    "weights": {"size": weights.stat().st_size, "sha256": files.sha256(weights)},
                }
                files.change(config.write_bytes, (json.dumps(document, indent=2) + "\n").encode())
        except OSError as error:
            raise FileError(
                f"Cannot save the model in {directory}: {error}. Choose a folder you may write to, with room for it."
            ) from error


class LatentState(Protocol):
    """What every family's state has: a way to index, detach or move all its tensors."""

    def map(self, function: Callable[[Tensor], Tensor], /) -> Any:
        """Return the state with `function` applied to every tensor."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """An imagined future, time first: H steps of B trajectories."""

    rewards: Tensor  # [H, B], expected reward of each step
    continues: Tensor  # [H, B], probability in [0, 1] that the episode goes on after the step
    states: Any  # the family's `LatentState` after each step, leaves [H, B, ...]


class WorldModel(Model):
    """A model that encodes observations, imagines what actions lead to, and acts.

    Its states are a family's own class, a `LatentState`.
    """

    decodes: ClassVar[bool] = True  # whether `decode` turns states into observations, or says why it cannot

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
    tensors: dict[str, Tensor]  # mapped from the file: memory is used where they are read


def read_pretrained(path: str | os.PathLike[str]) -> Pretrained:
    """Read and verify a directory that `save_pretrained` wrote, in constant memory.

    Raises:
        FileError: A file is missing, damaged or of another format; the message names it.
    """
    directory = Path(path)
    document = _read_document(directory)
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise FileError(f"{directory} has no model.safetensors. {RESTORE}")
    try:
        _verify(weights, document["weights"])
    except OSError as error:
        raise error if isinstance(error, FileError) else FileError(f"Cannot read {weights}: {error}.") from error
    tensors = read_tensors(weights)
    return Pretrained(family=document["family"], config=document["config"], tensors=tensors)


def build_outline(build: Callable[[], ModelT], *, num_tensors: int) -> ModelT:
    """Return `build()` on the meta device: a model with shapes, without memory for them.

    A configuration can ask for any size, and for any number of layers: a model that is to receive `num_tensors` tensors
    is given up as soon as building it takes far more work than that. Other threads may build models meanwhile.

    Raises:
        DataError: It does, or its sizes are beyond what can be counted.
    """
    try:
        with torch.device("meta"), _Bounded(num_tensors):
            return build()
    except RuntimeError as error:
        raise DataError(str(error)) from error


def num_trained(model: nn.Module) -> int:
    """Return the number of parameters that training changes by gradients: without copies such as a slow critic."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `tensors` into `model`, all of them and no others.

    Raises:
        DataError: See `check_tensors`; the model is unchanged.
    """
    check_tensors(model, tensors, where=where)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(tensors[name])


class _Bounded(TorchFunctionMode):
    """A context of one thread in which torch may be called so often that `num_tensors` tensors can be made."""

    def __init__(self, num_tensors: int) -> None:
        super().__init__()
        self._num_tensors = num_tensors
        self._calls_left = 64 * num_tensors + 256  # a layer takes about five calls for each of its tensors

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._calls_left -= 1
        if self._calls_left == -1:  # once: on the way out, `no_grad` has to put the gradients' mode back through here
            raise DataError(f"far more parameters than the {self._num_tensors} tensors that were saved")
        return func(*args, **(kwargs or {}))


def _read_document(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        found = "nothing is there" if not directory.exists() else "it has no config.json"
        raise FileError(f"{directory} is not a saved model: {found}. Expected a folder that save_pretrained wrote.")
    size = path.stat().st_size
    if size > _MAX_CONFIG_BYTES:
        raise FileError(f"{path} has {size} bytes; a configuration has at most {_MAX_CONFIG_BYTES}. {RESTORE}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested thousands deep
        raise FileError(f"{path} is not valid JSON: {error}. {RESTORE}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise FileError(
            f'{path} does not describe a Worldline model (its "format" is not {_FORMAT!r}). '
            "Give a folder that save_pretrained wrote."
        )
    if document.get("version") != _VERSION:
        raise FileError(
            f"{path} has format version {shown(document.get('version'))}; this release reads {_VERSION}. "
            "Install the release of Worldline that wrote it, or save the model again."
        )
    weights = document.get("weights")
    complete = (
        isinstance(document.get("family"), str)
        and isinstance(document.get("config"), dict)
        and isinstance(weights, dict)
        and isinstance(weights.get("size"), int)
        and isinstance(weights.get("sha256"), str)
    )
    if not complete:
        raise FileError(f"{path} lacks family, config or weights. {RESTORE}")
    return document


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if size != expected["size"]:
        raise FileError(f"{path} has {size} bytes, but config.json says {shown(expected['size'])}. {RESTORE}")
    if files.sha256(path) != expected["sha256"]:
        raise FileError(f"{path} is damaged: its SHA-256 is not the one in config.json. {RESTORE}")
