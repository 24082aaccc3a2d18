"""The folder of memory-mapped columns (`data.columns`) as one format among the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldline.data import columns
from worldline.data.block import EpisodeBlock
from worldline.data.column_writer import write_columns
from worldline.data.formats.recording import Recording
from worldline.data.rows import RowEncoder
from worldline.data.store import EpisodeStore, is_obs, read_episode
from worldline.episode import DataSpec, unnamed_obs


def detect(path: Path) -> bool:
    """Tell whether this is such a folder."""
    return columns.is_columns(path)


def read(path: Path, *, max_bytes: int | None = None) -> Recording:
    """Open a folder; its sizes need no limit, because they are those of its files.

    Raises:
        FileError: It is missing, damaged or hostile.
    """
    return ColumnRecording(columns.ColumnStore(path))


class ColumnRecording(Recording):
    """An open folder of columns."""

    def __init__(self, store: columns.ColumnStore) -> None:
        self.path, self._store = store.path, store
        self.spec = store.spec
        self.num_episodes, self.num_steps = store.num_episodes, store.num_steps
        self.obs_dtype = unnamed_obs({name: column.dtype for name, column in store.columns.items() if is_obs(name)})

    def blocks(self) -> Iterator[EpisodeBlock]:
        """Return the episodes, one by one."""
        for index, meta in enumerate(self._store.meta):
            yield EpisodeBlock.of(read_episode(self._store, index, meta))

    def close(self) -> None:
        """Let the files go."""
        del self._store


def write(path: Path, store: EpisodeStore, spec: DataSpec, *, meta: Sequence[Mapping[str, Any]]) -> None:
    """Write all episodes of a store, whole or not at all.

    Raises:
        FileError: The folder is there already, or cannot be written.
        DataError: `meta` is not JSON.
    """
    dtypes = unnamed_obs({name: column.dtype for name, column in store.columns.items() if is_obs(name)})
    blocks = (EpisodeBlock.of(read_episode(store, index, about)) for index, about in enumerate(meta))
    write_columns(path, RowEncoder(spec.obs_shape, spec.action_dim, dtypes, spec.action_sizes), blocks)
