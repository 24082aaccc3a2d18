"""HDF5 files that nobody vouches for: which of their groups, arrays and attributes may be read, and reading them.

HDF5 can do much that data does not need and that harms: links to other files, arrays whose bytes lie elsewhere or do
not exist, filters that are loaded as plugins, a chunk of a megabyte that inflates to gigabytes. So only this is read:
hard links to groups and to arrays of plain numbers, contiguous or in chunks that are all there, as they are or with
gzip and shuffle. Chunks with gzip are inflated here and not by the library, which would inflate without a limit.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from worldline.data.formats.chunks import MAX_BAND_BYTES, ChunkedRows, inflate
from worldline.data.formats.hdf5_ragged import RaggedColumn, is_ragged
from worldline.data.formats.recording import DAMAGED, MAX_META_BYTES, MAX_ROW_BYTES, Recording, check_size
from worldline.episode import Array
from worldline.errors import DataError, FileError, WorldlineError, nearest, shown
from worldline.files import regular_size

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"

_GZIP, _SHUFFLE = 1, 2  # numbers of filters
_REPACK = "Write it again with: h5repack -f GZIP=4 OLD NEW"
_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)

RecordingT = TypeVar("RecordingT", bound=Recording)


def is_hdf5(path: Path) -> bool:
    """Tell whether a file starts as HDF5 files do."""
    try:
        regular_size(path)
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class HDF5File:
    """An open HDF5 file. A context manager.

    Args:
        path: The file.
        max_bytes: The most that its arrays may take together; None: what `recording.check_size` allows.

    Raises:
        FileError: It is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        import h5py

        self.path = Path(path)
        if not is_hdf5(self.path):
            what = "is not an HDF5 file" if self.path.exists() else "does not exist"
            raise FileError(f"{self.path} {what}. Give the name of an HDF5 file.")
        self.size = regular_size(self.path)
        self._declared: dict[str, int] = {}  # bytes of the arrays that were asked for
        self._num_bytes = 0  # of all of them
        self._max_bytes = max_bytes
        with self.errors("the file"):
            self._file = h5py.File(self.path, "r", locking=False)
        self.root = Group(self, self._file, "")

    def __enter__(self) -> HDF5File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def declare(self, name: str, num_bytes: int) -> None:
        """Note that the array `name` takes so much.

        Raises:
            FileError: All of them together take more than they may.
        """
        self._num_bytes += num_bytes - self._declared.get(name, 0)
        self._declared[name] = num_bytes
        check_size(self.path, self._num_bytes, self.size, self._max_bytes)

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn what the library raises while it reads `what` into a `FileError`."""
        try:
            yield
        except WorldlineError:
            raise
        except _ERRORS as error:
            raise FileError(f"{self.path}: {what} cannot be read ({shown(str(error))}). {DAMAGED}") from error


def opened(kind: Callable[[HDF5File], RecordingT], path: Path, max_bytes: int | None) -> RecordingT:
    """Return the recording that `kind` makes of the file; where it cannot, the file is closed.

    Raises:
        FileError: The file is missing, damaged or hostile, or not what `kind` reads.
        DataError: Its arrays do not fit together.
    """
    file = HDF5File(path, max_bytes)
    try:
        return kind(file)
    except BaseException:
        file.close()
        raise


class Group:
    """A group of an HDF5 file."""

    def __init__(self, file: HDF5File, group: h5py.Group, name: str) -> None:
        self.file = file
        self.name = name
        self._group = group
        with file.errors(name or "its contents"):
            self.keys: list[str] = list(group.keys())
            if any(not isinstance(key, str) for key in self.keys):
                raise FileError(f"{file.path}: {name or 'the file'} has names that are no text. {DAMAGED}")

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def require(self, *keys: str) -> None:
        """Check that the group has these.

        Raises:
            FileError: It lacks one.
        """
        if missing := [key for key in keys if key not in self.keys]:
            found = nearest(missing[0], [key[:80] for key in self.keys[:20]])
            raise FileError(f"{self.file.path}: {self.name or 'the file'} lacks {', '.join(missing)}. {found}")

    def is_group(self, key: str) -> bool:
        """Tell whether `key` is a group in this one."""
        import h5py

        return isinstance(self._item(key), h5py.Group)

    def group(self, key: str) -> Group:
        """Return the group `key` in this one.

        Raises:
            FileError: There is none, or it is a link to elsewhere.
        """
        import h5py

        item = self._item(key)
        if not isinstance(item, h5py.Group):
            raise FileError(f"{self.file.path}: {self._path(key)} is no group. Expected one with arrays in it.")
        return Group(self.file, item, self._path(key))

    def column(self, key: str) -> Column:
        """Return the array `key` in this group.

        Raises:
            FileError: There is none, or it is none that is read.
        """
        import h5py

        item = self._item(key)
        if not isinstance(item, h5py.Dataset):
            raise FileError(f"{self.file.path}: {self._path(key)} is a group. Expected an array of numbers.")
        return Column(self.file, item, self._path(key))

    def ragged(self, key: str) -> RaggedColumn | None:
        """Return the array `key` in this group if its rows are bytes or texts of any length.

        Raises:
            FileError: It is a link to elsewhere, or damaged.
        """
        import h5py

        item = self._item(key)
        with self.file.errors(self._path(key)):
            is_one = isinstance(item, h5py.Dataset) and is_ragged(item)
        return RaggedColumn(self.file, item, self._path(key)) if is_one else None

    def columns(self, depth: int = 2, *, ragged: dict[str, RaggedColumn] | None = None) -> dict[str, Column]:
        """Return all arrays of the group and of groups in it, by key, which has slashes where groups are nested.

        Args:
            depth: How deep they may be nested.
            ragged: Where to put those whose rows are bytes or texts; None refuses them.

        Raises:
            FileError: One is none that is read, or they are nested too deeply.
        """
        found: dict[str, Column] = {}
        for key in self.keys:
            if not self.is_group(key):
                if ragged is not None and (rows := self.ragged(key)) is not None:
                    ragged[key] = rows
                else:
                    found[key] = self.column(key)
            elif depth == 0:
                raise FileError(f"{self.file.path}: {self._path(key)} is nested too deeply. Expected arrays.")
            else:
                inner_ragged: dict[str, RaggedColumn] | None = None if ragged is None else {}
                inner = self.group(key).columns(depth - 1, ragged=inner_ragged)
                found |= {f"{key}/{name}": column for name, column in inner.items()}
                if ragged is not None:
                    ragged |= {f"{key}/{name}": column for name, column in (inner_ragged or {}).items()}
        return found

    def numbered(self, pattern: str) -> list[str]:
        """Return the keys that are a name and a number, such as "episode_7" or "episode_00007", in order of the number.

        Raises:
            FileError: Two have the same number.
        """
        by_number: dict[int, str] = {}
        for key in self.keys:
            if (match := re.fullmatch(rf"{pattern}([0-9]{{1,12}})", key)) is None:
                continue
            number = int(match[1])
            if number in by_number:
                raise FileError(f"{self.file.path} has both {by_number[number]} and {key}. Leave one of them out.")
            by_number[number] = key
        return [by_number[number] for number in sorted(by_number)]

    def text(self, name: str) -> str | None:
        """Return an attribute that is a text, or None.

        Raises:
            DataError: It is no text, or too long.
        """
        value = self._attribute(name)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if value is not None and (not isinstance(value, str) or len(value) > MAX_META_BYTES):
            raise DataError(f"{self.file.path}: the attribute {name} of {self.name} is no short text. Leave it out.")
        return value

    def numbers(self, name: str) -> list[float] | None:
        """Return an attribute that is one number or several, or None.

        Raises:
            DataError: It is none of that.
        """
        value = self._attribute(name)
        if value is None:
            return None
        array = np.atleast_1d(np.asarray(value))
        if array.dtype.kind not in "biuf" or array.ndim != 1 or not np.isfinite(array).all():
            raise DataError(f"{self.file.path}: the attribute {name} of {self.name} is no number. Leave it out.")
        return list(array.tolist())

    def flag(self, name: str) -> bool | None:
        """Return an attribute that is true or false, or None."""
        numbers = self.numbers(name)
        return None if not numbers else bool(numbers[0])

    def _attribute(self, name: str) -> Any:
        where = f"the attribute {name} of {self.name or 'the file'}"
        with self.file.errors(where):
            if name not in self._group.attrs:
                return None
            attribute = self._group.attrs.get_id(name)
            if (
                attribute.shape is None
                or len(attribute.shape) > 1
                or math.prod(attribute.shape) * attribute.dtype.itemsize > MAX_META_BYTES
            ):
                raise DataError(f"{self.file.path}: {where} is empty or too long. Leave it out.")
            return self._group.attrs[name]

    def _item(self, key: str) -> Any:
        import h5py

        self.require(key)
        with self.file.errors(self._path(key)):
            link = self._group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise FileError(
                    f"{self.file.path}: {self._path(key)} is a link to another file, {shown(link.filename)}, which is "
                    f"not followed. Write the data itself into one file."
                )
            if not isinstance(link, h5py.HardLink):
                raise FileError(
                    f"{self.file.path}: {self._path(key)} is a soft link, which is not followed. Write the data itself."
                )
            return self._group[key]

    def _path(self, key: str) -> str:
        return f"{self.name}/{shown(key)[1:-1]}" if self.name else shown(key)[1:-1]


class Column:
    """An array of an HDF5 file, known by what its header says.

    Raises:
        FileError: It is of a kind that is not read, or its sizes contradict each other.
    """

    def __init__(self, file: HDF5File, dataset: h5py.Dataset, name: str) -> None:
        self.name = name
        self._file = file
        self._dataset = dataset
        self._chunked: ChunkedRows | None = None
        with file.errors(name):
            self.shape: tuple[int, ...] = tuple(dataset.shape or ())
            self.dtype: np.dtype[Any] = dataset.dtype
            self._check_kind()
            self.num_bytes = math.prod(self.shape) * self.dtype.itemsize
            self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            file.declare(name, self.num_bytes)
            self._chunks: tuple[int, ...] | None = dataset.chunks
            self._filters = self._read_filters()
            self._check_storage()

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Return the rows from `start` to before `stop`; the end, if that is None. A new array.

        Raises:
            FileError: They cannot be read.
        """
        stop = self.shape[0] if stop is None else stop
        with self._file.errors(self.name):
            if not self._filters:
                return np.ascontiguousarray(self._dataset[start:stop])
            assert self._chunked is not None
            return self._chunked.read(start, stop)

    def _fail(self, what: str, fix: str = DAMAGED) -> FileError:
        return FileError(f"{self._file.path}: {self.name} {what}. {fix}")

    def _check_kind(self) -> None:
        dataset = self._dataset
        if dataset.is_virtual:
            raise self._fail("takes its rows from other files", "Write the data itself into one file.")
        if dataset.external:
            raise self._fail("has its numbers in another file", "Write the data itself into one file.")
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
            raise self._fail(f"holds {shown(str(self.dtype))}", "Expected plain numbers; leave it out, or convert it.")
        if not self.shape:
            raise self._fail("is a single number", "Expected one row per step.")

    def _read_filters(self) -> list[int]:
        creation = self._dataset.id.get_create_plist()
        filters = [creation.get_filter(index)[0] for index in range(creation.get_nfilters())]
        if filters not in ([], [_GZIP], [_SHUFFLE, _GZIP], [_SHUFFLE]):
            raise self._fail(f"is stored with the filters {filters}; only gzip and shuffle are read", _REPACK)
        return filters

    def _check_storage(self) -> None:
        if self.row_bytes > MAX_ROW_BYTES:
            raise self._fail(f"has rows of shape {self.shape[1:]}; expected at most {MAX_ROW_BYTES:,} bytes")
        if self._chunks is None:
            stored = self._dataset.id.get_storage_size()
            if stored != self.num_bytes:
                raise self._fail(f"declares {self.num_bytes:,} bytes, but {stored:,} are there")
            return
        chunk_bytes = math.prod(self._chunks) * self.dtype.itemsize
        if max(chunk_bytes, self._chunks[0] * self.row_bytes) > MAX_BAND_BYTES:
            raise self._fail(f"has chunks of {self._chunks}, too large to be read one by one", _REPACK)
        needed = math.prod(-(-size // chunk) for size, chunk in zip(self.shape, self._chunks, strict=True))
        if (there := self._dataset.id.get_num_chunks()) != needed:
            raise self._fail(f"has {there:,} of {needed:,} chunks: some rows were never written")
        self._chunked = ChunkedRows(self.shape, self._chunks, self.dtype, self._chunk)

    def _chunk(self, offset: tuple[int, ...]) -> Array:
        assert self._chunks is not None
        size = math.prod(self._chunks) * self.dtype.itemsize
        stored = self._dataset.id.get_chunk_info_by_coord(offset).size
        if stored > size + size // 100 + 1024:
            raise self._fail(f"has a chunk of {stored:,} bytes for {size:,}")
        skipped, data = self._dataset.id.read_direct_chunk(offset)
        for index, kind in reversed(list(enumerate(self._filters))):
            if not skipped >> index & 1:
                data = inflate(data, size) if kind == _GZIP else _unshuffle(data, self.dtype.itemsize)
        if len(data) != size:
            raise self._fail(f"has a chunk that holds {len(data):,} bytes, not {size:,}")
        return np.frombuffer(data, dtype=self.dtype).reshape(self._chunks)


def _unshuffle(data: bytes, itemsize: int) -> bytes:
    """Return numbers whose bytes were stored first bytes first, then second bytes, and so on."""
    count, rest = divmod(len(data), itemsize)
    body = np.frombuffer(data, dtype=np.uint8, count=count * itemsize)
    return bytes(body.reshape(itemsize, count).T.tobytes()) + data[len(data) - rest :]
