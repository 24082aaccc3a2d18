"""Columns of rows on disk, mapped into memory: data larger than RAM, shared by all processes that read it.

A folder has one `.npy` file per column, with the rows as `store.RowStore` lays them out (an episode's steps, then its
closing row, episode after episode), and

| file            |                                                                                             |
|-----------------|---------------------------------------------------------------------------------------------|
| `manifest.json` | what the columns are, how many rows, steps and episodes there are, SHA-256 of every file    |
| `episodes.npy`  | `[E, 3]` int64: first row, number of steps, whether it was cut off                          |
| `meta.jsonl`    | one JSON object per episode, if any has a `meta`                                            |

Any program that maps `.npy` files can read them. The folder is written episode by episode in constant memory, beside
its place, and renamed once all of it is on the disk. Opening one reads the manifest, the index and the header of every
column, and compares the size of every file with what those say; `verify` compares the digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.encode import data_spec
from worldline.data.formats.archive import checked_dtype, parse_header, read_header
from worldline.data.formats.recording import MAX_ROW_BYTES, max_meta_bytes
from worldline.data.shapes import checked_sizes
from worldline.data.store import is_obs
from worldline.episode import Array, DataSpec, check_obs_key, unnamed_obs
from worldline.errors import DataError, FileError, WorldlineError
from worldline.files import regular_size, sha256

MANIFEST, EPISODES, META = "manifest.json", "episodes.npy", "meta.jsonl"

KIND, VERSION = "worldline-columns", 1
_MAX_MANIFEST_BYTES = 1 << 20
FIRST, STEPS, TRUNCATED = range(3)  # columns of the index
_DAMAGED = "It is damaged or was changed. Restore it from a copy, or write it again."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says."""

    spec: DataSpec
    num_rows: int
    num_steps: int
    num_episodes: int
    columns: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]  # shape of one row and dtype
    sha256: Mapping[str, str]  # by file name


class ColumnStore:
    """The columns in a folder: an `EpisodeStore` that cannot change.

    Args:
        path: The folder.
        obs_keys: The observations to show, where they are a dict; None: all.

    Raises:
        FileError: It is missing, damaged or not such a folder.
        DataError: There is no such observation.
    """

    version = 0

    def __init__(self, path: str | os.PathLike[str], obs_keys: Sequence[str] | None = None) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self.num_rows = self.manifest.num_rows
        self.columns = {
            name: _mapped(self.path / f"{name}.npy", (self.num_rows, *shape), dtype)
            for name, (shape, dtype) in self.manifest.columns.items()
        }
        self.spec = self.manifest.spec
        if obs_keys is not None:
            self._keep(obs_keys)
        index = np.array(_mapped(self.path / EPISODES, (self.manifest.num_episodes, 3), np.dtype(np.int64)))
        _check_index(self.path, index, self.manifest)
        self._index = index
        self._meta: Sequence[Mapping[str, Any]] | None = None

    @property
    def first_rows(self) -> Array:
        """`[E]` row of each episode's first step."""
        return self._index[:, FIRST]

    @property
    def steps(self) -> Array:
        """`[E]` number of steps of each episode."""
        return self._index[:, STEPS]

    @property
    def truncated(self) -> Array:
        """`[E]` bool, whether each episode was cut off by a time limit."""
        return self._index[:, TRUNCATED].astype(bool)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._index)

    @property
    def num_steps(self) -> int:
        """Number of steps, over all episodes."""
        return int(self.steps.sum())

    @property
    def meta(self) -> Sequence[Mapping[str, Any]]:
        """What is known of each episode; read when it is first asked for.

        Raises:
            FileError: The file is damaged.
        """
        if self._meta is None:
            self._meta = _read_meta(self.path, self.manifest)
        return self._meta

    def keep_episodes(self, indices: Array) -> None:
        """Show only the episodes with these numbers, `[E]`, in order."""
        self._meta = [self.meta[index] for index in indices.tolist()]
        self._index = self._index[indices]

    def verify(self) -> None:
        """Compare all files with their digests, which reads all of them.

        Raises:
            FileError: One has changed since it was written.
        """
        for name, digest in self.manifest.sha256.items():
            if sha256(self.path / name) != digest:
                raise FileError(f"{self.path / name} is not what it was when it was written. {_DAMAGED}")

    def _keep(self, obs_keys: Sequence[str]) -> None:
        shapes = self.spec.obs_shape
        known = list(shapes) if isinstance(shapes, dict) else []
        if not obs_keys or any(key not in known for key in obs_keys):
            found = f"the observations {', '.join(known)}" if known else "one observation, without keys"
            raise DataError(f"obs_keys is {list(obs_keys)}, but {self.path} has {found}. Give some of those.")
        assert isinstance(shapes, dict)
        kept = {f"obs.{key}" for key in obs_keys}
        self.columns = {name: column for name, column in self.columns.items() if not is_obs(name) or name in kept}
        self.spec = dataclasses.replace(self.spec, obs_shape={key: shapes[key] for key in shapes if key in obs_keys})


