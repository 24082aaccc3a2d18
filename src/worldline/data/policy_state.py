"""What a policy remembers between calls, taken apart into tensors and put together again.

A state is a family's own class. It is made of dataclasses, tuples, lists and dicts with tensors or None at the leaves,
so a state of the same make can be filled with the tensors of another one.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError
from torch import Tensor

from worldline.episode import Array
from worldline.errors import DataError


def tensors_of(state: Any) -> list[Tensor]:
    """Return the tensors of a state, in a fixed order.

    Raises:
        DataError: It holds something that is not a tensor, which would be lost.
    """
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [state]
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        parts = [getattr(state, field.name) for field in dataclasses.fields(state)]
    elif isinstance(state, Mapping):
        parts = list(state.values())
    elif isinstance(state, tuple | list):
        parts = list(state)
    else:
        raise DataError(f"A policy's state holds a {type(state).__name__}, which cannot be saved. Keep it to tensors.")
    return [tensor for part in parts for tensor in tensors_of(part)]


def with_tensors(template: Any, tensors: Sequence[Tensor]) -> Any:
    """Return a state of the make of `template` that holds `tensors`, on the template's devices and in its dtypes.

    Raises:
        DataError: They are not as many, or of other shapes.
    """
    needed = tensors_of(template)
    if [tensor.shape for tensor in needed] != [tensor.shape for tensor in tensors]:
        raise DataError("The policy remembers other things than the one that was saved. Resume with the same model.")
    return _filled(template, iter(tensors))


def pack(arrays: Mapping[str, Array]) -> str:
    """Return arrays as text that `unpack` reads: safetensors in base64."""
    return base64.b64encode(safetensors.numpy.save(dict(arrays))).decode("ascii")


def unpack(text: str) -> dict[str, Array]:
    """Return what `pack` was given.

    Raises:
        DataError: It is damaged.
    """
    try:
        arrays: dict[str, Array] = safetensors.numpy.load(base64.b64decode(text, validate=True))
    except (ValueError, SafetensorError) as error:
        raise DataError(f"The saved state of the environments is damaged: {error}. Use an older checkpoint.") from error
    return arrays


def _filled(template: Any, tensors: Iterator[Tensor]) -> Any:
    if template is None:
        return None
    if isinstance(template, Tensor):
        return next(tensors).to(template)
    if isinstance(template, Mapping):
        return {key: _filled(part, tensors) for key, part in template.items()}
    if isinstance(template, tuple | list):
        return type(template)(_filled(part, tensors) for part in template)
    changes = {field.name: _filled(getattr(template, field.name), tensors) for field in dataclasses.fields(template)}
    return dataclasses.replace(template, **changes)
