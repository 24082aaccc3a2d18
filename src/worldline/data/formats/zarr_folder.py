"""Arrays in zarr's format 2, a folder with a JSON header and one file per chunk: read with suspicion, and written.

Read are plain numbers in C order, in chunks that are stored as they are or compressed with zlib, gzip, blosc, lz4 or
zstd, the last three through the package `numcodecs`. A chunk that is not there has the fill value. Nothing is inflated
beyond the size that the header gives, and nothing outside the folder is opened.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.formats.archive import checked_dtype
from worldline.data.formats.chunks import MAX_BAND_BYTES, ChunkedRows, inflate
from worldline.data.formats.recording import DAMAGED, MAX_ROW_BYTES, check_size
from worldline.episode import Array
from worldline.errors import FileError, WorldlineError, missing_package, shown
from worldline.files import change, regular_size

_HEADER, _ATTRIBUTES, _GROUP = ".zarray", ".zattrs", ".zgroup"
_MAX_JSON_BYTES = 1 << 16
_MAX_ENTRIES = 1000  # of a group
_CHUNK_BYTES = 1 << 20  # of what is written
_HOW = "Write it again with zarr.save(..., compressor=numcodecs.Zlib()) in zarr's format 2."


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is an array of zarr."""
    return (path / _HEADER).is_file()


