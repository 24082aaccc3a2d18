"""Writing `.npz` files piece by piece, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldline.episode import Array
from worldline.errors import FileError


class ArchiveWriter:
    """An `.npz` file that is being written; see `new_archive`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any], pieces: Iterable[Array]) -> None:
        """Write one array `[rows, *shape[1:]]`, given as pieces of its rows in order."""
        info = zipfile.ZipInfo(f"{key}.npy")  # its date is fixed, so that equal arrays make equal files
        info.compress_type = self._archive.compression
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with self._archive.open(info, "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for piece in pieces:
                stream.write(
                    piece.tobytes() if piece.ndim == 0 or piece.size == 0 else np.ascontiguousarray(piece).data
                )


@contextlib.contextmanager
def new_archive(path: Path, *, compress: bool) -> Iterator[ArchiveWriter]:
    """Write to a sibling of `path`, which takes its place once all of it is on the disk.

    Raises:
        FileError: The file cannot be written. What was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    try:
        try:
            with temporary.open("wb") as file:
                with zipfile.ZipFile(file, "w", method) as archive:
                    yield ArchiveWriter(archive)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}. Choose a folder you may write to.") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
