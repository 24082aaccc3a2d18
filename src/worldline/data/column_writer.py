"""Writing folders of columns, block by block and in constant memory, whole or not at all; see `data.columns`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from worldline.data.block import EpisodeBlock
from worldline.data.columns import EPISODES, FIRST, KIND, MANIFEST, META, STEPS, TRUNCATED, VERSION
from worldline.data.formats.recording import max_meta_bytes
from worldline.data.rows import RowEncoder
from worldline.data.store import write_flags, write_rows
from worldline.episode import Array
from worldline.errors import DataError, FileError, WorldlineError
from worldline.files import change, new_folder, remove, sha256

_HEADER_BYTES = 192  # room for any shape, so that the number of rows can be written last


class ColumnWriter:
    """Columns that are being written into a folder, block by block; see `write_columns`."""

    def __init__(self, folder: Path, encoder: RowEncoder) -> None:
        self._folder = folder
        self._encoder = encoder
        self._files = {META: _File(folder / META, header_bytes=0)}
        self._index = np.zeros((64, 3), dtype=np.int64)
        self._num_episodes = self._num_rows = self._meta_bytes = 0
        self._has_meta = False

    def append(self, block: EpisodeBlock) -> None:
        """Write the episodes of a block.

        Raises:
            DataError: They do not fit those before.
        """
        columns, closing = self._encoder.encode(block)
        layout = self._encoder.layout
        for name in layout.keys() - self._files.keys():
            self._files[name] = _File(self._folder / f"{name}.npy", header_bytes=_HEADER_BYTES)
        steps = np.diff(block.ends, prepend=0)
        self._note(steps, block)
        rows_before = block.ends - steps + np.arange(len(steps))
        for name, (shape, dtype) in layout.items():
            if len(steps) == 1 and name != "flags":  # as it is: of long episodes with images a copy is large
                self._files[name].append(_bytes(columns[name]))
                self._files[name].append(_bytes(closing[name] if name in closing else np.zeros(shape, dtype)))
                continue
            rows = np.empty((int(block.ends[-1]) + len(steps), *shape), dtype=dtype)
            for index, (first, count, end) in enumerate(zip(rows_before, steps, block.ends, strict=True)):
                piece = rows[first : first + count + 1]
                if name == "flags":
                    ended, known = bool(block.terminated[index]), bool(block.has_final_obs[index])
                    write_flags(piece, terminated=ended, has_final_obs=known)
                else:
                    write_rows(piece, columns[name][end - count : end], closing[name][index] if name in closing else 0)
            self._files[name].append(_bytes(rows))

    def _note(self, steps: Array, block: EpisodeBlock) -> None:
        """Enter episodes into the index, and write their meta."""
        end = self._num_episodes + len(steps)
        if end > len(self._index):
            self._index = np.concatenate([self._index, np.zeros((end, 3), dtype=np.int64)])
        rows = self._index[self._num_episodes : end]
        rows[:, FIRST] = self._num_rows + np.cumsum(steps + 1) - (steps + 1)
        rows[:, STEPS], rows[:, TRUNCATED] = steps, block.truncated
        self._num_episodes = end
        self._num_rows += int(steps.sum()) + len(steps)
        for meta in block.meta:
            self._has_meta |= bool(meta)
            try:
                line = json.dumps(dict(meta), allow_nan=False).encode() + b"\n"
            except (TypeError, ValueError) as error:
                raise DataError(f"The meta of an episode is not JSON: {error}. Keep to plain values.") from error
            self._meta_bytes += len(line)
            self._files[META].append(line)
        if self._meta_bytes > max_meta_bytes(self._num_episodes):
            raise DataError(f"The meta of the episodes takes {self._meta_bytes:,} bytes. Keep it to a few words each.")

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def finish(self) -> None:
        """Write the headers, the index and the manifest.

        Raises:
            DataError: There are no episodes.
        """
        if self._num_episodes == 0:
            raise DataError("There are no episodes to write. Give at least one.")
        meta = self._files.pop(META)
        meta.finish()
        digests = {META: meta.digest()} if self._has_meta else {}
        if not self._has_meta:
            remove(self._folder / META)
        layout = self._encoder.layout
        for name, file in self._files.items():
            shape, dtype = layout[name]
            file.finish(_header((self._num_rows, *shape), dtype))
            digests[f"{name}.npy"] = file.digest()
        index = self._index[: self._num_episodes]
        episodes = _File(self._folder / EPISODES, header_bytes=_HEADER_BYTES)
        episodes.append(np.ascontiguousarray(index).tobytes())
        episodes.finish(_header(index.shape, index.dtype))
        digests[EPISODES] = episodes.digest()
        spec = self._encoder.spec
        assert spec is not None
        described = {
            "kind": KIND,
            "version": VERSION,
            "num_episodes": self._num_episodes,
            "num_steps": int(index[:, STEPS].sum()),
            "num_rows": self._num_rows,
            "action_sizes": spec.action_sizes,
            "columns": {name: {"shape": shape, "dtype": dtype.str} for name, (shape, dtype) in layout.items()},
            "sha256": digests,
        }
        manifest = _File(self._folder / MANIFEST, header_bytes=0)
        manifest.append(json.dumps(described, indent=1).encode())
        manifest.finish()


def write_columns(path: str | os.PathLike[str], encoder: RowEncoder, blocks: Iterable[EpisodeBlock]) -> None:
    """Write all episodes of `blocks` into a folder of columns, whole or not at all.

    Raises:
        FileError: The folder exists, or cannot be written.
        DataError: The episodes do not fit together, or there are none.
    """
    try:
        with new_folder(Path(path)) as folder, contextlib.closing(ColumnWriter(folder, encoder)) as writer:
            for block in blocks:
                writer.append(block)
                del block  # before the next one is read
            writer.finish()
    except WorldlineError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}. Choose another name or folder.") from error


class _File:
    """A file to which bytes are appended, after a header that is known at the end."""

    def __init__(self, path: Path, *, header_bytes: int) -> None:
        self._path = path
        self._stream: IO[bytes] = path.open("xb")
        self._header_bytes = header_bytes
        change(self._stream.write, bytes(header_bytes))

    def append(self, data: bytes | memoryview) -> None:
        change(self._stream.write, data)

    def finish(self, header: bytes = b"") -> None:
        assert len(header) == self._header_bytes
        self._stream.seek(0)
        change(self._stream.write, header)
        self._stream.close()

    def digest(self) -> str:
        return sha256(self._path)

    def close(self) -> None:
        self._stream.close()


def _bytes(rows: Array) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    room = _HEADER_BYTES - 10
    assert len(text) < room
    return b"\x93NUMPY\1\0" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"
