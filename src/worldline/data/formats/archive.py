"""Reading `.npz` files that nobody vouches for.

An `.npz` file is a zip archive of `.npy` arrays. Nothing is unpickled, and nothing is inflated before its declared size
has been found to be what its shape needs and the sum of all of them to be within a limit. What is inflated comes in
pieces of a few megabytes. Files that `numpy.savez` and `numpy.savez_compressed` write are read; other things that the
zip format allows (comments, encryption, other compression, folders, members that overlap or appear twice) are refused.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from worldline.episode import Array
from worldline.errors import FileError, nearest

PIECE_BYTES = 4 << 20  # what is read and checked at once

_MAX_DIRECTORY_BYTES = 256 << 10  # about 3,000 members
_MAX_HEADER_BYTES = 4096  # of a `.npy` header; NumPy writes 128
_MAX_FORTRAN_BYTES = 32 << 20  # column-major arrays are read whole
_MAX_ELEMENTS = 1 << 50
_LOCAL_HEADER_BYTES = 30  # without the name
_ENCRYPTED = 0x1
_DAMAGED = "It is damaged or was made to do harm. Restore it from a copy, or write it again."
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError, OverflowError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One array of an archive, known by its header alone."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    header_bytes: int
    num_bytes: int  # of the data
    info: zipfile.ZipInfo

    @property
    def num_rows(self) -> int:
        """Size of the first axis."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class Archive:
    """An open `.npz` file.

    Raises:
        FileError: It is missing, or not an archive that can be trusted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            directory_start = _check_end(self._file, self.size, self.path)
            try:
                self._zip = zipfile.ZipFile(self._file)
            except _BAD_ZIP as error:
                raise FileError(f"{self.path} has a broken table of contents ({error}). {_DAMAGED}") from error
            self._infos = self._checked_infos(directory_start)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    @property
    def keys(self) -> list[str]:
        """Names of the arrays, in the order of the file."""
        return list(self._infos)

    def member(self, key: str) -> Member:
        """Return what the header of one array says, after checking it against the size of the array.

        Raises:
            FileError: It holds objects or text, or its sizes contradict each other.
        """
        info = self._infos[key]
        with self._open_member(info) as stream:
            try:
                header, header_bytes = read_header(stream)
                descr, is_fortran, shape = parse_header(header)
            except _BAD_ZIP as error:
                raise FileError(f"{self.path}: {key!r} is not a .npy array ({error}). {_DAMAGED}") from error
        dtype = checked_dtype(self.path, key, descr)
        num_bytes = math.prod(shape) * dtype.itemsize
        if header_bytes + num_bytes != info.file_size:
            raise FileError(
                f"{self.path}: {key!r} declares shape {_short(shape)} of {dtype}, {num_bytes:,} bytes, but the archive "
                f"holds {info.file_size - header_bytes:,}. {_DAMAGED}"
            )
        is_fortran = is_fortran and len(shape) > 1
        if is_fortran and num_bytes > _MAX_FORTRAN_BYTES:
            raise FileError(
                f"{self.path}: {key!r} is stored column by column, and too large to be turned around. Save it with "
                f"np.ascontiguousarray({key})."
            )
        return Member(
            key=key,
            shape=shape,
            dtype=dtype,
            is_fortran=is_fortran,
            header_bytes=header_bytes,
            num_bytes=num_bytes,
            info=info,
        )

    def read(self, member: Member) -> Array:
        """Return a whole array."""
        order = "F" if member.is_fortran else "C"
        with self._open_data(member) as stream:
            data = self._take(stream, member, member.num_bytes)
            self._check_end_of(stream, member)
        return np.frombuffer(data, dtype=member.dtype).reshape(member.shape, order=order)  # type: ignore[call-overload,no-any-return]

    def pieces(self, member: Member) -> Iterator[Array]:
        """Return an array's rows in pieces of a few megabytes (at least one row)."""
        rows = max(1, PIECE_BYTES // max(1, member.row_bytes))
        counts = [min(rows, member.num_rows - start) for start in range(0, member.num_rows, rows)]
        return self.runs(member, counts)

    def runs(self, member: Member, counts: list[int]) -> Iterator[Array]:
        """Return an array's rows in pieces of the given numbers of rows, which sum to all of them."""
        if member.is_fortran:
            whole = np.ascontiguousarray(self.read(member))
            yield from np.split(whole, np.cumsum(counts)[:-1])
            return
        with self._open_data(member) as stream:
            for count in counts:
                data = self._take(stream, member, count * member.row_bytes)
                yield np.frombuffer(data, dtype=member.dtype).reshape(count, *member.shape[1:])
            self._check_end_of(stream, member)

    def _checked_infos(self, directory_start: int) -> dict[str, zipfile.ZipInfo]:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename
            if "/" in name or "\\" in name or "\0" in name or name.startswith("."):
                raise FileError(f"{self.path} has a member named {name[:80]!r}; arrays have plain names. {_DAMAGED}")
            key = name.removesuffix(".npy")
            if key in infos:
                raise FileError(f"{self.path} has {key[:80]!r} twice. {_DAMAGED}")
            if info.flag_bits & _ENCRYPTED:
                raise FileError(f"{self.path}: {key[:80]!r} is encrypted. Write the file again without encryption.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileError(
                    f"{self.path}: {key[:80]!r} is compressed in a way that NumPy does not use. Write the file again "
                    f"with np.savez or np.savez_compressed."
                )
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                raise FileError(f"{self.path}: the sizes of {key[:80]!r} contradict each other. {_DAMAGED}")
            infos[key] = info
        end = 0
        for info in sorted(infos.values(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise FileError(f"{self.path}: {info.filename[:80]!r} overlaps another member. {_DAMAGED}")
            end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
        if end > directory_start:
            raise FileError(f"{self.path} has members that reach beyond its end. {_DAMAGED}")
        return infos

    def _open_member(self, info: zipfile.ZipInfo) -> IO[bytes]:
        try:
            return self._zip.open(info)
        except (*_BAD_ZIP, RuntimeError) as error:
            raise FileError(f"{self.path}: {info.filename[:80]!r} cannot be read ({error}). {_DAMAGED}") from error

    def _open_data(self, member: Member) -> IO[bytes]:
        stream = self._open_member(member.info)
        self._take(stream, member, member.header_bytes)
        return stream

    def _take(self, stream: IO[bytes], member: Member, count: int) -> bytes:
        try:
            data = stream.read(count)
        except _BAD_ZIP as error:
            raise FileError(f"{self.path}: {member.key!r} cannot be read ({error}). {_DAMAGED}") from error
        if len(data) != count:
            raise FileError(f"{self.path}: {member.key!r} ends too early. {_DAMAGED}")
        return data

    def _check_end_of(self, stream: IO[bytes], member: Member) -> None:
        """Check that nothing follows; reading on is also what makes `zipfile` compare the checksum."""
        try:
            surplus = stream.read(1)
        except _BAD_ZIP as error:
            raise FileError(f"{self.path}: {member.key!r} cannot be read ({error}). {_DAMAGED}") from error
        if surplus:
            raise FileError(f"{self.path}: {member.key!r} is longer than it says. {_DAMAGED}")


def _open(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is {'a folder' if path.is_dir() else 'a device'}; expected an .npz file.")
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        folder = path.parent
        if not folder.is_dir():
            raise FileError(f"{path} does not exist, and neither does the folder {folder}.") from error
        names = sorted(item.name for item in folder.iterdir() if item.suffix == path.suffix)[:50]
        hint = nearest(path.name, names) if names else f"The folder {folder} has no {path.suffix or 'such'} files."
        raise FileError(f"{path} does not exist. {hint}") from error
    except OSError as error:
        raise FileError(f"{path} cannot be opened: {error.strerror}. Check that you may read it.") from error


def _check_end(file: IO[bytes], size: int, path: Path) -> int:
    """Check the end of the archive as strictly as `zipfile` is lenient; return where its table of contents starts.

    `zipfile` reads a table of contents of any size into memory, from wherever the end record says it is. So the record
    must be the very end of the file, and the table must be small and directly before it.
    """
    start = file.read(6)
    file.seek(max(0, size - 98))
    tail = file.read(98)
    file.seek(0)
    if not start.startswith(b"PK\x03\x04"):
        raise FileError(
            f"{path} is not an .npz file, but {_kind_of(start)}. Save it with np.savez, or as another format "
            "of docs/formats.md."
        )
    if size < 22 or tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise FileError(f"{path} has no table of contents at its end: it was cut off. {_DAMAGED}")
    directory_bytes, directory_start = struct.unpack("<2L", tail[-10:-2])
    end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":  # a 64-bit end record comes first
        (record_start,) = struct.unpack("<Q", tail[-34:-26])
        end = size - 98
        if len(tail) < 98 or tail[:4] != b"PK\x06\x06" or record_start != end:
            raise FileError(f"{path} has a broken table of contents. {_DAMAGED}")
        directory_bytes, directory_start = struct.unpack("<2Q", tail[40:56])
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise FileError(
            f"{path} has a table of contents of {directory_bytes:,} bytes; that of a data set has fewer than "
            f"{_MAX_DIRECTORY_BYTES:,}. {_DAMAGED}"
        )
    if directory_start + directory_bytes != end:
        raise FileError(f"{path} has a broken table of contents. {_DAMAGED}")
    return int(directory_start)


def _kind_of(start: bytes) -> str:
    kinds = {
        b"\x93NUMPY": "a single .npy array",
        b"\x89HDF": "an HDF5 file",
        b"\x80": "a pickle, which is never read",
        b"PK\x05\x06": "an empty archive",
    }
    found = [kind for magic, kind in kinds.items() if start.startswith(magic)]
    return found[0] if found else "something else" if start else "empty"


def read_header(stream: IO[bytes]) -> tuple[bytes, int]:
    """Return the header of a `.npy` array, and how many bytes precede the data."""
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise ValueError("it does not start as one")
    length_format = "<H" if magic[6] == 1 else "<I"
    length_bytes = struct.calcsize(length_format)
    (length,) = struct.unpack(length_format, stream.read(length_bytes))
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, of at most {_MAX_HEADER_BYTES:,}")
    header = stream.read(length)
    if len(header) != length:
        raise ValueError("its header ends too early")
    return header, 8 + length_bytes + length


def parse_header(header: bytes) -> tuple[Any, bool, tuple[int, ...]]:
    """Return descr, whether it is column-major, and the shape that a `.npy` header gives; ValueError if it is none."""
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("its header is not a Python literal") from error
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header has other fields than descr, fortran_order and shape")
    shape, is_fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("its shape is not a tuple of sizes")
    if math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError("its shape has more elements than any memory")
    if not isinstance(is_fortran, bool):
        raise ValueError("fortran_order is neither True nor False")
    return fields["descr"], is_fortran, shape


def checked_dtype(path: Path, key: str, descr: Any) -> np.dtype[Any]:
    """Return the dtype that a `.npy` header gives, if it is of plain numbers.

    Raises:
        FileError: It is not; nothing else is read, objects least of all.
    """
    if isinstance(descr, str):
        if "O" in descr:
            raise FileError(
                f"{path}: {key!r} holds Python objects, which only unpickling could read and which may run code. It is "
                f"not read. Save it as numbers: np.asarray({key}, dtype=np.float32)."
            )
        try:
            dtype = np.dtype(descr)
        except (TypeError, ValueError) as error:
            raise FileError(f"{path}: {key!r} has the unknown dtype {descr[:40]!r}. {_DAMAGED}") from error
        if dtype.kind in "biuf" and dtype.itemsize <= 8:
            return dtype
    raise FileError(
        f"{path}: {key!r} has dtype {str(descr)[:80]}; expected plain numbers. Save it as numbers: "
        f"np.asarray({key}, dtype=np.float32)."
    )


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 80 else f"{text[:80]}..."
