"""Writing `.npz` files piece by piece, whole or not at all."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldline.episode import Array
from worldline.errors import FileError
from worldline.files import replacing


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
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    try:
        with replacing(path) as (beside,), zipfile.ZipFile(beside, "w", method) as archive:
            yield ArchiveWriter(archive)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}. Choose a folder you may write to.") from error
