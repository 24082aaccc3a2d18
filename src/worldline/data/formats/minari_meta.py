"""What Minari says of a data set in `metadata.json`: of which kind its actions and its pictures are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.formats.recording import MAX_ROW_BYTES
from worldline.files import regular_size

_MAX_BYTES = 16 << 20  # bounds are listed for every pixel
_MAX_CHOICES = 1 << 20
_MIN_PICTURE = 32  # height and width of the smallest pictures that are stored as JPEG


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What is known of a data set; nothing where there is no such file."""

    action_sizes: tuple[int, ...] | None = None  # of discrete actions; None: see for yourself
    action_start: tuple[int, ...] = (0,)  # what stands for the first choice
    pictures: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # [H, W, 3] or [H, W] of JPEGs


def read_metadata(path: Path) -> Described:
    """Return what a `metadata.json` says; what is not understood is passed over."""
    try:
        if regular_size(path) > _MAX_BYTES:
            return Described()
        told: Any = json.loads(path.read_bytes())
        if not isinstance(told, dict):
            return Described()
        sizes, start = _choices(_space(told.get("action_space")))
        has_jpeg = told.get("jpeg_encoding") is True
        pictures = _pictures(_space(told.get("observation_space")), "") if has_jpeg else {}
    except (OSError, ValueError, RecursionError, TypeError):
        return Described()
    return Described(action_sizes=sizes, action_start=start, pictures=pictures)


def _space(told: Any) -> dict[str, Any]:
    space = json.loads(told) if isinstance(told, str) else told
    return space if isinstance(space, dict) else {}


def _choices(space: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Return how many choices there are of each discrete action, and the first of them."""
    kind, number = space.get("type"), space.get("n")
    found: Any = None
    if kind == "Discrete":
        found, start = [number], [space.get("start", 0)]
    elif kind == "MultiDiscrete":
        found, start = space.get("nvec"), space.get("start", 0)
    elif kind == "MultiBinary" and type(number) is int and 0 < number <= _MAX_CHOICES:
        found, start = [2] * number, [0]
    if not isinstance(found, list) or not found or any(type(size) is not int or size < 1 for size in found):
        return None, (0,)
    first = np.broadcast_to(np.asarray(start, dtype=np.int64), len(found))
    if not len(found) < sum(found) <= _MAX_CHOICES:  # a single choice is none
        return None, (0,)
    return tuple(found), tuple(first.tolist())


def _pictures(space: Mapping[str, Any], path: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all pictures that Minari stores as JPEG, by their keys."""
    kind, inner = space.get("type"), space.get("subspaces")
    if kind == "Dict" and isinstance(inner, dict):
        named = inner.items()
    elif kind == "Tuple" and isinstance(inner, list):
        named = {f"_index_{index}": part for index, part in enumerate(inner)}.items()
    else:
        is_box = kind == "Box" and space.get("dtype") == "uint8"
        return {path: tuple(space["shape"])} if is_box and _is_picture(space.get("shape")) else {}
    found: dict[str, tuple[int, ...]] = {}
    for key, part in named:
        found |= _pictures(_space(part), f"{path}/{key}" if path else str(key))
    return found


def _is_picture(shape: Any) -> bool:
    if not isinstance(shape, list) or any(type(size) is not int or size < 1 for size in shape):
        return False
    is_one = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    return is_one and min(shape[:2]) >= _MIN_PICTURE and int(np.prod(shape)) <= MAX_ROW_BYTES