def is_columns(path: Path) -> bool:
    """Tell whether a path is a folder of columns."""
    manifest = path / MANIFEST
    try:
        if regular_size(manifest) > _MAX_MANIFEST_BYTES:
            return False
        return f'"{KIND}"'.encode() in manifest.read_bytes()
    except OSError:
        return False


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        if regular_size(path) > _MAX_MANIFEST_BYTES:
            raise FileError(f"{path} has more than {_MAX_MANIFEST_BYTES:,} bytes. {_DAMAGED}")
        described = json.loads(path.read_bytes())
    except WorldlineError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"{path} cannot be read ({error}). Give a folder that worldline convert has written."
        ) from error
    try:
        if described["kind"] != KIND:
            raise FileError(f"{path} is no manifest of columns. Give a folder that worldline convert has written.")
        if described["version"] != VERSION:
            raise FileError(f"{path} is of version {described['version']}; this release reads {VERSION}. Update it.")
        return _checked(path, described)
    except WorldlineError as error:
        raise FileError(f"{path}: {error} {_DAMAGED}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} lacks something, or has it wrong ({error!r}). {_DAMAGED}") from error


def _checked(path: Path, described: Mapping[str, Any]) -> Manifest:
    columns: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, column in described["columns"].items():
        shape, dtype = tuple(column["shape"]), checked_dtype(path, name, column["dtype"])
        if not all(type(size) is int and size > 0 for size in shape) or len(shape) > 16:
            raise DataError(f"{name} has rows of shape {column['shape']!r}.")
        if math.prod(shape) * dtype.itemsize > MAX_ROW_BYTES:
            raise DataError(f"{name} has rows of {shape}; at most {MAX_ROW_BYTES:,} bytes.")
        if name not in ("actions", "rewards", "flags", "task"):
            if not is_obs(name):
                raise DataError(f"{name[:80]!r} is no column.")
            check_obs_key(name[:80], name)
        columns[name] = shape, dtype
    fixed = {"rewards": ((), np.dtype(np.float32)), "flags": ((4,), np.dtype(np.bool_))}
    action_shape, action_dtype = columns["actions"]
    if any(columns[name] != kind for name, kind in fixed.items()) or action_dtype != np.float32:
        raise DataError("Actions, rewards or flags have another shape or dtype than expected.")
    shapes = {name: shape for name, (shape, _) in columns.items() if is_obs(name)}
    if not shapes or ("obs" in shapes and len(shapes) > 1):
        raise DataError("Expected one column obs, or one or more named obs.KEY.")
    (action_dim,) = action_shape
    spec = data_spec(unnamed_obs(shapes), action_dim, checked_sizes(tuple(described["action_sizes"]), action_dim))
    counts = {key: described[key] for key in ("num_rows", "num_steps", "num_episodes")}
    if not all(type(count) is int and 0 < count < 1 << 48 for count in counts.values()):
        raise DataError(f"The numbers of rows, steps and episodes are {counts}.")
    digests = {str(name): str(digest) for name, digest in described["sha256"].items()}
    files = {EPISODES, *(f"{name}.npy" for name in columns)}
    if not files <= digests.keys() <= files | {META}:
        raise DataError("The digests are not those of the columns.")
    return Manifest(spec=spec, columns=columns, sha256=digests, **counts)


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a `.npy` file as an array that is read when it is looked at."""
    try:
        if path.is_symlink():
            raise FileError(f"{path} is a link, which is not followed. Write the folder again.")
        size = regular_size(path)
        with path.open("rb") as file:
            header, header_bytes = read_header(file)
        descr, is_fortran, found = parse_header(header)
    except WorldlineError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} cannot be read ({error}). {_DAMAGED}") from error
    if found != shape or is_fortran or descr != dtype.str:
        raise FileError(f"{path} has {str(found)[:80]} of {str(descr)[:80]}; expected {shape} of {dtype}. {_DAMAGED}")
    if size != (expected := header_bytes + math.prod(shape) * dtype.itemsize):
        raise FileError(f"{path} has {size:,} bytes; expected {expected:,}. {_DAMAGED}")
    return np.memmap(path, dtype=dtype, mode="r", offset=header_bytes, shape=shape)


def _check_index(path: Path, index: Array, manifest: Manifest) -> None:
    rows = index[:, STEPS] + 1
    is_sound = (
        bool((index[:, STEPS] >= 1).all() and (index[:, STEPS] <= manifest.num_steps).all())
        and np.array_equal(index[:, FIRST], np.cumsum(rows) - rows)
        and int(rows.sum()) == manifest.num_rows
        and manifest.num_rows - manifest.num_episodes == manifest.num_steps
    )
    flags = index[:, TRUNCATED]
    if not is_sound or not ((flags == 0) | (flags == 1)).all():
        raise FileError(f"{path / EPISODES} does not fit the columns. {_DAMAGED}")


def _read_meta(folder: Path, manifest: Manifest) -> Sequence[Mapping[str, Any]]:
    if META not in manifest.sha256:
        return [{}] * manifest.num_episodes
    path = folder / META
    try:
        if path.is_symlink() or regular_size(path) > max_meta_bytes(manifest.num_episodes):
            raise FileError(f"{path} is a link, or too long. {_DAMAGED}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.sha256[META]:
            raise FileError(f"{path} is not what it was when it was written. {_DAMAGED}")
        meta = [json.loads(line) for line in content.splitlines()]
    except WorldlineError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read ({error}). {_DAMAGED}") from error
    if len(meta) != manifest.num_episodes or not all(isinstance(item, dict) for item in meta):
        raise FileError(f"{path} has not one object for each episode. {_DAMAGED}")
    return meta
