"""Tables in Parquet, read with pyarrow some thousand rows at a time; what it raises becomes a `FileError`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.formats.recording import DAMAGED, MAX_ROW_BYTES
from worldline.episode import Array
from worldline.errors import DataError, FileError, WorldlineError, missing_package, shown
from worldline.files import regular_size

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 4096  # decoded at once


def open_table(path: Path) -> Any:
    """Open a table and read its footer; within `errors_of`.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package("pyarrow", "lerobot", "Reading LeRobot data sets") from error
    regular_size(path)
    return parquet.ParquetFile(path, thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20)


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises while it reads a file into a `FileError`."""
    try:
        yield
    except WorldlineError:
        raise
    except (OSError, ValueError, TypeError, KeyError, OverflowError, NotImplementedError) as error:
        raise FileError(f"{path} cannot be read ({shown(str(error))}). {DAMAGED}") from error


def batches(path: Path, columns: Sequence[str], *, num_rows: int = _BATCH_ROWS) -> Iterator[dict[str, pa.Array]]:
    """Return columns of a table, at most `num_rows` at a time.

    Raises:
        FileError: It is damaged.
    """
    with errors_of(path):
        found = open_table(path).iter_batches(num_rows, columns=list(columns))
    while True:
        with errors_of(path):
            batch = next(found, None)
            if batch is None:
                return
            if batch.num_rows == 0:
                continue
            rows = {key: batch.column(key) for key in columns}
        yield rows


def numbers(path: Path, key: str, column: pa.Array) -> Array:
    """Return a column as `[n]` numbers, or as `[n, D]` where every row is a list.

    Raises:
        DataError: It holds something else, or rows without a value or of different lengths.
        FileError: It is damaged.
    """
    import pyarrow as pa

    if column.null_count:
        raise DataError(f"{path}: {key} has rows without a value. Leave the column or those episodes out.")
    shape: list[int] = [len(column)]
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    with errors_of(path):
        while any(check(column.type) for check in is_list):
            values = column.flatten()
            width, rest = divmod(len(values), max(1, math.prod(shape)))
            lengths = None if pa.types.is_fixed_size_list(column.type) else np.diff(column.offsets.to_numpy())
            if rest or (lengths is not None and (lengths != width).any()) or values.null_count:
                raise DataError(f"{path}: {key} has rows of different lengths. Expected the same shape in every row.")
            shape.append(width)
            column = values
        found = column.to_numpy(zero_copy_only=False)
    if found.dtype.kind not in "biuf" or math.prod(shape[1:]) * found.dtype.itemsize > MAX_ROW_BYTES:
        raise DataError(f"{path}: {key} holds {shown(str(column.type))}. Expected numbers; leave it out.")
    return np.asarray(found).reshape(shape)
