"""Tensors in safetensors files: what a file claims is checked before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldline import files
from worldline.errors import DataError, FileError

RESTORE = "Restore it from a copy, or train and save the model again."

_MAX_HEADER_BYTES = 1 << 21  # the header is JSON, which is read into memory as a whole
_MAX_TENSORS = 1 << 14


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` into a new file.

    Raises:
        OSError: It cannot be written.
        DataError: There are more of them than `read_tensors` takes.
    """
    if len(tensors) > _MAX_TENSORS:
        raise DataError(
            f"{len(tensors):,} tensors are more than a file may hold, {_MAX_TENSORS:,}. Stack some of them."
        )
    try:
        files.change(save_file, cpu_copies(tensors), path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    if (header_size := _header_size(path)) > _MAX_HEADER_BYTES:
        raise DataError(f"The names of {len(tensors):,} tensors take {header_size:,} bytes. Shorten them.")


def cpu_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a contiguous CPU copy of each: safetensors refuses those that share memory (tied or flat weights)."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def read_tensors(path: Path, *, remedy: str = RESTORE) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped: memory is used where they are read.

    Raises:
        FileError: It is no safetensors file, or claims more than it may; the message ends with `remedy`.
    """
    try:
        size = files.regular_size(path)
        header_size = _header_size(path)
        if not 0 < header_size <= min(_MAX_HEADER_BYTES, size - 8):
            raise FileError(f"{path} is not a safetensors file: its header claims {header_size} bytes. {remedy}")
        with safe_open(os.fspath(path), framework="pt") as file:
            names = file.keys()
            if len(names) > _MAX_TENSORS:
                raise FileError(f"{path} claims {len(names):,} tensors, more than {_MAX_TENSORS:,}. {remedy}")
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, RuntimeError, ValueError, OverflowError) as error:
        raise FileError(f"{path} is not a safetensors file: {str(error).splitlines()[0][:300]}. {remedy}") from error
    except OSError as error:
        raise error if isinstance(error, FileError) else FileError(f"Cannot read {path}: {error}. {remedy}") from error


def _header_size(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(8)
    return int.from_bytes(head, "little") if len(head) == 8 else 0


def check_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str, remedy: str = RESTORE) -> None:
    """Check that `tensors` are those of `model`, all of them and no others; `model` may be on the meta device.

    Raises:
        DataError: A tensor is missing, unknown, of another shape or of another kind of number.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise DataError(f"{where} lacks the tensor {name!r} of shape {tuple(tensor.shape)}. {remedy}")
        saved = tensors[name]
        if saved.shape != tensor.shape or saved.is_floating_point() != tensor.is_floating_point():
            raise DataError(
                f"{where}: {name!r} is {saved.dtype} of shape {tuple(saved.shape)}, "
                f"the model's is {tensor.dtype} of shape {tuple(tensor.shape)}. {remedy}"
            )
    if unknown := sorted(tensors.keys() - own.keys()):
        names = ", ".join(name[:200] for name in unknown[:5])
        raise DataError(f"{where} has tensors that the model does not know: {names}. {remedy}")
