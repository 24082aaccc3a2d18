"""RaggedColumn: an array of an HDF5 file whose rows are bytes or texts of any length, read one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worldline.data.formats.recording import DAMAGED, MAX_ROW_BYTES
from worldline.errors import FileError

if TYPE_CHECKING:
    import h5py

    from worldline.data.formats.hdf5_file import HDF5File


def is_ragged(dataset: h5py.Dataset) -> bool:
    """Tell whether the rows of an array are texts, or bytes of any length."""
    import h5py

    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    return is_text or h5py.check_vlen_dtype(dataset.dtype) == np.uint8


class RaggedColumn:
    """An array for which `is_ragged` is true.

    Raises:
        FileError: Its rows are in other files, or it has no rows.
    """

    def __init__(self, file: HDF5File, dataset: h5py.Dataset, name: str) -> None:
        import h5py

        self.name = name
        self._file, self._dataset = file, dataset
        with file.errors(name):
            if dataset.is_virtual or dataset.external or len(dataset.shape or ()) != 1:
                raise FileError(f"{file.path}: {name} has its rows elsewhere, or none. Write one row per step.")
            self.num_rows = int(dataset.shape[0])
            self.is_text = h5py.check_string_dtype(dataset.dtype) is not None
            file.declare(name, self.num_rows * dataset.dtype.itemsize)

    def read(self, row: int) -> bytes:
        """Return one row; a text as UTF-8.

        Raises:
            FileError: It cannot be read, or is too long.
        """
        with self._file.errors(self.name):
            found = self._dataset[row]
            content = found.encode() if isinstance(found, str) else bytes(found)
        if len(content) > MAX_ROW_BYTES:
            raise FileError(f"{self._file.path}: {self.name} has a row of {len(content):,} bytes. {DAMAGED}")
        return content