class ZarrFolder:
    """A folder of arrays.

    Args:
        path: The folder.
        max_bytes: The most that its arrays may take together; None: what `recording.check_size` allows.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._root = self.path.resolve()
        self._max_bytes = max_bytes
        self._num_bytes = self._file_bytes = 0

    def arrays(self, group: str) -> list[str]:
        """Return the names of the arrays in a group."""
        folder = self.inside(group)
        if not folder.is_dir():
            raise FileError(f"{self.path} lacks the group {group}. {_HOW}")
        names = [entry.name for entry in itertools.islice(os.scandir(folder), _MAX_ENTRIES)]
        return sorted(name for name in names if is_zarr(folder / name))

    def attributes(self, group: str) -> dict[str, Any]:
        """Return the attributes of a group, none if there is no file of them."""
        path = self.inside(group) / _ATTRIBUTES
        return self._json(path) if path.exists() else {}

    def array(self, name: str) -> ZarrArray:
        """Return the array `name`, known by its header.

        Raises:
            FileError: It is missing, or of a kind that is not read, or all arrays together would take too much.
        """
        folder = self.inside(name)
        if not is_zarr(folder):
            raise FileError(f"{self.path} lacks {name}. {_HOW}")
        array = ZarrArray(self, folder, self._json(folder / _HEADER))
        # Chunk files are counted, not read; there are as many as the array has chunks, or fewer.
        for entry in os.scandir(folder):
            self._file_bytes += entry.stat(follow_symlinks=False).st_size
        self._num_bytes += array.num_bytes
        check_size(self.path, self._num_bytes, self._file_bytes, self._max_bytes)
        return array

    def inside(self, name: str) -> Path:
        """Return the path of something in the folder.

        Raises:
            FileError: A link leads out of the folder.
        """
        path = self.path / name
        if not path.resolve().is_relative_to(self._root):
            raise FileError(f"{path} is a link that leads elsewhere, which is not followed. Write the data itself.")
        return path

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            if path.is_symlink() or regular_size(path) > _MAX_JSON_BYTES:
                raise FileError(f"{path} is a link, or has more than {_MAX_JSON_BYTES:,} bytes. {DAMAGED}")
            content = json.loads(path.read_bytes())
        except WorldlineError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"{path} cannot be read ({shown(str(error))}). {DAMAGED}") from error
        if not isinstance(content, dict):
            raise FileError(f"{path} is no JSON object. {DAMAGED}")
        return content


class ZarrArray:
    """An array of numbers in chunks."""

    def __init__(self, root: ZarrFolder, folder: Path, header: Mapping[str, Any]) -> None:
        self._root, self._folder = root, folder
        if header.get("zarr_format") != 2 or header.get("order") != "C" or header.get("filters"):
            raise FileError(f"{folder} is not in format 2, in C order and without filters. {_HOW}")
        self.dtype = checked_dtype(folder.parent, folder.name, header.get("dtype"))
        self.shape, chunks = (self._sizes(header.get(key), key) for key in ("shape", "chunks"))
        if not self.shape or len(chunks) != len(self.shape) or 0 in chunks:
            raise FileError(f"{folder} has shape {self.shape} in chunks of {chunks}. {DAMAGED}")
        self._separator = header.get("dimension_separator", ".")
        if self._separator not in (".", "/"):
            raise FileError(f"{folder} has the separator {shown(self._separator)}. {DAMAGED}")
        self.num_bytes = math.prod(self.shape) * self.dtype.itemsize
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._chunk_bytes = math.prod(chunks) * self.dtype.itemsize
        if row_bytes > MAX_ROW_BYTES or max(self._chunk_bytes, chunks[0] * row_bytes) > MAX_BAND_BYTES:
            raise FileError(f"{folder} has shape {self.shape} in chunks of {chunks}, too large to be read. {_HOW}")
        compressor = header.get("compressor")
        self._codec = compressor.get("id") if isinstance(compressor, dict) else compressor
        if self._codec not in (None, "zlib", "gzip", "blosc", "lz4", "zstd"):
            raise FileError(f"{folder} is compressed with {shown(self._codec)}, which is not read. {_HOW}")
        fill = header.get("fill_value") or 0
        if not isinstance(fill, (int, float)):
            raise FileError(f"{folder} has the fill value {shown(fill)}; expected a number. {DAMAGED}")
        self._chunks = chunks
        try:
            self._fill = np.full(chunks, fill, dtype=self.dtype)
        except OverflowError as error:
            raise FileError(
                f"{folder} has the fill value {shown(fill)}, which {self.dtype} lacks. {DAMAGED}"
            ) from error
        self._rows = ChunkedRows(self.shape, chunks, self.dtype, self._chunk)

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Return the rows from `start` to before `stop`; the end, if that is None. A new array.

        Raises:
            FileError: A chunk is damaged.
        """
        return self._rows.read(start, self.shape[0] if stop is None else stop)

    def _sizes(self, value: Any, key: str) -> tuple[int, ...]:
        if (
            isinstance(value, list)
            and len(value) <= 16
            and all(type(size) is int and 0 <= size < 1 << 48 for size in value)
        ):
            return tuple(value)
        raise FileError(f"{self._folder} has no {key} that is a list of sizes. {DAMAGED}")

    def _chunk(self, offset: tuple[int, ...]) -> Array:
        numbers = [str(at // size) for at, size in zip(offset, self._chunks, strict=True)]
        path = self._folder / self._separator.join(numbers)
        if not path.exists():
            return self._fill
        self._root.inside(str(path.relative_to(self._root.path)))
        try:
            if regular_size(path) > self._chunk_bytes + self._chunk_bytes // 50 + 1024:
                raise ValueError("it is larger than what it holds")
            data = self._decoded(path.read_bytes())
        except WorldlineError:
            raise
        except (OSError, ValueError, RuntimeError, struct.error) as error:
            raise FileError(f"{path} cannot be read ({shown(str(error))}). {DAMAGED}") from error
        return np.frombuffer(data, dtype=self.dtype).reshape(self._chunks)

    def _decoded(self, data: bytes) -> bytes:
        size = self._chunk_bytes
        if self._codec is None:
            claimed = len(data)
        elif self._codec in ("zlib", "gzip"):
            return inflate(data, size, is_gzip=self._codec == "gzip")
        elif self._codec == "blosc":
            claimed, _, stored = struct.unpack_from("<3I", data, 4)
            claimed = claimed if stored == len(data) else -1
        else:
            claimed = (
                struct.unpack_from("<I", data)[0] if self._codec == "lz4" else size
            )  # zstd is checked by its codec
        if claimed != size:
            raise ValueError(f"it does not hold {size:,} bytes")
        return data if self._codec is None else _decompress(self._codec, data, size)


def _decompress(codec: str, data: bytes, size: int) -> bytes:
    try:
        from numcodecs import blosc, lz4, zstd
    except ImportError as error:
        raise missing_package("numcodecs", "zarr", f"Reading zarr that is compressed with {codec}") from error
    room = bytearray(size)
    {"blosc": blosc, "lz4": lz4, "zstd": zstd}[codec].decompress(data, room)
    return bytes(room)


class ZarrWriter:
    """Writes groups and arrays into a folder, uncompressed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def group(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Write a group."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        change((folder / _GROUP).write_bytes, b'{"zarr_format": 2}')
        if attributes is not None:
            change((folder / _ATTRIBUTES).write_bytes, json.dumps(dict(attributes)).encode())

    def whole(self, name: str, array: Array) -> None:
        """Write an array that is in memory."""
        self.array(name, array.shape, array.dtype, [array])

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], pieces: Iterable[Array]) -> None:
        """Write an array, given as pieces of its rows in order."""
        folder = self._folder / name
        folder.mkdir()
        row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
        rows = max(1, min(shape[0], _CHUNK_BYTES // row_bytes))
        header = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": (rows, *shape[1:]),
            "dtype": dtype.str,
            "order": "C",
            "fill_value": 0,
            "filters": None,
            "compressor": None,
        }
        change((folder / _HEADER).write_bytes, json.dumps(header).encode())
        for number, chunk in enumerate(_chunked(pieces, rows)):
            whole = np.zeros((rows, *shape[1:]), dtype=dtype)
            whole[: len(chunk)] = chunk
            change((folder / ".".join([str(number), *["0"] * (len(shape) - 1)])).write_bytes, whole.tobytes())


def _chunked(pieces: Iterable[Array], rows: int) -> Iterator[Array]:
    """Return the rows of `pieces` in arrays of `rows` of them; the last may have fewer."""
    waiting: list[Array] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        while count >= rows:
            joined = np.concatenate(waiting)
            yield joined[:rows]
            waiting, count = [joined[rows:]], count - rows
    if count:
        yield np.concatenate(waiting)
