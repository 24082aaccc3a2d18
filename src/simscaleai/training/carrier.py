"""Batches that are dicts, carried through Worldline's trainer, which knows its own batches only.

Every tensor of the dict is one of `Batch.extras`, under a name that says its place: "observations/joint_pos". Texts
travel as UTF-8 in a uint8 tensor, which stays in the CPU's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.errors import DataError

_TEXT = "~2"  # the end of the name of a text; in keys "~" and "/" are written "~0" and "~1"


def carry(samples: object, device: torch.device, *, are_real: bool = True) -> Batch:
    """Return a batch whose windows are the samples, on the device.

    Args:
        samples: A dict of tensors `[B, ...]`, lists of B texts, and dicts of them.
        device: Where tensors shall be. Pinned ones are not waited for.
        are_real: False lets them weigh nothing among the samples of other processes.

    Raises:
        DataError: It holds anything else, or tensors differ in B.
    """
    if not isinstance(samples, Mapping):
        raise DataError(
            f"A batch of the loader must be a dict of tensors; got a {type(samples).__name__}. "
            "Let the data set return dicts, or give the DataLoader a collate_fn that makes one."
        )
    named = dict(_flatten(samples, ""))
    sizes = {name: len(tensor) if tensor.ndim else -1 for name, tensor in named.items()}
    if len(set(sizes.values())) != 1 or -1 in sizes.values():
        raise DataError(f"All entries of a batch need one row per sample; got rows {_readable(sizes)}.")
    moved = {
        name: tensor if name.endswith(_TEXT) else tensor.to(device, non_blocking=tensor.is_pinned())
        for name, tensor in named.items()
    }
    nothing = torch.zeros(len(next(iter(named.values()))), 1, device=device)  # [B, 1]
    mask = torch.full_like(nothing, are_real, dtype=torch.bool)
    return Batch(
        obs=nothing,
        actions=nothing[..., None],
        rewards=nothing,
        terminations=torch.zeros_like(mask),
        is_first=mask,
        step_mask=mask,
        obs_mask=mask,
        extras=moved,
    )


def unpack(batch: Batch) -> dict[str, Any]:
    """Return the dict that `carry` was given."""
    samples: dict[str, Any] = {}
    for name, tensor in batch.extras.items():
        *parents, key = name.removesuffix(_TEXT).split("/")
        place = samples
        for parent in parents:
            place = place.setdefault(_unescaped(parent), {})
        place[_unescaped(key)] = _decode(tensor) if name.endswith(_TEXT) else tensor
    return samples


def columns_of(samples: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a dict by Worldline's names of columns: "obs.joint_pos", "actions"."""
    tensors = {name: tensor for name, tensor in _flatten(samples, "") if not name.endswith(_TEXT)}
    return {name.replace("observations/", "obs.", 1): tensor for name, tensor in tensors.items()}


def _flatten(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            part = str(key).replace("~", "~0").replace("/", "~1")
            yield from _flatten(item, f"{name}/{part}" if name else part)
    elif isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, np.ndarray):
        yield name, torch.from_numpy(value)
    elif isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        yield name + _TEXT, _encode(value)
    else:
        raise DataError(
            f"{_readable(name)} of a batch is a {type(value).__name__}; expected a tensor, a list of texts, or a dict."
        )


def _encode(texts: list[str] | tuple[str, ...]) -> Tensor:
    """Return texts as bytes `[B, L]` with zeros behind them."""
    encoded = [text.encode() for text in texts]
    rows = np.zeros((len(encoded), max(1, *map(len, encoded))), dtype=np.uint8)
    for row, text in zip(rows, encoded, strict=True):
        row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return torch.from_numpy(rows)


def _decode(rows: Tensor) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in rows.cpu().numpy()]


def _unescaped(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")


def _readable(value: object) -> str:
    return str(value).replace(_TEXT, "")
